"""`llmos plan`: whether a model fits an accelerator, by the very function that the operator plans with.

The command only makes the values that the operator would read: from the cluster, or from a config.json on disk. What
has no influence on memory (is the model fetched, does a node have that accelerator) is set aside, so that the answer
comes before anything exists.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from llmos.api import (
    Accelerator,
    AcceleratorClass,
    AcceleratorClassSpec,
    AcceleratorClassStatus,
    Condition,
    Engine,
    InferencePool,
    InferencePoolSpec,
    LLMModel,
    LLMModelSpec,
    LLMModelStatus,
    LocalReference,
    Metadata,
    ModelArchitecture,
    ModelSource,
    Parallelism,
    PoolPlan,
    Reason,
    ResolvedModel,
)
from llmos.api.architecture import UnsupportedArchitectureError
from llmos.api.architecture_config import parse_architecture
from llmos.api.names import CONDITION_READY, CPU_CLASS
from llmos.cli.accelerators import MEMORY_MIB
from llmos.client import Client, ConnectionFailedError, InvalidError, NotFoundError
from llmos.client.readiness import build_not_ready
from llmos_operator.planning.layout import plan_layout
from llmos_operator.planning.quantities import parse_quantity_bytes

GIB: Final = 2**30
COUNT_PER_NODE: Final = 8
"""Of classes that only their memory is known of, as an AcceleratorClass has it by default."""
_LARGEST_CONFIG_BYTES: Final = 16 * 2**20
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class Wish:
    """What the user wants to know."""

    model: str
    accelerator: str | None = None
    memory: str | None = None
    count: int = 1
    context_length: int | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    engine_args: tuple[tuple[str, bool | str], ...] = ()
    weights_gib: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The answer: a plan, or the reason why there is none."""

    wish: Wish
    resolved: ResolvedModel
    accelerator: str
    memory_gib: float | None
    """Of one accelerator; None on the processor."""
    plan: PoolPlan | None
    reason: str
    message: str

    @property
    def fits(self) -> bool:
        """Whether there is a plan."""
        return self.plan is not None

    def as_json(self) -> dict[str, Any]:
        """The answer for programs."""
        return {
            "fits": self.fits,
            "model": self.wish.model,
            "architecture": self.resolved.architecture,
            "parameters": self.resolved.parameters,
            "accelerator": self.accelerator,
            "acceleratorMemoryGib": self.memory_gib,
            "count": self.wish.count,
            "reason": self.reason,
            "message": self.message,
            "plan": self.plan.to_manifest() if self.plan else None,
        }


def is_path(model: str) -> bool:
    """Whether MODEL means a file or folder rather than an LLMModel, whose name holds no slash."""
    return "/" in model or model.endswith(".json") or model in (".", "..") or Path(model).is_dir()


def answer(wish: Wish, connect: Callable[[], Client]) -> Verdict:
    """Plan. `connect` is called only where something of the cluster is needed.

    Raises:
        LlmosError: the model or the class cannot be found or read.
    """
    resolved = read_config(Path(wish.model)) if is_path(wish.model) else read_model(connect(), wish.model)
    if wish.weights_gib is not None:
        resolved = resolved.model_copy(update={"weights_bytes": int(wish.weights_gib * GIB)})
    accelerator = find_accelerator(wish, connect)
    layout = plan_layout(build_pool(wish), build_model(wish, resolved), accelerator)
    name = accelerator.metadata.name if accelerator else CPU_CLASS
    memory_gib = parse_quantity_bytes(accelerator.spec.memory) / GIB if accelerator else None
    if layout.refusal is not None:
        return Verdict(wish, resolved, name, memory_gib, None, layout.refusal.reason.value, layout.refusal.message)
    message = layout.plan.message if layout.plan else ""
    return Verdict(wish, resolved, name, memory_gib, layout.plan, Reason.Fits.value, message)


def read_model(client: Client, name: str) -> ResolvedModel:
    """Facts of an LLMModel in the cluster."""
    model = client.models.get(name)
    if model.status.resolved is None:
        raise build_not_ready(model)
    return model.status.resolved


