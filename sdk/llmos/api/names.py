"""Every label, annotation, finalizer, condition type and field manager of LLMOS, in one place.

A name that two programs share (the operator writes it, the gateway or a worker reads it) may be spelt only here.
"""

from __future__ import annotations

from typing import Final

GROUP: Final = "llmos.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "llmos.dev/v1alpha1"
CATEGORY: Final = "llmos"

# Field managers: one for children, one for status, so that server-side apply never takes a field from the other.
FIELD_MANAGER: Final = "llmos-operator"
STATUS_FIELD_MANAGER: Final = "llmos-operator-status"
DISCOVERY_FIELD_MANAGER: Final = "llmos-discovery"
RETIRE_FIELD_MANAGER: Final = "llmos-operator-retire"

# Labels on children.
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "llmos"
LABEL_MODEL: Final = f"{GROUP}/model"
LABEL_POOL: Final = f"{GROUP}/pool"
LABEL_JOB: Final = f"{GROUP}/job"
"""On the pods and the claim of a FineTuneJob, and on the LLMModel that it made: its name."""
LABEL_TRIAL: Final = f"{GROUP}/trial"
"""On the pods of a trial of a search: its number."""
LABEL_REPLICA: Final = f"{GROUP}/replica"
LABEL_RANK: Final = f"{GROUP}/rank"
LABEL_GANG_SIZE: Final = f"{GROUP}/gang-size"
"""On the pods of a replica that has several: how many."""
LABEL_REVISION: Final = f"{GROUP}/revision"
LABEL_COMPONENT: Final = f"{GROUP}/component"
LABEL_SERVING: Final = f"{GROUP}/serving"
LABEL_TENANT: Final = f"{GROUP}/tenant"
"""On a tenant's namespaces and on what the operator makes in them to keep tenants apart."""
LABEL_FETCHES: Final = f"{GROUP}/fetches"
"""On replicas that fetch their model themselves, so that the network lets them."""

# Values of LABEL_COMPONENT.
COMPONENT_REPLICA: Final = "replica"
COMPONENT_INSPECT: Final = "inspect"
COMPONENT_FETCH: Final = "fetch"
COMPONENT_PREPARE: Final = "prepare"
COMPONENT_TRAIN: Final = "train"
COMPONENT_TIDY: Final = "tidy"
COMPONENT_SHARE: Final = "share"
"""The pod and the Service that give the files of an adapter to replicas."""
COMPONENT_ADAPTER_KEY: Final = "adapter-key"
"""The Secret of the operator from which tokens for adapters are made."""
COMPONENT_STORAGE: Final = "storage"
COMPONENT_SERVICE: Final = "service"
COMPONENT_LEADERS: Final = "leaders"
"""The Service that gives the leaders of gangs their names."""
COMPONENT_GATEWAY: Final = "gateway"
COMPONENT_API_KEY: Final = "api-key"
COMPONENT_ISOLATION: Final = "isolation"

# Annotations.
ANNOTATION_DRAIN_STARTED: Final = f"{GROUP}/drain-started"
ANNOTATION_SOURCE_HASH: Final = f"{GROUP}/source-hash"
ANNOTATION_INPUTS: Final = f"{GROUP}/inputs"
ANNOTATION_FAILURE: Final = f"{GROUP}/failure"
ANNOTATION_ATTEMPT: Final = f"{GROUP}/attempt"
ANNOTATION_JUDGED_BY: Final = f"{GROUP}/judged-by"
"""On an LLMModel: the FineTuneJob that decides about its shares, as long as it does."""
ANNOTATION_ACCELERATOR_CLASS: Final = f"{GROUP}/accelerator-class"
"""On the pods of attempts of FineTuneJobs: which AcceleratorClass they are made for."""
ANNOTATION_ACCELERATOR_CLASSES: Final = f"{GROUP}/accelerator-classes"
"""On the same, where several will do: their names, the preferred one first, with commas between them."""
ANNOTATION_QUOTA: Final = f"{GROUP}/quota"
"""On the leader pod of a gang: what the quota ledger decided about it, so that it outlives the operator."""

GATE_QUOTA: Final = f"{GROUP}/quota"
"""The scheduling gate that holds a gang's pods until it is admitted."""

