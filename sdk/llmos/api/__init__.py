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
from llmos.api.tenant import (
    AllowedModels,
    ClassQuota,
    ClassUsage,
    Isolation,
    MonthlyUsage,
    PriorityRange,
    Tenant,
    TenantSpec,
    TenantStatus,
    TokenBudget,
    TokenCost,
    TokenWindow,
)

KINDS = (LLMModel, InferencePool, AcceleratorClass, Tenant)

__all__ = [
    "KINDS",
    "REASONS",
    "Accelerator",
    "AcceleratorClass",
    "AcceleratorClassSpec",
    "AcceleratorClassStatus",
    "AllowedModels",
    "ApiModel",
    "ClassQuota",
    "ClassUsage",
    "Condition",
    "Drain",
    "Engine",
    "EnvVar",
    "FetchProgress",
    "Hold",
    "InferencePool",
    "InferencePoolSpec",
    "InferencePoolStatus",
    "Isolation",
    "LLMModel",
    "LLMModelSpec",
    "LLMModelStatus",
    "LatencyObjective",
    "LocalReference",
    "Metadata",
    "ModelArchitecture",
    "ModelSource",
    "ModelStorage",
    "MonthlyUsage",
    "Parallelism",
    "PoolPlan",
    "PriorityRange",
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
    "Tenant",
    "TenantSpec",
    "TenantStatus",
    "TokenBudget",
    "TokenCost",
    "TokenWindow",
    "Toleration",
    "TrustRemoteCode",
]
