"""What a FineTuneJob says of itself: the report of its data, its progress, its checkpoints and what it made."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from llmos.api.canary import CanaryStatus
from llmos.api.meta import ApiModel, Conditions, ListMap, LocalReference


class DatasetExample(ApiModel):
    """One line that was left out or changed."""

    line: Annotated[str, Field(max_length=300)]
    """File and line number, for example train.jsonl:17."""
    problem: Annotated[str, Field(max_length=300)]
    """What is wrong with it."""


class LengthBucket(ApiModel):
    """How many examples are about so long."""

    up_to: Annotated[int, Field(ge=1)]
    """Most tokens of these examples; those of the bucket before have at most half as many."""
    examples: Annotated[int, Field(ge=0)]
    """How many there are."""


class DatasetReport(ApiModel):
    """What the dataset gate found."""

    digest: Annotated[str, Field(max_length=128)] = ""
    """sha256 over the examples as they are learned, the tokenizer and the settings of the gate."""
    lines: Annotated[int, Field(ge=0)] = 0
    """Lines that were read."""
    broken: Annotated[int, Field(ge=0)] = 0
    """Lines that cannot be learned from."""
    duplicates: Annotated[int, Field(ge=0)] = 0
    """Lines that are the same as one before."""
    near_duplicates: Annotated[int, Field(ge=0)] = 0
    """Lines that are almost the same as one before."""
    personal: Annotated[int, Field(ge=0)] = 0
    """Lines with personal data."""
    contaminated: Annotated[int, Field(ge=0)] = 0
    """Lines that also stand in an evaluation suite."""
    overlong: Annotated[int, Field(ge=0)] = 0
    """Examples longer than maxLength."""
    labels: Annotated[int, Field(ge=0)] = 0
    """Labels that a classifier may give."""
    train_examples: Annotated[int, Field(ge=0)] = 0
    """Examples that are learned."""
    eval_examples: Annotated[int, Field(ge=0)] = 0
    """Examples that are held out."""
    train_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens of the examples that are learned, once each."""
    length_p50: Annotated[int, Field(ge=0)] = 0
    """Half of the examples have at most so many tokens,"""
    length_p99: Annotated[int, Field(ge=0)] = 0
    """99 of 100,"""
    length_max: Annotated[int, Field(ge=0)] = 0
    """and all."""
    lengths: Annotated[tuple[LengthBucket, ...], Field(max_length=32), ListMap(("upTo",))] = ()
    """Histogram of the examples' lengths in tokens before any cut; buckets without examples are left out."""
    examples: Annotated[tuple[DatasetExample, ...], Field(max_length=20)] = ()
    """The first lines with each kind of problem."""


