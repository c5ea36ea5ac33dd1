"""InferencePool: how a model is served, by how many replicas, on what."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from llmos.api.alternatives import ALTERNATIVES_RULES, MAX_ALTERNATIVES
from llmos.api.meta import (
    POD_NAME_PART,
    ApiModel,
    Conditions,
    EnvVar,
    KindInfo,
    ListMap,
    ListSet,
    LocalReference,
    Metadata,
    Name,
    PrinterColumn,
    Rule,
    Scalar,
    ScaleSubresource,
)
from llmos.api.names import API_VERSION
from llmos.api.scaling import Scaling, ScalingStatus

RESERVED_ENGINE_ARGS = (
    "model",
    "served-model-name",
    "host",
    "port",
    "uds",
    "config",
    "middleware",
    "shutdown-timeout",
    "max-model-len",
    "tensor-parallel-size",
    "pipeline-parallel-size",
    "nnodes",
    "node-rank",
    "master-addr",
    "master-port",
    "headless",
    "trust-remote-code",
    "enable-lora",
    "max-loras",
    "max-cpu-loras",
    "max-lora-rank",
    "lora-modules",
)
"""Arguments that have a field of their own, or that LLMOS must set for drain and safety to work."""

RESERVED_ENGINE_ENV = (
    "VLLM_ALLOW_INSECURE_SERIALIZATION",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_SERVER_DEV_MODE",
)
"""Variables that would let requests change the engine, or run code in it."""

_ARGUMENT_NAME = re.compile(r"[a-z][a-z0-9.-]{0,63}")


def find_argument(name: str, among: Iterable[str]) -> str:
    """Return which of some arguments a name may mean; empty: none.

    vLLM takes names that are cut short, underscores, and parts of a value (`NAME.part`).
    """
    whole = name.lstrip("-").partition(".")[0].replace("_", "-")
    return next((argument for argument in among if whole and argument.startswith(whole)), "")


def _check_argument_names(args: dict[str, Scalar]) -> dict[str, Scalar]:
    for name in args:
        if not _ARGUMENT_NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is no engine argument: write it as on the command line, in lower case, without the leading "
                "dashes, for example max-num-seqs"
            )
        if reserved := find_argument(name, RESERVED_ENGINE_ARGS):
            raise ValueError(
                f"{name} {'' if name == reserved else f'may be read as {reserved}, which '}is set by LLMOS: remove it "
                "(use contextLength, parallelism, or the model's trustRemoteCode)"
            )
    return args


class Engine(ApiModel):
    """The server program of a replica."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!has(self.env) || self.env.all(e, !(e.name in {list(RESERVED_ENGINE_ENV)}))",
            f"{', '.join(RESERVED_ENGINE_ENV)} are set by LLMOS: they would open the engine",
            field_path=".env",
        ),
    )

    name: Literal["vllm", "simulator"] = "vllm"
    """vllm serves the model; simulator answers with invented text in a model of vLLM's timing, without any GPU."""
    image: Annotated[str, Field(max_length=512)] = ""
    """Image of the worker; empty means the one the operator was installed with."""
    # CEL cannot walk a map whose values have several types: pydantic checks the names when the operator reads them.
    args: Annotated[dict[str, Scalar], Field(max_length=64), AfterValidator(_check_argument_names)] = Field(
        default_factory=dict
    )
    """Further arguments of the engine's command line, without the leading dashes. true means a flag without value.
    What LLMOS sets itself is refused, for example model, host, port, max-model-len and tensor-parallel-size."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=64), ListMap(("name",))] = ()
    """Environment variables of the engine."""


class Accelerator(ApiModel):
    """What one replica runs on."""

    rules: ClassVar[tuple[Rule, ...]] = ALTERNATIVES_RULES

    class_name: Annotated[Name, Field(alias="class")]
    """Name of an AcceleratorClass; `cpu` needs none."""
    alternatives: Annotated[tuple[Name, ...], Field(max_length=MAX_ALTERNATIVES), ListSet()] = ()
    """Names of further AcceleratorClasses that will do, in order of preference. The quota admits each replica to the
    first one, `class` before all of these, that the tenant may have and that has room; the layout is planned for each.
    It stays there until it ends. Where no Tenant exists, or Kueue admits, they are not asked for."""
    count: Annotated[int, Field(ge=1, le=256)] = 1
    """Accelerators of one replica. More than the class has on one node (countPerNode) are spread over as few pods as
    will do, the same number in each."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """All classes that will do, the preferred one first."""
        return (self.class_name, *self.alternatives)


class Parallelism(ApiModel):
    """How a replica spreads the model over its accelerators. Empty fields are planned."""

    tensor: Annotated[int, Field(ge=1, le=64)] | None = None
    """Tensor parallel size: parts that each layer is cut into."""
    pipeline: Annotated[int, Field(ge=1, le=64)] | None = None
    """Pipeline parallel size: groups that the layers are divided into."""


class Rollout(ApiModel):
    """How far a change may go above and below the desired number of replicas."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("self.maxSurge > 0 || self.maxUnavailable > 0", "maxSurge and maxUnavailable must not both be 0"),
    )

    max_surge: Annotated[int, Field(ge=0, le=100)] = 1
    """Replicas above the desired number while a change rolls out."""
    max_unavailable: Annotated[int, Field(ge=0, le=100)] = 0
    """Replicas below the desired number while a change rolls out."""


