"""FineTuneJob: how a new model is made from one that exists and a dataset, and when it is good enough to be used."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmos.api.alternatives import ALTERNATIVES_RULES, MAX_ALTERNATIVES
from llmos.api.canary import AttachTo
from llmos.api.finetunejob_checkpoint import Checkpointing
from llmos.api.finetunejob_dataset import Dataset
from llmos.api.finetunejob_evaluation import EarlyStopping, Evaluate
from llmos.api.finetunejob_rules import OUTPUT_RULES, TASK_RULES
from llmos.api.finetunejob_status import FineTuneJobStatus
from llmos.api.meta import (
    POD_NAME_PART,
    ApiModel,
    KindInfo,
    ListMap,
    ListSet,
    LocalReference,
    Metadata,
    Name,
    PrinterColumn,
    Quantity,
    Rule,
)
from llmos.api.names import API_VERSION
from llmos.api.search import Search

ModuleName = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")]
"""The name of a module of the model, for example q_proj."""


class Lora(ApiModel):
    """Low-rank adaptation (Hu et al., 2021): two small matrices beside each chosen one, which stays as it is."""

    rank: Annotated[int, Field(ge=1, le=512)] = 16
    """Inner size of the two matrices."""
    alpha: Annotated[int, Field(ge=1, le=4096)] = 32
    """The product of the two matrices is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the adapter's inputs that is left out at random while training."""
    target_modules: Annotated[tuple[ModuleName, ...], Field(max_length=64), ListSet()] = ()
    """Modules that get matrices, for example q_proj. Empty = all linear layers but the output."""


class Distill(ApiModel):
    """Knowledge distillation (Hinton et al., 2015): the next token as a teacher would say it, too."""

    teacher_ref: LocalReference
    """The LLMModel that teaches: a whole model with the vocabulary of the base model, which is the student."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 2.0
    """Both are softened by it while they are compared: higher values teach more of what the teacher finds unlikely."""
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the teacher in the loss; the rest is the tokens of the dataset themselves."""


class Method(ApiModel):
    """What is learned, and which weights change."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(self.task == 'distill') == has(self.distill)",
            "method.distill is for task distill, which needs it: name the teacher in method.distill.teacherRef",
            field_path=".distill",
        ),
    )

    task: Literal["causal-lm", "dpo", "distill", "token-classification", "sequence-classification", "embedding"] = (
        "causal-lm"
    )
    """causal-lm: the next token of texts and conversations. dpo: which of two answers is the better one (direct
    preference optimization, Rafailov et al., 2023), from dataset.format.type preference. distill: the next token, and
    what a larger model thinks of all others, from the same texts as causal-lm. token-classification: the
    label of each word, from tokens-labels. sequence-classification: the label of a text, from text-label. embedding:
    vectors that are near for texts that belong together, from pairs."""
    tuning: Literal["lora", "qlora", "full"] = "lora"
    """lora makes an adapter of a few megabytes. qlora makes the same kind of adapter, and holds the base model in four
    bits meanwhile (NF4, Dettmers et al., 2023): a quarter of the memory, and more time. full changes all weights and
    makes a whole model."""
    lora: Lora = Lora()
    """The shape of the adapter, for tuning lora and qlora."""
    distill: Distill | None = None
    """The teacher, for task distill."""


class Hyperparameters(ApiModel):
    """How the weights move. What is left out is chosen by the method."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 1
    """How often each example is learned."""
    max_steps: Annotated[int, Field(ge=1, le=100000000)] | None = None
    """Optimizer steps at which training ends, instead of epochs."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Highest learning rate. Absent = 2e-4 for lora and qlora, 2e-5 for full; for task dpo 1e-5 and 1e-6."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after its warm-up."""
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.03
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decay of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Length to which a longer gradient is cut."""
    batch_tokens: Annotated[int, Field(ge=16, le=16777216)] = 16384
    """Tokens of one optimizer step over all accelerators; reached by gradient accumulation."""
    max_length: Annotated[int, Field(ge=16, le=1048576)] = 2048
    """Longest example in tokens; also the most that are computed at once on one accelerator. For task dpo it is that of
    each answer with its prompt, for embedding that of each text, and twice as many are computed at once."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 0.05
    """For task embedding: lower values tell apart more what is nearly the same."""
    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """For task dpo: how dear it is to move away from the base model; lower values move further."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] = 42
    """Of the order of the examples, the adapter's first weights and the dropout."""


