"""How much memory training takes, from the model's numbers: refused before admission if it cannot fit. Pure.

With P parameters, A parameters of the adapter, L layers, hidden size h, T = maxLength tokens computed at once, V tokens
of vocabulary and c bytes for a number (2 in bfloat16, 4 in float32):

    weights       lora: c P                full: 4 P, and c P of casts if c < 4
                  qlora: 0.516 Q + c (P - Q) + c W
    states        lora, qlora: 12 A + 4 A  full: 12 P
    activations   c T h L + c T (8 h + 4 w + 2 q + 4 k) + (c + 8) T V
    needs         1.1 x (weights + states + activations + gathered) + runtime + exchange

- 12 bytes of states are the gradient and the two moments of Adam in float32, 4 more the weight itself: the 16 bytes
  for each trained parameter of Rajbhandari et al., "ZeRO" (2020), section 3.1.
- Of qlora the linear layers, Q parameters, are held in NF4 with double quantization: 4 + 8/64 + 32/(64 x 256) = 4.127
  bits, 0.516 bytes, for each (Dettmers et al., 2023, section 3). W is the largest matrix, which is put into the
  compute type to be used. Routed experts count as what is not quantized, since they are no linear layers.
- Activations are those of gradient checkpointing (Chen et al., 2016; Korthikanti et al., 2022, section 5): the input of
  each layer is kept, and what one layer computes is there once. w is the width of a token's MLPs (the experts that it
  visits), q = heads x head size, k = key-value heads x head size. It is the least that training can do with; a trainer
  with more memory keeps more and is faster.
- The logits of T tokens are there in c bytes, again in float32 for the loss, and with their gradient.
- Of several accelerators each holds all of this: the work of a step is dealt out, not the model. What they exchange
  takes half a GiB more: NCCL's buffers, and the gradients that are summed at once.
- Of n over which the model is sharded each holds one n-th of weights and states (ZeRO, stage 3). Beside it stands what
  is put together: R, the parameters outside of layers, while a micro-batch is computed, and two layers of l = (P - R) /
  L parameters, one that is computed and the next on its way. With full tuning the gradients of these are whole until
  they are added, once in place and once on their way, and the casts are of no more than what is computed:

      gathered    lora: c (R + 2 l)    full: 4 (R + 2 l) + 4 max(2 R, R + 2 l), and c max(R, l) of casts if c < 4

  `trainer.sharding: auto` shards where the whole does not fit. The processes of a pod then take turns to read the
  model, and what a checkpoint is written from comes in its place.
- Tasks dpo and embedding compute both of a pair at once: T = 2 maxLength. Beside a result that is no adapter dpo holds
  the base model a second time, as the reference: c P more weights.
- Task distill holds the teacher, in the compute type and without gradients: c Pt, and what one of its layers computes,
  c T (8 ht + 4 wt + 2 qt + 4 kt), where that is more than all activations of the student, which come after it. What it
  says of T tokens stays until both are compared, softened, in float32: (c + 16) T V. It is never sharded.
- Classifiers and embeddings have no logits of a vocabulary: V = 0. Heads, labels x h, are too small to count.
- A tenth is what allocators lose to fragments. The runtime is 1.5 GiB: the device's context and workspaces, or the
  interpreter with torch.

Beside k accelerators the container holds, in the memory of the host, with b bytes for a weight while it is read (4 with
full tuning, else c) and A learned parameters (P with full tuning):

    each of k its own    k x 2 GiB + k max(b P, c Pt, 8 A) + 12 A
    sharded              k x 2 GiB + max(b P, k c Pt, 12 A)

- A process reads the model whole, in the type that it trains with and whatever type the file has, before it moves it
  onto its accelerator (`train/model.py`), and all k do so at the same time. What they share is the page cache of the
  files, which takes room from nobody. Of model and teacher one is read after the other.
- When training goes on, each process copies both moments of its optimizer out of the checkpoint before they go to the
  accelerator, 8 bytes for each learned parameter; of a sharded model only its share, and that straight to there.
- While a checkpoint is written the pod of rank 0 also holds a copy of what is learned and of its two moments: 12 bytes
  for each (`train/snapshot.py`). It comes on top, for the C library keeps part of what was freed before.
- Merging an adapter (output.kind merged) holds the base model in float32, when training is over: 1.1 x 4 P + runtime,
  where that is more than training itself takes there.
- On the processor (class `cpu`) there is one memory: needs + 12 A.

An adapter on a layer i -> o adds rank (i + o) parameters (Hu et al., 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from llmos.api import AcceleratorClass, FineTuneJobSpec, LLMModel, Lora, Reason
from llmos.api.architecture import ModelArchitecture
from llmos_operator.planning.engine_profile import GIB
from llmos_operator.planning.failures import Failure, build_failure
from llmos_operator.planning.memory_estimate import Accelerators
from llmos_operator.planning.quantities import parse_quantity_bytes

RUNTIME_GIB: Final = 1.5
OVERHEAD: Final = 1.1
EXCHANGE_GIB: Final = 0.5
STATE_BYTES: Final = 12
FLOAT32_BYTES: Final = 4
_MOMENTS_BYTES: Final = 8
NF4_BYTES: Final = (4 + 8 / 64 + 32 / (64 * 256)) / 8
PAIRED: Final = frozenset({"dpo", "embedding"})
SPEECHLESS: Final = frozenset({"token-classification", "sequence-classification", "embedding"})
_STEP_GIB: Final = 0.25
_HOST_GIB: Final = 2.0
"""Memory of the host beside an accelerator: the interpreter with torch, and batches on their way."""


@dataclass(frozen=True)
class TrainingMemory:
    """What one accelerator needs, or the container on the processor, in GiB."""

    weights_gib: float
    states_gib: float
    activations_gib: float
    exchange_gib: float = 0.0
    teacher_gib: float = 0.0
    gathered_gib: float = 0.0

    @property
    def needs_gib(self) -> float:
        """All of it."""
        tensors_gib = self.weights_gib + self.states_gib + self.activations_gib + self.teacher_gib + self.gathered_gib
        return OVERHEAD * tensors_gib + RUNTIME_GIB + self.exchange_gib


def compute_training_memory(
    spec: FineTuneJobSpec,
    architecture: ModelArchitecture,
    teacher: ModelArchitecture | None = None,
    *,
    is_sharded: bool = False,
) -> TrainingMemory:
    """Return what training takes at least, of each accelerator; `teacher` is that of task distill."""
    number = _number_bytes(spec)
    parameters = architecture.parameters
    weights: float
    if spec.method.tuning == "full":
        casts = number if number < FLOAT32_BYTES else 0
        weights, states = (FLOAT32_BYTES + casts) * parameters, STATE_BYTES * parameters
    else:
        adapter = count_adapter_parameters(architecture, spec.method.lora)
        weights, states = number * parameters, (STATE_BYTES + FLOAT32_BYTES) * adapter
    if spec.method.tuning == "qlora":
        quantized = _count_quantized(architecture)
        weights += (NF4_BYTES - number) * quantized + number * architecture.hidden_size * _mlp_width(architecture)
    task = spec.method.task
    if task == "dpo" and not spec.makes_adapter:
        weights += number * parameters
    length = min(spec.trainer.hyperparameters.max_length, architecture.max_context_tokens)
    vocabulary = 0 if task in SPEECHLESS else architecture.vocabulary_size
    activations = _activation_bytes(architecture, 2 * length if task in PAIRED else length, number, vocabulary)
    exchange_gib = EXCHANGE_GIB if _count_ranks(spec) > 1 else 0.0
    teacher_gib = 0.0
    if teacher is not None:
        activations = max(activations, _layer_bytes(teacher, length, number))
        activations += (number + 4 * FLOAT32_BYTES) * length * vocabulary
        teacher_gib = number * teacher.parameters / GIB
    whole = TrainingMemory(weights / GIB, states / GIB, activations / GIB, exchange_gib, teacher_gib)
    if not is_sharded:
        return whole
    ranks, gathered = _count_ranks(spec), _gathered_bytes(spec, architecture)
    casts = number * parameters if spec.method.tuning == "full" and number < FLOAT32_BYTES else 0
    return replace(
        whole,
        weights_gib=(weights - casts) / ranks / GIB,
        states_gib=states / ranks / GIB,
        gathered_gib=gathered / GIB,
    )


def should_shard(
    spec: FineTuneJobSpec, model: LLMModel, accelerator: AcceleratorClass | None, teacher: LLMModel | None = None
) -> bool:
    """Return whether the model is cut over the accelerators: where that is asked for, or one cannot hold it whole."""
    if _count_ranks(spec) == 1 or spec.trainer.sharding == "none" or spec.method.tuning == "qlora":
        return False
    if spec.trainer.sharding == "full":
        return True
    architecture, taught_by = _architecture_of(model), _architecture_of(teacher)
    if architecture is None or accelerator is None:
        return False
    return compute_training_memory(spec, architecture, taught_by).needs_gib > _visible_gib(accelerator)


def count_adapter_parameters(architecture: ModelArchitecture, lora: Lora) -> int:
    """Return the parameters of the adapter's matrices. A module whose shape is not known counts as the widest."""
    shapes = _module_shapes(architecture)
    wanted = lora.target_modules or tuple(shapes)
    widest = max(shapes.values())
    each_layer = sum(lora.rank * shapes.get(name.rpartition(".")[2], widest) for name in wanted)
    return each_layer * architecture.layers


