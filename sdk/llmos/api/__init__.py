"""The resource models of LLMOS: the vocabulary that operator, gateway, workers, client and users share.

Imports pydantic only, so that every program can afford it. The CRDs are generated from these models.
"""

from llmos.api.acceleratorclass import AcceleratorClass, AcceleratorClassSpec, AcceleratorClassStatus
from llmos.api.architecture import ModelArchitecture
from llmos.api.inferencepool import (
    Accelerator,
    Drain,
    Engine,
    InferencePool,
    InferencePoolSpec,
    InferencePoolStatus,
    Parallelism,
    PoolPlan,
    Rollout,
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
    "InferencePool",
    "InferencePoolSpec",
    "InferencePoolStatus",
    "LLMModel",
    "LLMModelSpec",
    "LLMModelStatus",
    "LocalReference",
    "Metadata",
    "ModelArchitecture",
    "ModelSource",
    "ModelStorage",
    "Parallelism",
    "PoolPlan",
    "Reason",
    "ReasonInfo",
    "ResolvedModel",
    "Rollout",
    "Toleration",
    "TrustRemoteCode",
]