class TrainerAccelerator(ApiModel):
    """What training runs on."""

    rules: ClassVar[tuple[Rule, ...]] = ALTERNATIVES_RULES

    class_name: Annotated[Name, Field(alias="class")]
    """Name of an AcceleratorClass; `cpu` needs none."""
    alternatives: Annotated[tuple[Name, ...], Field(max_length=MAX_ALTERNATIVES), ListSet()] = ()
    """Names of further AcceleratorClasses that will do, in order of preference. The quota admits each attempt to the
    first one, `class` before all of these, that the tenant may have and that has room; memory is planned for each. It
    stays there until it ends. Where no Tenant exists, or Kueue admits, they are not asked for. A search has none."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """All classes that will do, the preferred one first."""
        return (self.class_name, *self.alternatives)


class Trainer(ApiModel):
    """The pods that train."""

    accelerator: TrainerAccelerator
    """What training runs on."""
    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Pods that train together, each of which computes a part of each step. More than one share the claim, for which
    checkpoint.storage.accessMode has to be ReadWriteMany."""
    accelerators_per_node: Annotated[int, Field(ge=1, le=16)] = 1
    """Accelerators of each, with a process for each of them."""
    sharding: Literal["auto", "none", "full"] = "auto"
    """What each accelerator holds of the model, its gradients and its optimizer. none: all of it. full: its share of
    all accelerators' (FSDP), which takes more exchange and more time, and the memory of less. auto: full where the plan
    finds that one cannot hold it all, else none; none on class `cpu`. It may be changed on a job that has begun."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the numbers that are computed with. auto = bfloat16 on accelerators that have it, else float32."""
    image: Annotated[str, Field(max_length=512)] = ""
    """Image of the worker; empty means the one the operator was installed with."""
    memory: Quantity | None = None
    """Memory that the container asks for. Absent = planned."""
    cpu: Quantity | None = None
    """Processors that the container asks for, for example 8. It computes with as many threads on every node, rounded
    up, for sums that other numbers of threads add differ in their last bits. Absent = asks for 500m on class `cpu`,
    else for 1, so that it also starts on small nodes, and computes with 2 threads."""
    hyperparameters: Hyperparameters = Hyperparameters()
    """How the weights move."""
    priority_class_name: Name | None = None
    """PriorityClass of the pods."""


class Output(ApiModel):
    """What becomes of the result."""

    name: Name
    """Name of the LLMModel that is made, by which the gateway serves an adapter."""
    kind: Literal["adapter", "merged"] | None = None
    """For tuning lora. adapter (if absent): the adapter alone. merged: base model and adapter in one whole model, in
    the base model's type. Tuning full makes a whole model anyway."""
    attach_to: Annotated[tuple[AttachTo, ...], Field(max_length=16), ListMap(("pool",))] = ()
    """Pools of the base model that load the adapter without a restart; each may be a canary. For adapters that answer
    with words only."""


class Retries(ApiModel):
    """How often an attempt is made again."""

    user: Annotated[int, Field(ge=0, le=100)] = 0
    """After errors that lie in the job, such as a loss that is no number."""
    infrastructure: Annotated[int, Field(ge=0, le=10000)] = 20
    """After losses of nodes and pods. Preemptions spend neither."""
    stalled_after_minutes: Annotated[int, Field(ge=1, le=1440)] = 30
    """An attempt that gives no sign of progress for so long hangs: its pod is ended, and it counts as infrastructure.
    Each micro-batch, each batch of an evaluation and whatever is read or written is a sign."""


