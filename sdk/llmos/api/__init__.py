"""The resource models of LLMOS: the vocabulary that operator, gateway, workers, client and users share.

Imports pydantic only, so that every program can afford it. The CRDs are generated from these models.
"""

from llmos.api.acceleratorclass import AcceleratorClass, AcceleratorClassSpec, AcceleratorClassStatus
from llmos.api.architecture import ModelArchitecture
from llmos.api.inferencepool import (
    Accelerator,
    Drain,
    Engine,
    Hold,
    InferencePool,
    InferencePoolSpec,
    InferencePoolStatus,
    Parallelism,
    PoolPlan,
    Rollout,
    Routing,
)
from llmos.api.llmmodel import (
    FetchProgress,
    LLMModel,
    LLMModelSpec,
    LLMModelStatus,
    ModelSource,
    ModelStorage,
    ResolvedModel,
    TrustRemoteCode,
)
from llmos.api.meta import ApiModel, Condition, EnvVar, LocalReference, Metadata, Toleration
from llmos.api.reasons import REASONS, Reason, ReasonInfo
from llmos.api.scaling import (
    LatencyObjective,
    ReplicaCapacity,
    Scaling,
    ScalingDemand,
    ScalingInputs,
    ScalingStatus,
    ScalingTarget,
    ScheduleWindow,
)

KINDS = (LLMModel, InferencePool, AcceleratorClass)

__all__ = [
    "KINDS",
    "REASONS",
    "Accelerator",
    "AcceleratorClass",
    "AcceleratorClassSpec",
    "AcceleratorClassStatus",
    "ApiModel",
    "Condition",
    "Drain",
    "Engine",
    "EnvVar",
    "FetchProgress",
    "Hold",
    "InferencePool",
    "InferencePoolSpec",
    "InferencePoolStatus",
    "LLMModel",
    "LLMModelSpec",
    "LLMModelStatus",
    "LatencyObjective",
    "LocalReference",
    "Metadata",
    "ModelArchitecture",
    "ModelSource",
    "ModelStorage",
    "Parallelism",
    "PoolPlan",
    "Reason",
    "ReasonInfo",
    "ReplicaCapacity",
    "ResolvedModel",
    "Rollout",
    "Routing",
    "Scaling",
    "ScalingDemand",
    "ScalingInputs",
    "ScalingStatus",
    "ScalingTarget",
    "ScheduleWindow",
    "Toleration",
    "TrustRemoteCode",
]