class Drain(ApiModel):
    """What happens to requests in flight when a replica goes away."""

    timeout_seconds: Annotated[int, Field(ge=1, le=86400)] = 120
    """Longest wait for requests in flight; what still runs then is cut."""


class Routing(ApiModel):
    """How the gateway chooses a replica for a request."""

    policy: Literal["auto", "least-load", "round-robin", "prefix"] = "auto"
    """auto weighs the prompt tokens that a replica has in its cache against its load; prefix weighs the cache most."""


class Hold(ApiModel):
    """How the gateway holds requests while no replica can take them: the pool wakes from zero, or all are busy.

    The limits count in each gateway.
    """

    timeout_seconds: Annotated[int, Field(ge=0, le=86400)] = 600
    """Longest wait of one request; 0 refuses at once."""
    max_requests: Annotated[int, Field(ge=0, le=100000)] = 1000
    """Requests that may wait at the same time."""
    max_requests_per_key: Annotated[int, Field(ge=0, le=100000)] = 200
    """Of these, requests of one API key; of one tenant, while replicas are busy."""


class Adapters(ApiModel):
    """LoRA adapters that every replica serves beside its model. They are loaded and unloaded while it runs."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.slots) || self.slots <= self.maxLoaded",
            "more slots than adapters are of no use: lower slots, or raise maxLoaded",
            field_path=".slots",
        ),
    )

    max_loaded: Annotated[int, Field(ge=1, le=64)] = 4
    """Adapters that the pool can hold. A change starts new replicas."""
    slots: Annotated[int, Field(ge=1, le=64)] | None = None
    """Adapters that the accelerator holds at the same time. The others wait in the host's memory: when one of them is
    asked, it takes the slot of the least recently used one. Absent = maxLoaded, so that none ever waits for another
    one's requests. A change starts new replicas."""
    max_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = 16
    """Largest rank of an adapter; memory is set aside for it. A change starts new replicas."""
    models: Annotated[tuple[LocalReference, ...], Field(max_length=64), ListMap(("name",))] = ()
    """LLMModels with spec.adapter to load, beside those that name this pool in their attachTo. Clients call an adapter
    by the name of its LLMModel."""

    @property
    def slot_count(self) -> int:
        """Adapters that the accelerator holds at the same time."""
        return self.slots or self.max_loaded