class FineTuneJobSpec(ApiModel):
    """What the user asks for."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *TASK_RULES,
        *OUTPUT_RULES,
        Rule(
            "!has(self.output.attachTo) || self.output.attachTo.all(each, !has(each.replaces) || "
            "each.replaces != self.output.name)",
            "a result cannot replace itself: give output.name a name of its own, and name in replaces the one that "
            "clients ask for",
            field_path=".output.attachTo",
        ),
        Rule(
            "!has(self.method.distill) || self.method.distill.teacherRef.name != self.baseModelRef.name",
            "a model cannot be its own teacher: baseModelRef is the student, method.distill.teacherRef another model",
            field_path=".method.distill.teacherRef",
        ),
        Rule(
            "!has(self.earlyStopping) || self.dataset.split.evalFraction > 0.0",
            "earlyStopping needs held-out examples: set dataset.split.evalFraction above 0",
            field_path=".earlyStopping",
        ),
        Rule(
            "self.trainer.acceleratorsPerNode == 1 || self.trainer.accelerator.class != 'cpu'",
            "the class cpu has one accelerator on each node: set acceleratorsPerNode to 1, or choose another class",
            field_path=".trainer.acceleratorsPerNode",
        ),
        Rule(
            "self.trainer.nodes == 1 || self.checkpoint.storage.accessMode == 'ReadWriteMany'",
            "several nodes share the claim of the job: set checkpoint.storage.accessMode to ReadWriteMany, with a "
            "StorageClass that can do it (of a job that has begun it cannot be changed: make a new one), or nodes to 1",
            field_path=".trainer.nodes",
        ),
        Rule(
            "self.trainer.nodes == 1 || !has(self.checkpoint.storage.uri) || (has(self.checkpoint.storage.mode) && "
            "self.checkpoint.storage.mode == 'claim')",
            "several nodes share a claim: set checkpoint.storage.mode to claim, beside the uri, or nodes to 1",
            field_path=".trainer.nodes",
        ),
        Rule(
            "self.trainer.sharding != 'full' || self.trainer.nodes > 1 || self.trainer.acceleratorsPerNode > 1",
            "one accelerator has nobody to share the model with: set trainer.sharding to auto, or raise nodes or "
            "acceleratorsPerNode",
            field_path=".trainer.sharding",
        ),
        Rule(
            "self.trainer.sharding != 'full' || self.method.tuning != 'qlora'",
            "a model of four bits is not sharded: leave trainer.sharding out, or set method.tuning to lora",
            field_path=".trainer.sharding",
        ),
        Rule(
            "!has(self.search) || !has(self.trainer.accelerator.alternatives) || "
            "self.trainer.accelerator.alternatives.size() == 0",
            "all trials of a search train on one class: leave trainer.accelerator.alternatives out",
            field_path=".search",
        ),
        Rule(
            "!has(self.search) || self.trainer.nodes == 1",
            "each trial of a search trains in one pod: set trainer.nodes to 1, or leave search out",
            field_path=".search",
        ),
        Rule(
            "!has(self.search) || self.dataset.split.evalFraction > 0.0",
            "search compares trials by held-out examples: set dataset.split.evalFraction above 0",
            field_path=".search",
        ),
        Rule(
            "!has(self.search) || self.method.tuning != 'full' || "
            "!self.search.parameters.exists(each, each.name in ['rank', 'alpha', 'dropout'])",
            "rank, alpha and dropout are those of an adapter, and tuning full makes none",
            field_path=".search.parameters",
        ),
        Rule(
            "has(self.search) == has(oldSelf.search) && (!has(self.search) || ("
            "self.search.algorithm == oldSelf.search.algorithm && self.search.seed == oldSelf.search.seed && "
            "self.search.reductionFactor == oldSelf.search.reductionFactor && "
            "self.search.parameters == oldSelf.search.parameters))",
            "algorithm, seed, reductionFactor and parameters of a search cannot be changed, for trials were made with "
            "them: make a new FineTuneJob",
            field_path=".search",
        ),
        Rule(
            "self.baseModelRef == oldSelf.baseModelRef && self.method == oldSelf.method && "
            "self.dataset == oldSelf.dataset && self.checkpoint.storage == oldSelf.checkpoint.storage && "
            "self.trainer.hyperparameters == oldSelf.trainer.hyperparameters && "
            "self.output.name == oldSelf.output.name && has(self.output.kind) == has(oldSelf.output.kind) && "
            "(!has(self.output.kind) || self.output.kind == oldSelf.output.kind)",
            "baseModelRef, method, dataset, hyperparameters, checkpoint.storage, output.name and output.kind cannot be "
            "changed, for the checkpoints would no longer fit: make a new FineTuneJob",
        ),
    )

    base_model_ref: LocalReference
    """The LLMModel to start from."""
    method: Method = Method()
    """What is learned, and which weights change."""
    dataset: Dataset
    """What is learned from."""
    trainer: Trainer
    """The pods that train."""
    checkpoint: Checkpointing = Checkpointing()
    """How often everything is saved."""
    early_stopping: EarlyStopping | None = None
    """Stop when it no longer gets better."""
    search: Search | None = None
    """Try several hyperparameters, and take the result of the best trial. Absent = train once, as it stands."""
    evaluate: Evaluate = Evaluate()
    """How good the result must be."""
    output: Output
    """What becomes of the result."""
    suspend: bool = False
    """Save a checkpoint, give the accelerators back, and wait until this is false again."""
    retries: Retries = Retries()
    """How often an attempt is made again."""

    @property
    def makes_adapter(self) -> bool:
        """Whether the result is an adapter, and not a whole model."""
        return self.method.tuning != "full" and self.output.kind != "merged"


class FineTuneJob(ApiModel):
    """Trains a model from another one and a dataset, tests it, registers it as an LLMModel and gives it to pools."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="FineTuneJob",
        plural="finetunejobs",
        singular="finetunejob",
        short_names=("ftj",),
        scope="Namespaced",
        columns=(
            PrinterColumn("Base", "string", ".spec.baseModelRef.name", "Model to start from"),
            PrinterColumn("Phase", "string", ".status.phase", "Where it is"),
            PrinterColumn("Step", "string", ".status.progress.display", "Optimizer steps done, of all"),
            PrinterColumn("Loss", "number", ".status.progress.loss", "Of the last steps"),
            PrinterColumn("Nodes", "integer", ".spec.trainer.nodes", "Pods that train together", priority=1),
            PrinterColumn("ETA", "integer", ".status.progress.etaSeconds", "Seconds to go", priority=1),
            PrinterColumn("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why"),
            PrinterColumn("Output", "string", ".status.output.modelRef.name", "The LLMModel that was made", priority=1),
            PrinterColumn("Age", "date", ".metadata.creationTimestamp"),
        ),
    )
    rules: ClassVar[tuple[Rule, ...]] = (POD_NAME_PART,)

    api_version: Literal["llmos.dev/v1alpha1"] = API_VERSION
    kind: Literal["FineTuneJob"] = "FineTuneJob"
    metadata: Metadata
    spec: FineTuneJobSpec
    """What the user asks for."""
    status: FineTuneJobStatus = FineTuneJobStatus()
    """What is true now."""