def refuse_memory(
    spec: FineTuneJobSpec, model: LLMModel, accelerator: AcceleratorClass | None, teacher: LLMModel | None = None
) -> Failure | None:
    """Return that training cannot fit the accelerator, with the numbers; None if it can, or runs on the processor."""
    architecture, taught_by = _architecture_of(model), _architecture_of(teacher)
    if architecture is None or (teacher is not None and taught_by is None):
        return build_failure(Reason.UnknownArchitecture, "The inspect step found no architecture facts.")
    if accelerator is None:
        return None
    is_sharded = should_shard(spec, model, accelerator, teacher)
    memory = compute_training_memory(spec, architecture, taught_by, is_sharded=is_sharded)
    has_gib = _visible_gib(accelerator)
    if memory.needs_gib <= has_gib:
        return None
    name, ranks = accelerator.metadata.name, _count_ranks(spec)
    where = f"each of the {ranks} {name} over which the model is sharded" if is_sharded else f"one {name}"
    gathered = f"{memory.gathered_gib:.1f} layers that are put together, " if is_sharded else ""
    detail = (
        f"Training needs {memory.needs_gib:.1f} GiB on {where}, which has {has_gib:.1f}: "
        f"{memory.weights_gib:.1f} weights, {_say_teacher(memory)}{memory.states_gib:.1f} gradients and optimizer, "
        f"{gathered}"
        f"{memory.activations_gib:.1f} activations of {_say_tokens(spec)} tokens. "
        f"{_advise(spec, is_sharded=is_sharded)}"
    )
    return build_failure(Reason.DoesNotFit, detail)