class TrainingProgress(ApiModel):
    """How far training is."""

    step: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps done."""
    total_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps in all."""
    epoch: Annotated[float, Field(ge=0)] = 0
    """How often the examples were learned so far."""
    tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens that were learned."""
    tokens_per_second: Annotated[float, Field(ge=0)] = 0
    """Rate over the last steps."""
    eta_seconds: Annotated[int, Field(ge=0)] | None = None
    """Seconds to go at this rate, without the evaluation at the end."""
    loss: float | None = None
    """Mean loss for each learned token of the last steps."""
    eval_loss: float | None = None
    """The last one of the held-out examples."""
    display: Annotated[str, Field(max_length=64)] = ""
    """Step of all, for people."""


class TrainingMetrics(ApiModel):
    """What was measured on the way, each time that the held-out examples were asked."""

    step: Annotated[int, Field(ge=0)]
    """Optimizer steps that were done by then."""
    loss: float | None = None
    """Mean loss for each learned token of the last ten steps."""
    eval_loss: float
    """That of the held-out examples."""
    value: float | None = None
    """That of earlyStopping.metric, where it is another one than eval_loss."""


class CheckpointStatus(ApiModel):
    """The newest complete checkpoint."""

    step: Annotated[int, Field(ge=0)]
    """Optimizer steps that it holds."""
    time: datetime
    """When it was complete."""
    uri: Annotated[str, Field(max_length=1024)]
    """Where it is."""
    sha256: Annotated[str, Field(max_length=64)]
    """Of its manifest, which holds those of its files."""


class Attempts(ApiModel):
    """Attempts that ended, by why."""

    user: Annotated[int, Field(ge=0)] = 0
    """Errors that lie in the job."""
    infrastructure: Annotated[int, Field(ge=0)] = 0
    """Losses of nodes and pods."""
    preemptions: Annotated[int, Field(ge=0)] = 0
    """Accelerators that were wanted back, and suspensions."""
    moves: Annotated[int, Field(ge=1)] | None = None
    """Those that never began, because the quota admitted them to another class than they were made for, or not all of
    their pods were made before the operator was upgraded or the job edited: the next attempt is made for that class, or
    in the new way. Absent = none."""


class EndedAttempt(ApiModel):
    """An attempt that ended without a result."""

    number: Annotated[int, Field(ge=1)]
    """Of the attempt."""
    trial: Annotated[int, Field(ge=1)] | None = None
    """Of which trial it is an attempt, where the job searches."""
    stage: Literal["prepare", "train"]
    """What its pod did."""
    counts_as: Literal["user", "infrastructure", "preemption"]
    """Under what it was counted."""
    reason: Annotated[str, Field(max_length=64)]
    """Why it ended."""
    message: Annotated[str, Field(max_length=400)] = ""
    """The particulars."""
    step: Annotated[int, Field(ge=0)] | None = None
    """Optimizer steps that were done by then."""
    started_at: datetime | None = None
    """When its container started; absent if it never did, or nobody saw it."""
    ended_at: datetime
    """When it ended, or was asked to."""


class MetricComparison(ApiModel):
    """One metric of the evaluation, side by side."""

    name: Annotated[str, Field(max_length=64)]
    """For example eval_loss."""
    base: float
    """Of the base model."""
    result: float
    """Of the result."""
    teacher: float | None = None
    """Of the teacher, for task distill."""
    examples: Annotated[int, Field(ge=0)] = 0
    """Examples that were asked."""


class GateVerdict(ApiModel):
    """Whether one gate holds."""

    metric: Annotated[str, Field(max_length=64)]
    """The metric of the gate."""
    passed: bool
    """Whether all its limits hold."""
    message: Annotated[str, Field(max_length=256)] = ""
    """The numbers."""


class Evaluation(ApiModel):
    """How good the result is."""

    metrics: Annotated[tuple[MetricComparison, ...], Field(max_length=64)] = ()
    """Base and result side by side."""
    gates: Annotated[tuple[GateVerdict, ...], Field(max_length=16)] = ()
    """Which gates hold."""


class OutputStatus(ApiModel):
    """The result."""

    digest: Annotated[str, Field(max_length=128)] = ""
    """sha256 over the names, sizes and digests of its files."""
    uri: Annotated[str, Field(max_length=1024)] = ""
    """Where it is."""
    model_ref: LocalReference | None = None
    """The LLMModel, once it is registered."""


class ParameterValue(ApiModel):
    """One value of a trial."""

    name: Annotated[str, Field(max_length=32)]
    """Of the hyperparameter."""
    value: float
    """What it is in this trial."""


class TrialStatus(ApiModel):
    """One trial."""

    number: Annotated[int, Field(ge=1)]
    """From 1 on."""
    state: Annotated[str, Field(max_length=32)] = "Pending"
    """Pending, Queued, Training, Evaluating, Suspended, Complete, Stopped (it was behind at a rung) or Failed."""
    parameters: Annotated[tuple[ParameterValue, ...], Field(max_length=8)] = ()
    """Its values."""
    step: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps done."""
    total_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps in all."""
    eval_loss: float | None = None
    """The last one of the held-out examples; of a complete trial that of its result."""
    rungs: Annotated[tuple[float, ...], Field(max_length=32)] = ()
    """asha: eval_loss at each rung."""
    attempt: Annotated[int, Field(ge=0)] = 0
    """Number of its attempt that runs or ran last."""
    attempts: Attempts = Attempts()
    """Its attempts that ended without a result, by why."""
    accelerator_seconds: Annotated[float, Field(ge=0)] = 0
    """Held by its pods so far."""
    attempt_seconds: Annotated[float, Field(ge=0)] = 0
    """Of these, held by the last attempt."""
    lost_accelerator_seconds: Annotated[float, Field(ge=0)] = 0
    """Of these, spent on steps that had to be done again."""
    last_checkpoint: CheckpointStatus | None = None
    """Its newest complete checkpoint."""
    output_digest: Annotated[str, Field(max_length=128)] = ""
    """Of its result."""
    files_removed: bool = False
    """Its checkpoints and result are no longer in the claim: another trial is the best."""
    reason: Annotated[str, Field(max_length=64)] = ""
    """Why it goes on no more, or waits."""
    message: Annotated[str, Field(max_length=512)] = ""
    """The same in words."""
    failed_at: datetime | None = None
    """When its last attempt failed."""


class FineTuneJobStatus(ApiModel):
    """What is true now."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The generation that this status speaks about."""
    phase: Annotated[str, Field(max_length=32)] = ""
    """One word for people: Pending, Preparing, Queued, Training, Evaluating, Suspended, Canary, Succeeded or Failed."""
    base_digest: Annotated[str, Field(max_length=128)] = ""
    """Digest of the base model; the job never goes on with another."""
    teacher_digest: Annotated[str, Field(max_length=128)] = ""
    """Digest of the teacher, for task distill; the job never goes on with another."""
    claim_name: Annotated[str, Field(max_length=253)] = ""
    """PersistentVolumeClaim that holds dataset, checkpoints and result."""
    dataset_report: DatasetReport | None = None
    """What the dataset gate found."""
    progress: TrainingProgress | None = None
    """How far training is."""
    metrics: Annotated[tuple[TrainingMetrics, ...], Field(max_length=20), ListMap(("step",))] = ()
    """The last evaluations on the way; every step's loss is in the claim's folder tensorboard. Of a search, trials has
    the last one of each."""
    last_checkpoint: CheckpointStatus | None = None
    """The newest complete checkpoint."""
    attempt: Annotated[int, Field(ge=0)] = 0
    """Number of the attempt that runs or ran last, from 1 on."""
    accelerator_class: Annotated[str, Field(max_length=253)] = ""
    """AcceleratorClass that the pods of this attempt are made for, or `cpu`. Empty = there was none yet."""
    attempts: Attempts = Attempts()
    """Attempts that ended without a result, by why."""
    prepare_attempt: Annotated[int, Field(ge=0)] = 0
    """Number of the attempt that prepares the dataset, or did so last; 0 once it is prepared."""
    history: Annotated[tuple[EndedAttempt, ...], Field(max_length=10)] = ()
    """The last attempts that ended without a result, the newest last."""
    lost_accelerator_seconds: Annotated[float, Field(ge=0)] = 0
    """Accelerator time that was spent on steps that had to be done again."""
    evaluation: Evaluation | None = None
    """How good the result is."""
    output: OutputStatus | None = None
    """The result."""
    trials: Annotated[tuple[TrialStatus, ...], Field(max_length=64), ListMap(("number",))] = ()
    """Trials of the search that have begun."""
    best_trial: Annotated[int, Field(ge=1)] | None = None
    """Number of the complete trial with the lowest eval_loss so far; evaluation is that of its result."""
    canaries: Annotated[tuple[CanaryStatus, ...], Field(max_length=16), ListMap(("pool",))] = ()
    """Where the result takes another adapter's place, and how it does there."""
    start_time: datetime | None = None
    """When the job was first looked at."""
    completion_time: datetime | None = None
    """When it ended."""
    warnings: Annotated[tuple[Annotated[str, Field(max_length=400)], ...], Field(max_length=20)] = ()
    """What will not come about as the spec asks, though training goes on, each with its remedy."""
    conditions: Conditions = ()
    """DatasetReady, Admitted, Trained, Evaluated, Registered, Promoted where there are canaries, and their aggregate
    Ready."""