class InferencePoolSpec(ApiModel):
    """What the user asks for."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.replicas) || has(self.scaling)",
            "say how many: replicas for a fixed number, or scaling for a number that follows the load",
            field_path=".replicas",
        ),
        Rule(
            "!has(self.replicas) || !has(self.scaling) || self.scaling.mode == 'advisory'",
            "replicas and scaling exclude each other, unless scaling.mode is advisory: to set a number by hand, "
            "remove scaling",
            field_path=".replicas",
        ),
        Rule(
            "self.accelerator.class != 'cpu' || self.accelerator.count == 1",
            "accelerator class cpu has count 1: a replica on the processor is one pod",
            field_path=".accelerator.count",
        ),
        Rule(
            "!has(self.parallelism.tensor) || self.parallelism.tensor * "
            "(has(self.parallelism.pipeline) ? self.parallelism.pipeline : 1) <= self.accelerator.count",
            "tensor x pipeline parallel size must not exceed accelerator.count",
            field_path=".parallelism.tensor",
        ),
        Rule(
            "!has(self.parallelism.pipeline) || self.parallelism.pipeline <= self.accelerator.count",
            "pipeline parallel size must not exceed accelerator.count",
            field_path=".parallelism.pipeline",
        ),
    )

    model_ref: LocalReference
    """The LLMModel to serve."""
    adapters: Adapters | None = None
    """LoRA adapters that it serves beside the model. Absent = none can be loaded."""
    engine: Engine = Engine()
    """The server program."""
    accelerator: Accelerator
    """What one replica runs on."""
    parallelism: Parallelism = Parallelism()
    """How a replica spreads the model over its accelerators. Empty = planned."""
    context_length: Annotated[int, Field(ge=16, le=16777216)] | None = None
    """Longest prompt plus answer in tokens. Empty = the longest that the model has and the memory holds."""
    replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Fixed number of replicas."""
    scaling: Scaling | None = None
    """Number of replicas by load, instead of `replicas`."""
    routing: Routing = Routing()
    """How the gateway chooses a replica for a request."""
    hold: Hold = Hold()
    """How the gateway holds requests while no replica can take them."""
    rollout: Rollout = Rollout()
    """How far a change may go above and below the desired number of replicas."""
    drain: Drain = Drain()
    """What happens to requests in flight when a replica goes away."""
    priority_class_name: Name | None = None
    """PriorityClass of the replicas' pods."""


class PoolPlan(ApiModel):
    """How the memory planner laid a replica out, with its numbers (memory in GiB for one accelerator)."""

    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    """Parts that each layer is cut into."""
    pipeline_parallel_size: Annotated[int, Field(ge=1)] = 1
    """Groups that the layers are divided into."""
    pods: Annotated[int, Field(ge=1)] = 1
    """Pods of one replica, with the same number of accelerators each."""
    max_model_len: Annotated[int, Field(ge=1)]
    """Longest prompt plus answer in tokens."""
    gpu_memory_utilization: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the accelerator's memory that the engine may take."""
    weights_gib: Annotated[float, Field(ge=0)] = 0
    """Memory of the weights."""
    kv_cache_gib: Annotated[float, Field(ge=0)] = 0
    """Memory of the KV cache."""
    kv_cache_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens that the KV cache of one replica holds."""
    max_concurrency: Annotated[float, Field(ge=0)] = 0
    """Requests of full context length that fit at once."""
    container_memory_gib: Annotated[float, Field(ge=0)] = 0
    """Memory that the container asks for."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """The plan in words."""


class AdapterStatus(ApiModel):
    """One adapter of a pool."""

    name: Annotated[str, Field(max_length=253)]
    """Name of its LLMModel."""
    digest: Annotated[str, Field(max_length=128)] = ""
    """Which files are to be loaded."""
    replicas: Annotated[tuple[Annotated[str, Field(max_length=253)], ...], Field(max_length=1000)] = ()
    """Pods of the replicas that said that they serve this digest; the gateway asks no others."""
    replaces: Annotated[str, Field(max_length=253)] | None = None
    """Name of another adapter that it answers, too."""
    weight: Annotated[int, Field(ge=0, le=100)] | None = None
    """Per cent of the requests for that name that it answers, after younger ones have had theirs."""
    reason: Annotated[str, Field(max_length=64)] = ""
    """Loaded, Loading, or why it is not loaded."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """The cause and the remedy."""


class PoolClassStatus(ApiModel):
    """Replicas on one accelerator class."""

    class_name: Annotated[str, Field(alias="class", max_length=253)]
    """Name of the AcceleratorClass."""
    replicas: Annotated[int, Field(ge=0)] = 0
    """Replicas that are made for it and are not draining."""
    ready_replicas: Annotated[int, Field(ge=0)] = 0
    """Those of them that answer."""
    accelerators: Annotated[int, Field(ge=0)] = 0
    """Accelerators of it that replicas hold."""
    revision: Annotated[str, Field(max_length=64)] = ""
    """Newest revision on it."""
    plan: PoolPlan | None = None
    """How a replica is laid out on it; absent if it is left out."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Why it is left out, or not asked for."""