# Kueue's own words, spelt as its pkg/controller/constants and pkg/controller/jobs/pod/constants do.
KUEUE_GATE: Final = "kueue.x-k8s.io/admission"
"""The scheduling gate that Kueue lifts."""
KUEUE_QUEUE: Final = "kueue.x-k8s.io/queue-name"
"""Label: the LocalQueue."""
KUEUE_PRIORITY: Final = "kueue.x-k8s.io/priority-class"
"""Label: a WorkloadPriorityClass."""
KUEUE_MANAGED: Final = "kueue.x-k8s.io/managed"
"""Label that Kueue's webhook puts on the pods that it takes care of."""
KUEUE_GROUP: Final = "kueue.x-k8s.io/pod-group-name"
"""Label: pods of one gang, and the name of its Workload."""
KUEUE_GROUP_SIZE: Final = "kueue.x-k8s.io/pod-group-total-count"
KUEUE_GROUP_RETRIABLE: Final = "kueue.x-k8s.io/retriable-in-group"
KUEUE_JOB_UID: Final = "kueue.x-k8s.io/job-uid"
"""Label on a Workload: the uid of the pod that it stands for."""
KUEUE_STOPPED: Final = "TerminationTarget"
"""Condition of a pod that Kueue is about to delete."""

LABEL_FABRIC_DOMAIN: Final = f"{GROUP}/fabric-domain"
"""On nodes: those with the same value are connected by a fast network."""

FINALIZER_IN_USE: Final = f"{GROUP}/in-use"
FINALIZER_OBJECTS: Final = f"{GROUP}/objects"
FINALIZER_OFFBOARDING: Final = f"{GROUP}/offboarding"

# Condition types. `Ready` is the aggregate that a person reads first.
CONDITION_READY: Final = "Ready"
CONDITION_RESOLVED: Final = "Resolved"
CONDITION_STORED: Final = "Stored"
CONDITION_PLANNED: Final = "Planned"
CONDITION_AVAILABLE: Final = "Available"
CONDITION_PROGRESSING: Final = "Progressing"
CONDITION_NAMESPACES_OWNED: Final = "NamespacesOwned"
CONDITION_GUARANTEED: Final = "Guaranteed"
CONDITION_ADMITTED: Final = "Admitted"
CONDITION_ADAPTERS_READY: Final = "AdaptersReady"
CONDITION_DATASET_READY: Final = "DatasetReady"
CONDITION_TRAINED: Final = "Trained"
CONDITION_EVALUATED: Final = "Evaluated"
CONDITION_REGISTERED: Final = "Registered"
CONDITION_PROMOTED: Final = "Promoted"
CONDITION_ISOLATION_READY: Final = "IsolationReady"
CONDITION_QUOTA_COUNTED: Final = "QuotaCounted"

# Containers and ports of worker pods.
CONTAINER_ENGINE: Final = "engine"
CONTAINER_FETCH: Final = "fetch"
CONTAINER_INSPECT: Final = "inspect"
CONTAINER_SHARE: Final = "share"
CONTAINER_PREPARE: Final = "prepare"
CONTAINER_TRAIN: Final = "train"
CONTAINER_RESTORE: Final = "restore"
"""Brings what an object store has before a job trains;"""
CONTAINER_KEEP: Final = "keep"
"""puts the prepared dataset there."""
CONTAINER_TIDY: Final = "tidy"
ENGINE_PORT: Final = 8000
CONTROL_PORT: Final = 8001
SHARE_PORT: Final = 8002
GANG_PORT: Final = 29500
"""Where the pods of a gang meet: the leader listens."""
GATEWAY_PORT: Final = 8080
GATEWAY_ADMIN_PORT: Final = 8081
"""Of the gateway's health, metrics and load; never exposed to clients."""
MODEL_DIR: Final = "/model"
TEACHER_DIR: Final = "/teacher"
WORK_DIR: Final = "/job"
"""Where the claim of a FineTuneJob is mounted: dataset/, checkpoints/, output/."""
JOB_FILE: Final = "/etc/llmos/job/job.json"
"""The FineTuneJob (metadata.name, metadata.namespace and spec) as its pods read it."""
ADAPTER_DIR: Final = "/adapters"
"""Where a replica keeps the files of its adapters."""
TOKEN_HASH_VARIABLE: Final = "LLMOS_TOKEN_SHA256"  # noqa: S105 - the name of a variable
"""In containers that only the operator, or whom it told, may ask: sha256 of the token that they want to see."""
POD_IP_VARIABLE: Final = "LLMOS_POD_IP"
"""In the engine containers of gangs: the pod's own address."""

# The accelerator class that needs no AcceleratorClass object: the engine runs on the processor.
CPU_CLASS: Final = "cpu"

# What keeps tenants apart, where the chart and the operator must agree: the chart puts its name before each.
ADMISSION_POLICY: Final = "tenant-pods"
"""The ValidatingAdmissionPolicy, and its binding."""
ROLE_TENANT_ADMIN: Final = "tenant-admin"
ROLE_TENANT_USER: Final = "tenant-user"


def tenant_group(tenant: str, role: str) -> str:
    """Return the group of users who have a role (admin or user) in the namespaces of a tenant."""
    return f"llmos:{tenant}:{role}"