def _say_teacher(memory: TrainingMemory) -> str:
    return f"{memory.teacher_gib:.1f} those of the teacher, " if memory.teacher_gib else ""


def plan_container_memory(
    spec: FineTuneJobSpec, model: LLMModel, accelerator: AcceleratorClass | None, teacher: LLMModel | None = None
) -> str:
    """Return the memory that the training container asks for, as a quantity."""
    if spec.trainer.memory:
        return spec.trainer.memory
    architecture, taught_by = _architecture_of(model), _architecture_of(teacher)
    if architecture is None:
        return "4Gi"
    is_sharded, processes = should_shard(spec, model, accelerator, teacher), spec.trainer.accelerators_per_node
    memory = compute_training_memory(spec, architecture, taught_by, is_sharded=is_sharded)
    copied_gib = STATE_BYTES * _count_learned(spec, architecture) / GIB
    read_gib = _weight_bytes(spec) * architecture.parameters / GIB
    # In the compute type, as the accelerator holds it.
    taught_gib = memory.teacher_gib
    if accelerator is None:
        # One memory holds everything.
        kept_gib = OVERHEAD * taught_gib
        needs_gib = memory.needs_gib + (max(copied_gib, read_gib) if is_sharded else copied_gib)
    elif is_sharded:
        # The ranks of a model that is sharded wait for what the first one merges; others have left.
        kept_gib = (processes - 1) * _HOST_GIB
        needs_gib = processes * _HOST_GIB + max(copied_gib, read_gib, processes * taught_gib)
    else:
        kept_gib = 0.0
        moments_gib = _MOMENTS_BYTES * _count_learned(spec, architecture) / GIB
        needs_gib = processes * (_HOST_GIB + max(read_gib, taught_gib, moments_gib)) + copied_gib
    needs_gib = max(needs_gib, _compute_merge_gib(spec, architecture) + kept_gib)
    return f"{round(math.ceil(needs_gib / _STEP_GIB) * _STEP_GIB * 1024)}Mi"


def _compute_merge_gib(spec: FineTuneJobSpec, architecture: ModelArchitecture) -> float:
    if spec.output.kind != "merged":
        return 0.0
    return OVERHEAD * FLOAT32_BYTES * architecture.parameters / GIB + RUNTIME_GIB


def _count_learned(spec: FineTuneJobSpec, architecture: ModelArchitecture) -> int:
    if spec.method.tuning == "full":
        return architecture.parameters
    return count_adapter_parameters(architecture, spec.method.lora)


def _architecture_of(model: LLMModel | None) -> ModelArchitecture | None:
    return model.status.resolved.config if model is not None and model.status.resolved is not None else None


