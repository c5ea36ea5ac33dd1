"""Every reason a condition can carry: what it means, what to do, and how LLMOS goes on.

One table serves the operator (conditions, Events, back-off), the workers (termination messages) and the documentation
(docs/reference/conditions.md is generated from it), so that the three never disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal


class Reason(StrEnum):
    """Machine-readable words in `condition.reason` and in termination messages."""

    # LLMModel: going well.
    Inspecting = "Inspecting"
    Resolved = "Resolved"
    Fetching = "Fetching"
    Stored = "Stored"
    FetchedByReplica = "FetchedByReplica"
    Available = "Available"
    # LLMModel: going wrong.
    InvalidSource = "InvalidSource"
    SourceNotFound = "SourceNotFound"
    AccessDenied = "AccessDenied"
    RateLimited = "RateLimited"
    SourceUnavailable = "SourceUnavailable"
    CertificateNotTrusted = "CertificateNotTrusted"
    DiskFull = "DiskFull"
    ChecksumMismatch = "ChecksumMismatch"
    UnsafeFormat = "UnsafeFormat"
    UnknownArchitecture = "UnknownArchitecture"
    ConversionFailed = "ConversionFailed"
    FetchFailed = "FetchFailed"
    SecretNotFound = "SecretNotFound"
    ClaimNotBound = "ClaimNotBound"
    InUse = "InUse"
    Deleting = "Deleting"
    ObjectsLeft = "ObjectsLeft"
    # InferencePool: going well.
    Fits = "Fits"
    Ready = "Ready"
    ScaledToZero = "ScaledToZero"
    Starting = "Starting"
    Scaling = "Scaling"
    RollingOut = "RollingOut"
    Draining = "Draining"
    Complete = "Complete"
    # InferencePool: going wrong.
    InvalidSpec = "InvalidSpec"
    ModelNotFound = "ModelNotFound"
    ModelNotReady = "ModelNotReady"
    AcceleratorClassNotFound = "AcceleratorClassNotFound"
    NoNodeHasAccelerator = "NoNodeHasAccelerator"
    DoesNotFit = "DoesNotFit"
    ContextTooLong = "ContextTooLong"
    Unschedulable = "Unschedulable"
    ImagePullFailed = "ImagePullFailed"
    BadEngineArgument = "BadEngineArgument"
    ModelFilesMissing = "ModelFilesMissing"
    OutOfMemory = "OutOfMemory"
    EngineCrashed = "EngineCrashed"
    EngineHung = "EngineHung"
    GangBroken = "GangBroken"
    EngineStartTimeout = "EngineStartTimeout"
    ReadinessNeverReached = "ReadinessNeverReached"
    ForbiddenByPolicy = "ForbiddenByPolicy"
    ReplicaFailed = "ReplicaFailed"
    # InferencePool: adapters.
    AdaptersLoaded = "AdaptersLoaded"
    AdaptersLoading = "AdaptersLoading"
    AdapterTooLarge = "AdapterTooLarge"
    AdapterDoesNotFit = "AdapterDoesNotFit"
    TooManyAdapters = "TooManyAdapters"
    AdapterLoadFailed = "AdapterLoadFailed"
    AdapterKeyUnreadable = "AdapterKeyUnreadable"
    # FineTuneJob: going well.
    Preparing = "Preparing"
    Prepared = "Prepared"
    Training = "Training"
    Trained = "Trained"
    Evaluating = "Evaluating"
    GatesPassed = "GatesPassed"
    Registered = "Registered"
    Suspended = "Suspended"
    CanaryRunning = "CanaryRunning"
    CanaryUndecided = "CanaryUndecided"
    Promoted = "Promoted"
    # FineTuneJob: going wrong.
    DatasetInvalid = "DatasetInvalid"
    PersonalDataFound = "PersonalDataFound"
    ExamplesTooLong = "ExamplesTooLong"
    NothingToLearn = "NothingToLearn"
    PreparationFailed = "PreparationFailed"
    Preempted = "Preempted"
    NodeLost = "NodeLost"
    TrainingStalled = "TrainingStalled"
    PeerLost = "PeerLost"
    LossNotFinite = "LossNotFinite"
    CheckpointMismatch = "CheckpointMismatch"
    BaseModelChanged = "BaseModelChanged"
    TeacherChanged = "TeacherChanged"
    TeacherMismatch = "TeacherMismatch"
    TrainingFailed = "TrainingFailed"
    RetriesExhausted = "RetriesExhausted"
    GateFailed = "GateFailed"
    OutputNameTaken = "OutputNameTaken"
    CanaryRegressed = "CanaryRegressed"
    NoTrialSucceeded = "NoTrialSucceeded"
    # AcceleratorClass.
    NodesFound = "NodesFound"
    # Tenant.
    NamespacesOwned = "NamespacesOwned"
    NamespaceTaken = "NamespaceTaken"
    GuaranteesHold = "GuaranteesHold"
    Overcommitted = "Overcommitted"
    NamespaceNotFound = "NamespaceNotFound"
    Isolated = "Isolated"
    NotIsolated = "NotIsolated"
    NotLookedYet = "NotLookedYet"
    PoliciesSettling = "PoliciesSettling"
    QuotaCounted = "QuotaCounted"
    QuotaNotCounted = "QuotaNotCounted"
    Offboarding = "Offboarding"
    # Quota, said on the object that asks for accelerators.
    Admitted = "Admitted"
    WaitsForRoom = "WaitsForRoom"
    WaitsForReclaim = "WaitsForReclaim"
    QuotaExceeded = "QuotaExceeded"
    NoTenant = "NoTenant"
    TenantClosed = "TenantClosed"
    NotBoundInTime = "NotBoundInTime"
    # Where Kueue admits instead.
    KueueDecides = "KueueDecides"
    WaitsForKueue = "WaitsForKueue"
    KueueNotInstalled = "KueueNotInstalled"
    QueueNotFound = "QueueNotFound"
    QueueInactive = "QueueInactive"
    NotManagedByKueue = "NotManagedByKueue"


Retry = Literal["none", "back-off", "on-change"]
"""How LLMOS goes on: nothing to retry; with growing pauses; only when the object or what it refers to changes."""


@dataclass(frozen=True)
class ReasonInfo:
    """One row of the table.

    `kinds` are the kinds whose conditions carry the reason, `condition` the type that says it first.
    """

    kinds: tuple[str, ...]
    condition: str
    problem: bool
    cause: str
    remedy: str = ""
    retry: Retry = "none"


_MODEL: Final = ("LLMModel",)
_POOL: Final = ("InferencePool",)
_BOTH: Final = ("LLMModel", "InferencePool")
_TENANT: Final = ("Tenant",)
_JOB: Final = ("FineTuneJob",)
_TENANT_AND_POOL: Final = ("Tenant", "InferencePool")
_MODEL_AND_JOB: Final = ("LLMModel", "FineTuneJob")
_POOL_AND_JOB: Final = ("InferencePool", "FineTuneJob")
_ALL_OF_PODS: Final = ("LLMModel", "InferencePool", "FineTuneJob")


def _good(kinds: tuple[str, ...], condition: str, cause: str) -> ReasonInfo:
    return ReasonInfo(kinds, condition, problem=False, cause=cause)


def _bad(kinds: tuple[str, ...], condition: str, cause: str, remedy: str, retry: Retry) -> ReasonInfo:
    return ReasonInfo(kinds, condition, problem=True, cause=cause, remedy=remedy, retry=retry)


REASONS: Final[dict[Reason, ReasonInfo]] = {
    Reason.Inspecting: _good(_MODEL, "Resolved", "A short CPU pod reads the model's configuration."),
    Reason.Resolved: _good(_MODEL, "Resolved", "The model's facts are known and stand in status.resolved."),
    Reason.Fetching: _good(_MODEL, "Stored", "The files are being fetched into the claim."),
    Reason.Stored: _good(_MODEL, "Stored", "The files lie complete and verified in the claim."),
    Reason.FetchedByReplica: _good(
        _MODEL, "Stored", "Storage is ephemeral: each replica fetches the files for itself."
    ),
    Reason.Available: _good((*_BOTH, "Tenant"), "Ready", "The object may be used."),
    Reason.InvalidSource: _bad(
        _MODEL_AND_JOB, "Resolved", "The source URI cannot be understood.", "Correct spec.source.uri.", "on-change"
    ),
    Reason.SourceNotFound: _bad(
        _ALL_OF_PODS,
        "Resolved",
        "The source answered that there is no such model, revision or file.",
        "Correct spec.source.uri; a private model may also look like this without credentials (spec.source.secretRef).",
        "back-off",
    ),
    Reason.AccessDenied: _bad(
        _ALL_OF_PODS,
        "Resolved",
        "The source refused access (401 or 403): the model is private or gated.",
        "Accept the model's terms at the source and name a Secret with a valid token in spec.source.secretRef.",
        "back-off",
    ),
    Reason.RateLimited: _bad(
        _ALL_OF_PODS,
        "Resolved",
        "The source limits the rate of requests (429).",
        "LLMOS tries again with growing pauses; a token in spec.source.secretRef usually raises the limit.",
        "back-off",
    ),
    Reason.SourceUnavailable: _bad(
        _ALL_OF_PODS,
        "Resolved",
        "The source cannot be reached or answers with server errors.",
        "Check the network and proxy of the cluster; LLMOS tries again with growing pauses.",
        "back-off",
    ),
    Reason.CertificateNotTrusted: _bad(
        _ALL_OF_PODS,
        "Resolved",
        "The source's TLS certificate is self-signed, of an unknown authority, expired, or for another name.",
        "If the authority is your own, put its certificate and all others to trust into the key ca.crt of the "
        "ConfigMap that the chart's fetch.caBundleConfigMap names, in the model's namespace; if not, mend the source.",
        "back-off",
    ),
    Reason.DiskFull: _bad(
        _ALL_OF_PODS,
        "Stored",
        "The storage is too small for the model's files.",
        "Raise spec.storage.size to what the message says.",
        "on-change",
    ),
    Reason.ChecksumMismatch: _bad(
        _ALL_OF_PODS,
        "Stored",
        "A file's sha256 differs from the one that the source gave.",
        "The file was thrown away and is fetched again; if it stays so, the source or a proxy on the way is broken.",
        "back-off",
    ),
    Reason.UnsafeFormat: _bad(
        _MODEL,
        "Resolved",
        "The model has only pickle files, which can run any code when loaded.",
        "Use a revision with safetensors or GGUF files, or convert it in a place you trust.",
        "on-change",
    ),
    Reason.UnknownArchitecture: _bad(
        _ALL_OF_PODS,
        "Resolved",
        "The engine or the planner does not know this architecture, or it needs code of the model's own.",
        "Use another model or a newer engine image; if the code was reviewed, set spec.trustRemoteCode.revision.",
        "on-change",
    ),
    Reason.ConversionFailed: _bad(
        _BOTH,
        "Stored",
        "The GGUF file could not be converted.",
        "Use a safetensors version of the model, or another quantization.",
        "on-change",
    ),
    Reason.FetchFailed: _bad(
        _ALL_OF_PODS,
        "Stored",
        "Fetching or inspecting ended for a reason that has no name of its own.",
        "Read the message and the log of the pod that it names; LLMOS tries again with growing pauses.",
        "back-off",
    ),
    Reason.SecretNotFound: _bad(
        _ALL_OF_PODS,
        "Resolved",
        "The Secret that spec.source.secretRef names does not exist.",
        "Create it in the model's namespace, for example with: "
        "kubectl create secret generic NAME --from-literal=HF_TOKEN=...",
        "back-off",
    ),
    Reason.ClaimNotBound: _bad(
        _ALL_OF_PODS,
        "Stored",
        "The PersistentVolumeClaim finds no volume.",
        "Check spec.storage.storageClassName and that the cluster has a provisioner for it (kubectl get storageclass).",
        "back-off",
    ),
    Reason.InUse: _bad(
        _MODEL,
        "Ready",
        "The model was deleted, but InferencePools or FineTuneJobs that are not over still use it.",
        "Delete the pools and jobs that the message names, point the pools at another model, or wait until the jobs "
        "are over; then the model goes by itself.",
        "on-change",
    ),
    Reason.Deleting: _good(_MODEL_AND_JOB, "Ready", "It is being deleted."),
    Reason.ObjectsLeft: _bad(
        _JOB,
        "Ready",
        "The job was deleted, and not all that it put into its object store could be removed.",
        "Remove it there yourself, for example with aws s3 rm --recursive URI; a FineTuneJob of the same name would "
        "go on from it.",
        "none",
    ),
    Reason.Fits: _good(_POOL, "Planned", "The model fits the accelerators; the numbers stand in status.plan."),
    Reason.Ready: _good(_POOL, "Ready", "All desired replicas answer."),
    Reason.ScaledToZero: _good(_POOL, "Ready", "No replicas are asked for."),
    Reason.Starting: _good(_POOL_AND_JOB, "Available", "Replicas are starting."),
    Reason.Scaling: _good(_POOL, "Progressing", "Replicas are being added or removed."),
    Reason.RollingOut: _good(_POOL, "Progressing", "Replicas of a new revision replace the old ones."),
    Reason.Draining: _good(_POOL, "Progressing", "Replicas finish their requests before they go."),
    Reason.Complete: _good(_POOL, "Progressing", "Nothing is left to do."),
    Reason.InvalidSpec: _bad(
        (*_ALL_OF_PODS, "Tenant", "AcceleratorClass"),
        "Ready",
        "The object holds a value that the operator cannot use.",
        "Correct the field that the message names.",
        "on-change",
    ),
    Reason.ModelNotFound: _bad(
        _POOL_AND_JOB,
        "Planned",
        "The LLMModel does not exist.",
        "Create it, or correct spec.modelRef.name.",
        "on-change",
    ),
    Reason.ModelNotReady: _bad(
        _POOL_AND_JOB,
        "Planned",
        "The LLMModel is not ready yet.",
        "Look at the model: kubectl describe llmmodel NAME.",
        "on-change",
    ),
    Reason.AcceleratorClassNotFound: _bad(
        _POOL_AND_JOB,
        "Planned",
        "The AcceleratorClass does not exist.",
        "Choose one of kubectl get acceleratorclasses, or cpu.",
        "on-change",
    ),
    Reason.NoNodeHasAccelerator: _bad(
        ("InferencePool", "AcceleratorClass"),
        "Planned",
        "No node offers this accelerator in that number.",
        "Choose another class or count, add such a node, or check that the device plugin runs on it.",
        "on-change",
    ),
    Reason.DoesNotFit: _bad(
        _POOL_AND_JOB,
        "Planned",
        "The model does not fit the memory of the accelerators.",
        "Do what the message says: more accelerators, a shorter context, or a quantized model.",
        "on-change",
    ),
    Reason.ContextTooLong: _bad(
        _POOL,
        "Planned",
        "The context asked for is longer than the model's.",
        "Lower spec.contextLength to what the message says.",
        "on-change",
    ),
    Reason.Unschedulable: _bad(
        _ALL_OF_PODS,
        "Available",
        "The scheduler finds no node with enough free resources.",
        "Free accelerators, lower replicas, or add nodes; the replica starts by itself when there is room.",
        "back-off",
    ),
    Reason.ImagePullFailed: _bad(
        _ALL_OF_PODS,
        "Available",
        "The container image cannot be pulled.",
        "Check the image's name and the pull secrets.",
        "back-off",
    ),
    Reason.BadEngineArgument: _bad(
        _POOL,
        "Available",
        "The engine refused an argument.",
        "Correct spec.engine.args; the engine's own words stand in the message.",
        "on-change",
    ),
    Reason.ModelFilesMissing: _bad(
        _POOL,
        "Available",
        "The engine did not find the model's files, or could not read them.",
        "Delete and re-create the LLMModel so that the files are fetched again.",
        "back-off",
    ),
    Reason.OutOfMemory: _bad(
        _POOL_AND_JOB,
        "Available",
        "The engine ran out of memory.",
        "Lower spec.contextLength or max-num-seqs, add accelerators, or use a quantized model.",
        "back-off",
    ),
    Reason.EngineCrashed: _bad(
        _POOL,
        "Available",
        "The engine ended by itself; its last lines stand in the message.",
        "Read the lines; kubectl logs POD -c engine shows all of them until the next attempt replaces the pod.",
        "back-off",
    ),
    Reason.EngineHung: _bad(
        _POOL,
        "Available",
        "The engine stopped answering; its pod is ended and replaced.",
        "If it happens again, look at the log of the failed pod and at the engine's metrics before that time.",
        "back-off",
    ),
    Reason.GangBroken: _bad(
        _POOL,
        "Available",
        "A replica of several pods lost one of them, and ends and starts as a whole.",
        "Look at the pod that ended first and at its node: evicted, deleted, or cut off from the others. In a closed "
        "namespace its pods must be allowed to reach each other.",
        "back-off",
    ),
    Reason.EngineStartTimeout: _bad(
        _POOL,
        "Available",
        "The engine did not come up in time.",
        "Look at the engine's log; slow storage or a very large model may need a longer start time-out.",
        "back-off",
    ),
    Reason.ReadinessNeverReached: _bad(
        _POOL,
        "Available",
        "The engine runs, but its first generation did not succeed in time.",
        "Look at the engine's log; the message holds the last answer.",
        "back-off",
    ),
    Reason.ForbiddenByPolicy: _bad(
        _ALL_OF_PODS,
        "Available",
        "The API server refused a child object: an admission policy, a quota or Pod Security forbids it.",
        "The message names the policy; change it, or the namespace.",
        "back-off",
    ),
    Reason.ReplicaFailed: _bad(
        _POOL,
        "Available",
        "A replica's pod failed for a reason that has no name of its own.",
        "Read the message; kubectl describe pod shows more.",
        "back-off",
    ),
    Reason.NodesFound: _good(("AcceleratorClass",), "Ready", "At least one node has this accelerator."),
    Reason.NamespacesOwned: _good(_TENANT, "NamespacesOwned", "All namespaces of the tenant are its own."),
    Reason.NamespaceTaken: _bad(
        _TENANT,
        "NamespacesOwned",
        "A namespace belongs to an older Tenant already; it stays with that one.",
        "Remove the namespace that the message names from one of the two Tenants.",
        "on-change",
    ),
    Reason.GuaranteesHold: _good(
        _TENANT, "Guaranteed", "The cluster has at least as many accelerators as are guaranteed."
    ),
    Reason.Overcommitted: _bad(
        _TENANT,
        "Guaranteed",
        "More accelerators of a class are guaranteed to tenants than the cluster has: no guarantee of that class can "
        "be relied on.",
        "Lower the guarantees to what the message says, or add nodes.",
        "on-change",
    ),
    Reason.NamespaceNotFound: _bad(
        _TENANT,
        "NamespacesOwned",
        "A namespace of the tenant does not exist.",
        "Create it: kubectl create namespace NAME; or remove it from spec.namespaces.",
        "on-change",
    ),
    Reason.Isolated: _good(
        _TENANT_AND_POOL, "IsolationReady", "Every item of the isolation checklist was looked at and found in order."
    ),
    Reason.NotIsolated: _bad(
        _TENANT_AND_POOL,
        "IsolationReady",
        "An item of the isolation checklist is not in order.",
        "Each line of the message that begins with PROBLEM names the remedy; llmos doctor prints all of them.",
        "back-off",
    ),
    Reason.NotLookedYet: _good(
        _POOL, "IsolationReady", "The operator has not looked at the tenant's namespaces since it started."
    ),
    Reason.PoliciesSettling: _good(
        _TENANT_AND_POOL,
        "IsolationReady",
        "A port is open that NetworkPolicies close which are so new that they need not be enforced yet; the operator "
        "looks again soon.",
    ),
    Reason.QuotaCounted: _good(
        _TENANT, "QuotaCounted", "Kubernetes counts everything that the ResourceQuotas of the tenant bound."
    ),
    Reason.QuotaNotCounted: _bad(
        _TENANT,
        "QuotaCounted",
        "Kubernetes has not counted yet what a ResourceQuota of the tenant bounds.",
        "Wait, for 6 minutes after an installation of new kinds: kube-controller-manager finds them within 30 s and "
        "counts again every 5 minutes. If it lasts, see that kube-controller-manager runs, and what its log says of "
        "quota monitors: one kind that cannot be listed, also of others, stops all counting.",
        "back-off",
    ),
    Reason.Offboarding: _bad(
        _TENANT,
        "Ready",
        "The Tenant was deleted, but not everything of it is gone.",
        "Delete what the message names, or wait for it; then the Tenant goes by itself.",
        "back-off",
    ),
    Reason.Admitted: _good(_POOL_AND_JOB, "Admitted", "All replicas that were asked for hold their accelerators."),
    Reason.WaitsForRoom: _bad(
        _POOL_AND_JOB,
        "Admitted",
        "The tenant may have the accelerators, but no nodes have room for them now.",
        "The message says who holds them and what would help; the replica starts by itself when there is room.",
        "back-off",
    ),
    Reason.WaitsForReclaim: _good(
        _POOL_AND_JOB, "Admitted", "Others give back what they borrowed: they drain or save their work first."
    ),
    Reason.QuotaExceeded: _bad(
        _POOL_AND_JOB,
        "Admitted",
        "The tenant holds all the accelerators that it may have now.",
        "Lower replicas, raise the Tenant's quota, or wait until others leave theirs idle.",
        "back-off",
    ),
    Reason.NoTenant: _bad(
        _POOL_AND_JOB,
        "Admitted",
        "The namespace belongs to no Tenant, and namespaces without one get no accelerators here.",
        "Ask an administrator to add the namespace to a Tenant's spec.namespaces.",
        "on-change",
    ),
    Reason.TenantClosed: _bad(
        _POOL_AND_JOB,
        "Admitted",
        "The namespace's Tenant is being deleted, or cannot be read: nothing more is admitted in its namespaces.",
        "Do what the message says about the Tenant.",
        "on-change",
    ),
    Reason.NotBoundInTime: _bad(
        _POOL_AND_JOB,
        "Admitted",
        "The pods of a replica did not all find their nodes in time; the replica was withdrawn as a whole.",
        "Look at the events of its pods for what the scheduler missed; LLMOS tries again with growing pauses.",
        "back-off",
    ),
    Reason.KueueDecides: _good(
        _TENANT,
        "Guaranteed",
        "Kueue admits the tenant's replicas: quota, cohort and weight of this Tenant have no effect, and nothing is "
        "reclaimed for it.",
    ),
    Reason.WaitsForKueue: _bad(
        _POOL_AND_JOB,
        "Admitted",
        "Kueue has not admitted the replica.",
        "kubectl describe workloads shows more; the replica starts by itself when Kueue admits it.",
        "back-off",
    ),
    Reason.KueueNotInstalled: _bad(
        (*_TENANT_AND_POOL, "FineTuneJob"),
        "Admitted",
        "This installation leaves admission to Kueue, and the cluster has no Kueue: there is no kind LocalQueue. "
        "Nothing is released meanwhile.",
        "Install Kueue, or set quota.admission: llmos in the chart.",
        "back-off",
    ),
    Reason.QueueNotFound: _bad(
        _POOL_AND_JOB,
        "Admitted",
        "There is no LocalQueue of that name in the pool's namespace.",
        "Create it, or name another one: the label kueue.x-k8s.io/queue-name of the pool, spec.kueue.queueName of the "
        "Tenant, or quota.kueue.queueName in the chart.",
        "back-off",
    ),
    Reason.QueueInactive: _bad(
        _POOL_AND_JOB,
        "Admitted",
        "The LocalQueue takes nothing now.",
        "Look at it and at its ClusterQueue: kubectl describe localqueue NAME, kubectl describe clusterqueue.",
        "back-off",
    ),
    Reason.NotManagedByKueue: _bad(
        _POOL_AND_JOB,
        "Admitted",
        "Kueue's webhook did not take the pods of the replica over, so nobody will lift their gate.",
        "Have Kueue's configuration enable the integration pod and its managedJobsNamespaceSelector select the "
        "namespace; then delete the pods that wait, and LLMOS makes them anew.",
        "back-off",
    ),
    Reason.AdaptersLoaded: _good(_POOL, "AdaptersReady", "Every ready replica serves every adapter."),
    Reason.AdaptersLoading: _good(_POOL, "AdaptersReady", "Replicas fetch and load adapters; the message names them."),
    Reason.AdapterTooLarge: _bad(
        _POOL,
        "AdaptersReady",
        "An adapter's rank is above the pool's spec.adapters.maxRank.",
        "Raise spec.adapters.maxRank (new replicas start with it), or train an adapter of a smaller rank.",
        "on-change",
    ),
    Reason.AdapterDoesNotFit: _bad(
        _POOL,
        "AdaptersReady",
        "An LLMModel is no adapter, it is one of another base model or of another state of it, or it has an output "
        "layer of its own.",
        "Attach only adapters whose spec.adapter.baseModelRef is the pool's modelRef, and no classifiers.",
        "on-change",
    ),
    Reason.TooManyAdapters: _bad(
        _POOL,
        "AdaptersReady",
        "More adapters are attached than spec.adapters.maxLoaded; the youngest ones are not loaded.",
        "Raise spec.adapters.maxLoaded (new replicas start with it), or detach some.",
        "on-change",
    ),
    Reason.AdapterLoadFailed: _bad(
        _POOL,
        "AdaptersReady",
        "A replica could not fetch or load an adapter; the message holds its words. The others go on.",
        "Do what the message says.",
        "back-off",
    ),
    Reason.AdapterKeyUnreadable: _bad(
        _POOL,
        "AdaptersReady",
        "The operator cannot read its key for adapters. Replicas that run go on with the adapters that they have; "
        "until then no new ones are made, and nothing is loaded or unloaded.",
        "Grant the operator's account get, list and create on Secrets in its own namespace; or, if the Secret "
        "llmos-adapter-key there was changed, delete it: a new one is made, and pools with adapters roll out once.",
        "back-off",
    ),
    Reason.Preparing: _good(_JOB, "DatasetReady", "A CPU pod checks, cleans and splits the dataset."),
    Reason.Prepared: _good(_JOB, "DatasetReady", "The dataset is ready; status.datasetReport says what was found."),
    Reason.Training: _good(_JOB, "Trained", "The model is being trained; status.progress says how far it is."),
    Reason.Trained: _good(_JOB, "Trained", "Training has ended and its result is stored."),
    Reason.Evaluating: _good(_JOB, "Evaluated", "Base and result are being compared."),
    Reason.GatesPassed: _good(_JOB, "Evaluated", "All gates hold; status.evaluation has the numbers."),
    Reason.Registered: _good(_JOB, "Registered", "The result is an LLMModel."),
    Reason.Suspended: _good(
        _JOB, "Trained", "spec.suspend is true: the job holds no accelerators, and goes on from its last checkpoint."
    ),
    Reason.DatasetInvalid: _bad(
        _JOB,
        "DatasetReady",
        "More lines than dataset.validate.maxErrorRate allows cannot be learned from; the message names the first.",
        "Correct the lines, or the format and the names of its columns, and make a new FineTuneJob.",
        "none",
    ),
    Reason.PersonalDataFound: _bad(
        _JOB,
        "DatasetReady",
        "There is personal data in the dataset, and dataset.clean.pii is fail.",
        "Remove it from the named lines, or set dataset.clean.pii to redact or drop, and make a new FineTuneJob.",
        "none",
    ),
    Reason.ExamplesTooLong: _bad(
        _JOB,
        "DatasetReady",
        "Examples are longer than hyperparameters.maxLength, and dataset.validate.overlong is fail.",
        "Raise maxLength, shorten the named lines, or set overlong to truncate or drop, and make a new FineTuneJob.",
        "none",
    ),
    Reason.NothingToLearn: _bad(
        _JOB,
        "DatasetReady",
        "Nothing is left to learn, or to hold out, after cleaning.",
        "Look at status.datasetReport for what was left out, and why; then make a new FineTuneJob.",
        "none",
    ),
    Reason.PreparationFailed: _bad(
        _JOB,
        "DatasetReady",
        "The pod that prepares the dataset failed; the message holds its last words.",
        "Do what the message says. LLMOS tries again with growing pauses.",
        "back-off",
    ),
    Reason.Preempted: _good(
        _JOB,
        "Trained",
        "The accelerators were wanted back. The job goes on from its last checkpoint when there is room again. "
        "status.attempts counts it, and it spends no retries.",
    ),
    Reason.NodeLost: _bad(
        _JOB,
        "Trained",
        "A pod of the attempt was lost with its node, evicted or deleted. The job goes on from its last checkpoint.",
        "Look at the node if it happens often.",
        "back-off",
    ),
    Reason.TrainingStalled: _bad(
        _JOB,
        "Trained",
        "The attempt gave no sign of progress for retries.stalledAfterMinutes. Its pod is ended, and the job goes on "
        "from its last checkpoint.",
        "If it happens again, look at the node that the pods of the attempts had in common, its accelerators and the "
        "storage of the claim. If a single micro-batch or file really takes so long, raise "
        "retries.stalledAfterMinutes.",
        "back-off",
    ),
    Reason.PeerLost: _bad(
        _JOB,
        "Trained",
        "Of the pods that train together one ended, or no longer answers, so all of them end. The job goes on from its "
        "last checkpoint.",
        "Look at the pod that ended first, and at its node. In a closed namespace pods of one gang must be allowed to "
        "reach each other.",
        "back-off",
    ),
    Reason.LossNotFinite: _bad(
        _JOB,
        "Trained",
        "The loss became infinite or no number.",
        "Lower hyperparameters.learningRate or maxGradNorm, look at the data of that step, and make a new FineTuneJob.",
        "none",
    ),
    Reason.CheckpointMismatch: _bad(
        _JOB,
        "Trained",
        "The checkpoints in the claim were made with another dataset, base model or settings.",
        "Delete the FineTuneJob and its claim, and make it anew.",
        "none",
    ),
    Reason.BaseModelChanged: _bad(
        _JOB,
        "Trained",
        "The base model's digest is no longer the one that the job began with.",
        "Put the former source back into the LLMModel, or make a new FineTuneJob.",
        "on-change",
    ),
    Reason.TeacherChanged: _bad(
        _JOB,
        "Trained",
        "The teacher's digest is no longer the one that the job began with.",
        "Put the former source back into the teacher's LLMModel, or make a new FineTuneJob.",
        "on-change",
    ),
    Reason.TeacherMismatch: _bad(
        _JOB,
        "Trained",
        "The teacher has another vocabulary than the base model, so what it says of tokens means other ones.",
        "Choose a teacher of the base model's family, with the same tokenizer, in a new FineTuneJob.",
        "on-change",
    ),
    Reason.TrainingFailed: _bad(
        _JOB,
        "Trained",
        "Training ended with an error; the message holds its last words.",
        "Do what the message says, and make a new FineTuneJob; or set retries.user.",
        "none",
    ),
    Reason.RetriesExhausted: _bad(
        _JOB,
        "Trained",
        "The attempts failed more often than retries allows.",
        "Look at the last cause in the message; raise retries to go on from the last checkpoint.",
        "on-change",
    ),
    Reason.GateFailed: _bad(
        _JOB,
        "Evaluated",
        "The result is not good enough for a gate; nothing was registered, and pools are untouched.",
        "Look at status.evaluation; train longer or on other data, or change evaluate.gates.",
        "on-change",
    ),
    Reason.OutputNameTaken: _bad(
        _JOB,
        "Registered",
        "There is an LLMModel of that name which another job or a person made.",
        "Delete or rename that LLMModel; the job then registers its result.",
        "on-change",
    ),
    Reason.CanaryRunning: _good(
        _JOB, "Promoted", "The result takes a share of another adapter's requests; status.canaries compares the two."
    ),
    Reason.CanaryUndecided: _good(
        _JOB,
        "Promoted",
        "promoteAfter has passed, but the result can neither be promoted nor rolled back; the message says what is "
        "missing. weight 100 in output.attachTo promotes it by hand, without the entry it is detached.",
    ),
    Reason.Promoted: _good(_JOB, "Promoted", "The result answers all requests for the name that it replaces."),
    Reason.CanaryRegressed: _bad(
        _JOB,
        "Promoted",
        "The result was a canary and did not stay: it was clearly worse than the adapter that it was to replace, a "
        "gate did not hold any more, or its LLMModel was deleted. That adapter answers all requests, as before.",
        "status.canaries has the numbers. Find out why (the LLMModel of the result can be attached to a pool for "
        "trials), and make a new FineTuneJob.",
        "none",
    ),
    Reason.NoTrialSucceeded: _bad(
        _JOB,
        "Trained",
        "The search is over, and no trial came to a result.",
        "status.trials says why each ended. Raise search.budgetAcceleratorHours, search.maxTrials or retries to go on.",
        "on-change",
    ),
}