class InferencePoolStatus(ApiModel):
    """What is true now."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The generation that this status speaks about."""
    replicas: Annotated[int, Field(ge=0)] = 0
    """Replicas that exist and are not draining."""
    ready_replicas: Annotated[int, Field(ge=0)] = 0
    """Replicas that answer."""
    updated_replicas: Annotated[int, Field(ge=0)] = 0
    """Replicas of the newest revision."""
    draining_replicas: Annotated[int, Field(ge=0)] = 0
    """Replicas that finish their requests and go."""
    desired_replicas: Annotated[int, Field(ge=0)] = 0
    """Replicas that there should be."""
    accelerators: Annotated[int, Field(ge=0)] = 0
    """Accelerators that the replicas hold."""
    selector: Annotated[str, Field(max_length=512)] = ""
    """Label selector of the replicas' pods, for the scale subresource."""
    url: Annotated[str, Field(max_length=512)] = ""
    """Base URL of the OpenAI-compatible API inside the cluster; its name resolves from the first replica on."""
    revision: Annotated[str, Field(max_length=64)] = ""
    """Newest revision: a hash of everything that makes a replica."""
    plan: PoolPlan | None = None
    """How a replica is laid out, on the first class that will do."""
    accelerator_classes: Annotated[tuple[PoolClassStatus, ...], Field(max_length=8), ListMap(("class",))] = ()
    """The classes that the pool names, in its order, if these are several."""
    scaling: ScalingStatus | None = None
    """The autoscaler's last decision, and why."""
    adapters: Annotated[tuple[AdapterStatus, ...], Field(max_length=64), ListMap(("name",))] = ()
    """Which adapters are served, and by which replicas."""
    conditions: Conditions = ()
    """Planned, Available, Progressing and their aggregate Ready; Admitted where there are Tenants."""


class InferencePool(ApiModel):
    """Replicas of an inference engine that serve one model behind one URL."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="InferencePool",
        plural="inferencepools",
        singular="inferencepool",
        short_names=("ipool",),
        scope="Namespaced",
        columns=(
            PrinterColumn("Model", "string", ".spec.modelRef.name", "Model that is served"),
            PrinterColumn("Ready", "integer", ".status.readyReplicas", "Replicas that answer"),
            PrinterColumn("Replicas", "integer", ".status.replicas", "Replicas that exist"),
            PrinterColumn("Desired", "integer", ".status.desiredReplicas", "Replicas that there should be"),
            PrinterColumn(
                "Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why it is or is not ready"
            ),
            PrinterColumn("Bound", "string", ".status.scaling.boundedBy", "What limits the autoscaler", priority=1),
            PrinterColumn("GPUs", "integer", ".status.accelerators", "Accelerators held", priority=1),
            PrinterColumn("URL", "string", ".status.url", "OpenAI-compatible API", priority=1),
            PrinterColumn("Age", "date", ".metadata.creationTimestamp"),
        ),
        scale=ScaleSubresource(".spec.replicas", ".status.replicas", ".status.selector"),
    )
    rules: ClassVar[tuple[Rule, ...]] = (POD_NAME_PART,)

    api_version: Literal["llmos.dev/v1alpha1"] = API_VERSION
    kind: Literal["InferencePool"] = "InferencePool"
    metadata: Metadata
    spec: InferencePoolSpec
    """What the user asks for."""
    status: InferencePoolStatus = InferencePoolStatus()
    """What is true now. While only counts and the words of conditions change, it is written once a second at most."""