def _number_bytes(spec: FineTuneJobSpec) -> int:
    on_processor = spec.trainer.accelerator.class_name == "cpu"
    is_wide = spec.trainer.precision == "float32" or (spec.trainer.precision == "auto" and on_processor)
    return FLOAT32_BYTES if is_wide else 2


def _activation_bytes(architecture: ModelArchitecture, tokens: int, number: int, vocabulary: int) -> int:
    kept = number * tokens * architecture.hidden_size * architecture.layers
    logits = (number + 2 * FLOAT32_BYTES) * tokens * vocabulary
    return kept + _layer_bytes(architecture, tokens, number) + logits


def _layer_bytes(architecture: ModelArchitecture, tokens: int, number: int) -> int:
    """Return what one layer computes."""
    hidden = architecture.hidden_size
    queries = architecture.attention_heads * architecture.head_dim
    keys = architecture.key_value_heads * architecture.head_dim
    return number * tokens * (8 * hidden + 4 * _mlp_width(architecture) + 2 * queries + 4 * keys)


def _mlp_width(architecture: ModelArchitecture) -> int:
    experts = architecture.experts_per_token * architecture.expert_intermediate_size
    return max(architecture.intermediate_size, experts) or 4 * architecture.hidden_size


def _module_shapes(architecture: ModelArchitecture) -> dict[str, int]:
    """Return inputs + outputs of the linear layers of one block, by the names that most models give them."""
    hidden = architecture.hidden_size
    queries = architecture.attention_heads * architecture.head_dim
    keys = architecture.key_value_heads * architecture.head_dim
    mlp = hidden + (architecture.intermediate_size or 4 * hidden)
    experts = architecture.experts * (hidden + architecture.expert_intermediate_size)
    wide = max(mlp, experts)
    return {
        "q_proj": hidden + queries,
        "k_proj": hidden + keys,
        "v_proj": hidden + keys,
        "o_proj": hidden + queries,
        "gate_proj": wide,
        "up_proj": wide,
        "down_proj": wide,
    }


def _weight_bytes(spec: FineTuneJobSpec) -> int:
    """Return the bytes of one parameter of the model, as training holds it."""
    return FLOAT32_BYTES if spec.method.tuning == "full" else _number_bytes(spec)


def _gathered_bytes(spec: FineTuneJobSpec, architecture: ModelArchitecture) -> float:
    number, outside = _number_bytes(spec), _count_outside(architecture)
    layer = (architecture.parameters - outside) / architecture.layers
    together = _weight_bytes(spec) * (outside + 2 * layer)
    if spec.method.tuning != "full":
        return together
    casts = number * max(outside, layer) if number < FLOAT32_BYTES else 0
    return together + FLOAT32_BYTES * max(2 * outside, outside + 2 * layer) + casts


def _count_quantized(architecture: ModelArchitecture) -> int:
    """Return the parameters of linear layers."""
    linear = ("attention", "keyValue", "latent", "mlp", "sharedExperts")
    return sum(part.parameters for part in architecture.weights if part.part in linear and part.split != "notLoaded")


def _count_outside(architecture: ModelArchitecture) -> int:
    """Return the parameters that belong to no layer."""
    return sum(part.parameters for part in architecture.weights if part.part in ("embedding", "head"))


def _visible_gib(accelerator: AcceleratorClass) -> float:
    return Accelerators(1, parse_quantity_bytes(accelerator.spec.memory) / GIB).visible_gib


def _count_ranks(spec: FineTuneJobSpec) -> int:
    return spec.trainer.nodes * spec.trainer.accelerators_per_node


def _say_tokens(spec: FineTuneJobSpec) -> str:
    length = spec.trainer.hyperparameters.max_length
    return f"2 x {length}" if spec.method.task in PAIRED else str(length)


def _advise(spec: FineTuneJobSpec, *, is_sharded: bool) -> str:
    ranks, larger = _count_ranks(spec), "choose a class with more memory"
    if spec.method.tuning == "qlora":
        more = f"A model of four bits is not sharded: {larger}"
    elif not is_sharded and ranks > 1:
        more = f"Each of the {ranks} accelerators holds the whole model: set trainer.sharding to auto, or {larger}"
    else:
        more = f"Shard it over more accelerators (trainer.acceleratorsPerNode, trainer.nodes), or {larger}"
    smaller = {"full": "set method.tuning to lora", "lora": "set method.tuning to qlora"}
    return (
        f"{more}. Or make a new FineTuneJob: lower hyperparameters.maxLength, or "
        f"{smaller.get(spec.method.tuning, 'take a smaller model')}."
    )