def read_config(path: Path) -> ResolvedModel:
    """Facts of a model on disk: its config.json, and the size of the weights where they lie beside it."""
    file = path / "config.json" if path.is_dir() else path
    try:
        if file.stat().st_size > _LARGEST_CONFIG_BYTES:
            raise InvalidError(f"{file} is too large to be a config.json.", "Name the model's config.json.")
        config = json.loads(file.read_text())
        architecture = parse_architecture(config)
    except FileNotFoundError:
        raise NotFoundError(
            f"There is no {file}.", "Name a model's folder, its config.json, or an LLMModel of the cluster."
        ) from None
    except (UnsupportedArchitectureError, ValueError, AttributeError, OSError) as error:
        raise InvalidError(f"{file} cannot be used: {error}", "Name the config.json of a language model.") from error
    return build_resolved(architecture, sum(each.stat().st_size for each in file.parent.glob("*.safetensors")))


def build_resolved(architecture: ModelArchitecture, weights_bytes: int) -> ResolvedModel:
    """What the inspect step would have found; 0 bytes lets the planner estimate the weights from the shape."""
    return ResolvedModel(
        digest="",
        architecture=architecture.name,
        parameters=architecture.parameters,
        layers=architecture.layers,
        kv_heads=architecture.key_value_heads,
        head_dim=architecture.head_dim,
        vocabulary=architecture.vocabulary_size,
        max_context=architecture.max_context_tokens,
        weights_bytes=weights_bytes,
        dtype=architecture.dtype,
        quantization=architecture.quantization,
        config=architecture,
    )


def find_accelerator(wish: Wish, connect: Callable[[], Client]) -> AcceleratorClass | None:
    """The class to plan for: --memory, the cluster's, or a well-known one; None for the processor."""
    name = wish.accelerator or "custom"
    if name == CPU_CLASS:
        return None
    if wish.memory:
        return build_accelerator(name, wish.memory)
    if is_path(wish.model) and name in MEMORY_MIB:
        return build_accelerator(name, f"{MEMORY_MIB[name]}Mi")
    try:
        found = connect().accelerators.get(name)
    except NotFoundError as error:
        if name in MEMORY_MIB:
            return build_accelerator(name, f"{MEMORY_MIB[name]}Mi")
        raise NotFoundError(error.cause, _class_remedy()) from error
    except ConnectionFailedError as error:
        if not is_path(wish.model):
            raise
        cause = f"The accelerator {name} is not known, and no cluster answers that might know it."
        raise NotFoundError(cause, _class_remedy()) from error
    return build_accelerator(name, found.spec.memory, found.spec.count_per_node)


def _class_remedy() -> str:
    return (
        "Choose one of kubectl get acceleratorclasses, give its memory with --memory 80Gi, or use a well-known one: "
        f"{', '.join(MEMORY_MIB)}, {CPU_CLASS}."
    )


def build_accelerator(name: str, memory: str, count_per_node: int = COUNT_PER_NODE) -> AcceleratorClass:
    """A class that says nothing about nodes."""
    try:
        spec = AcceleratorClassSpec(memory=memory, count_per_node=count_per_node)
    except ValidationError as error:
        raise InvalidError(f"{memory!r} is not an amount of memory.", "Write it like 80Gi or 24576Mi.") from error
    return AcceleratorClass(metadata=Metadata(name=name), spec=spec, status=AcceleratorClassStatus())


def build_pool(wish: Wish) -> InferencePool:
    """The pool that would be planned."""
    class_name = wish.accelerator or "custom"
    return InferencePool(
        metadata=Metadata(name="plan", namespace="plan"),
        spec=InferencePoolSpec(
            model_ref=LocalReference(name="plan"),
            engine=Engine(args=dict(wish.engine_args)),
            accelerator=Accelerator(class_name=class_name, count=wish.count),
            parallelism=Parallelism(tensor=wish.tensor_parallel_size, pipeline=wish.pipeline_parallel_size),
            context_length=wish.context_length,
        ),
    )


def build_model(wish: Wish, resolved: ResolvedModel) -> LLMModel:
    """The model as it would be when it is ready."""
    ready = Condition(type=CONDITION_READY, status="True", reason=Reason.Available, last_transition_time=_EPOCH)
    return LLMModel(
        metadata=Metadata(name="plan", namespace="plan"),
        spec=LLMModelSpec(source=ModelSource(uri="https://plan")),
        status=LLMModelStatus(resolved=resolved, conditions=(ready,)),
    )
