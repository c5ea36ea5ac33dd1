"""The loop: at each step the same questions in the same order, so that a resumed run asks them like one that went on.

- Is an evaluation due that this step has not had? Ask the held-out examples.
- Is there nothing more to learn, or does somebody want the accelerators back? Save at once, and end or stop.
- Is a checkpoint due? Take a copy, which is written in the background.
- Do one optimizer step.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from llmos.api.finetunejob_evaluation import EVAL_LOSS, EarlyStopping
from llmos_workers.pulse import Activity
from llmos_workers.train.attempts import Heartbeat, NoHeartbeat
from llmos_workers.train.checkpoints import CheckpointStore
from llmos_workers.train.dataset import Examples, MicroBatch
from llmos_workers.train.errors import LossNotFiniteError, Stopped
from llmos_workers.train.evaluation import Asked, Asking, compute_losses, compute_mean_loss
from llmos_workers.train.gang import Gang
from llmos_workers.train.order import Order, StepPlan
from llmos_workers.train.reporting import Reporter
from llmos_workers.train.snapshot import Learner, Snapshot, capture_all_random, take_snapshot
from llmos_workers.train.state import State
from llmos_workers.train.step import Stepper
from llmos_workers.train.stopping import StopSignal
from llmos_workers.train.writer import CheckpointWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """When what is done."""

    total_steps: int
    end: int | None
    """Position in the stream of examples at which there is nothing more to learn; None = total_steps decides."""
    evaluate_every_steps: int
    save_every_steps: int
    save_every_s: float
    early_stopping: EarlyStopping | None
    keep_best: bool


class _Interrupted(Exception):  # noqa: N818  it only leads out of an evaluation
    pass


@dataclass(frozen=True)
class Work:
    """What a rank computes in a step. Fillers are computed, and count nothing."""

    plan: StepPlan
    batches: list[MicroBatch]
    fillers: list[MicroBatch]


class Feeder:
    """Makes the tensors of the next step while this one is computed: those of this rank."""

    def __init__(
        self, order: Order, examples: Examples, padding: int, end: int | None, *, pin: bool, gang: Gang | None = None
    ) -> None:
        """Feed steps of `examples` in this order. With fillers each rank computes equally often in a step."""
        self._order, self._examples, self._padding, self._end, self._pin = order, examples, padding, end, pin
        self._gang = gang or Gang()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="feeder")
        self._next: tuple[int, Future[Work]] | None = None

    def take(self, position: int) -> Work:
        """The step that begins at `position`; the one after it is begun."""
        if self._next is None or self._next[0] != position:
            self._next = (position, self._executor.submit(self._build, position))
        work = self._next[1].result()
        self._next = (work.plan.position, self._executor.submit(self._build, work.plan.position))
        return work

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _build(self, position: int) -> Work:
        plan, gang = self._order.plan_step(position, self._end), self._gang
        own = plan.micro_batches[gang.rank :: gang.size]
        lacks = gang.is_sharded and len(own) * gang.size < len(plan.micro_batches)
        # The last one has the shortest examples.
        fillers = [plan.micro_batches[-1][:1]] if lacks else []
        return Work(plan, self._build_batches(own), self._build_batches(fillers))

    def _build_batches(self, chosen: Sequence[Sequence[int]]) -> list[MicroBatch]:
        batches = [self._examples.build_micro_batch(examples, self._padding) for examples in chosen]
        return [batch.pin() for batch in batches] if self._pin else batches


@dataclass
class TrainingLoop:
    """One attempt from `state` to the end. All but `state` stays what it is."""

    state: State
    schedule: Schedule
    learner: Learner
    stepper: Stepper
    feeder: Feeder
    held_out: Examples | None
    asking: Callable[[Callable[[], None]], Asking]
    ask: Callable[[Any, Examples, Sequence[int], Sequence[str], Asking], dict[str, Asked]]
    """Measures whatever else than the loss the evaluations are judged by."""
    store: CheckpointStore
    writer: CheckpointWriter
    reporter: Reporter
    heartbeat: Heartbeat | NoHeartbeat
    stop: StopSignal
    activity: Activity
    gang: Gang = field(default_factory=Gang)

    def __post_init__(self) -> None:
        """Count intervals from here."""
        self._saved, self._saved_s = self.state, time.monotonic()

    def run(self) -> State:
        """Train until there is nothing more to learn; the last checkpoint is complete when this returns.

        Raises:
            Stopped: SIGTERM came; all is saved.
            TrainError: one of its subclasses.
        """
        try:
            while not self._advance():
                self._do_step()
        finally:
            self.feeder.close()
        return self.state

    def _advance(self) -> bool:
        """Do what is due at this step; true = there is nothing more to learn."""
        self._evaluate_if_due()
        finished = self.state.is_finished(self.schedule.total_steps, self.schedule.early_stopping)
        stops, saves = self._agree()
        with self.activity.by_effort():
            if finished or stops:
                # What is sharded is needed whole for the result, and what makes it is done by all.
                self._save_now(parts=not finished or not self.gang.is_sharded)
            elif saves:
                self._save_in_background()
        if stops and not finished:
            raise Stopped
        return finished

    def _agree(self) -> tuple[bool, bool]:
        """Whether any rank was asked to stop, and whether the leader, whose clock counts, wants a checkpoint."""
        stops, saves = self.gang.add(self.stop.requested, self.gang.is_leader and self._is_save_due())
        return bool(stops), bool(saves)

    def _do_step(self) -> None:
        work = self.feeder.take(self.state.position)
        rate = self.learner.scheduler.get_last_lr()[0]
        loss = self.stepper.run(self.state.step + 1, work.batches, work.fillers)
        self.state = self.state.after_step(position=work.plan.position, tokens=work.plan.tokens, loss=loss)
        self.heartbeat.beat(self.state.step)
        self.reporter.on_step(self.state, loss, rate)

    def _evaluate_if_due(self) -> None:
        due = self.state.is_evaluation_due(self.schedule.evaluate_every_steps, self.schedule.total_steps)
        if self.held_out is None or not due:
            return
        try:
            loss, value = self._evaluate(self.held_out)
        except _Interrupted:
            return
        self.state = self.state.after_evaluation(loss, self.schedule.early_stopping, value)
        self.reporter.on_evaluation(self.state)

    def _evaluate(self, examples: Examples) -> tuple[float, float | None]:
        """The loss, and the value of what the evaluations are judged by where that is something else."""
        model: Any = self.learner.model
        model.eval()
        try:
            loss = self._compute_loss(model, examples)
            return loss, self._measure(model, examples)
        finally:
            model.train()

    def _compute_loss(self, model: Any, examples: Examples) -> float:
        shares = self.gang.gather(self._ask_share(model, examples))
        whole = [share for share in shares if share is not None]
        if len(whole) < len(shares):
            raise _Interrupted
        mean = compute_mean_loss((each for totals, _ in whole for each in totals), sum(learned for _, learned in whole))
        return self._check(EVAL_LOSS, mean)

    def _measure(self, model: Any, examples: Examples) -> float | None:
        """Each rank asks all examples, as at the end, and what the leader found counts."""
        rule = self.schedule.early_stopping
        if rule is None or rule.metric == EVAL_LOSS:
            return None
        name = rule.metric.removeprefix("eval_")
        found = self.gang.gather(self._ask_other(model, examples, name))
        if None in found:
            raise _Interrupted
        return self._check(rule.metric, found[0].value if found[0] is not None else None)

    def _ask_other(self, model: Any, examples: Examples, name: str) -> Asked | None:
        """What this rank found; None if it was interrupted, which all have to know."""
        try:
            return self.ask(model, examples, range(len(examples)), [name], self.asking(self._tick))[name]
        except _Interrupted:
            return None

    def _check(self, name: str, found: float | None) -> float:
        value = math.nan if found is None else found
        if not math.isfinite(value):
            raise LossNotFiniteError(
                f"{name} is {value} at step {self.state.step}",
                "See that the held-out examples have tokens to learn; lower hyperparameters.learningRate.",
            )
        return value

    def _ask_share(self, model: Any, examples: Examples) -> tuple[list[float], int] | None:
        """The losses of this rank's batches; None if it was interrupted, which all have to know."""
        asking, gang = self.asking(self._tick), self.gang
        try:
            return compute_losses(model, examples, range(len(examples)), asking, gang)
        except _Interrupted:
            return None

    def _tick(self) -> None:
        self.reporter.on_wait()
        if self.gang.should_stop(self.stop.requested):
            raise _Interrupted

    def _is_save_due(self) -> bool:
        state, saved, every = self.state, self._saved, self.schedule.save_every_steps
        best = self.schedule.keep_best and state.is_best() and state.evaluated_step != saved.evaluated_step
        due = (
            state.step // every > saved.step // every or time.monotonic() - self._saved_s >= self.schedule.save_every_s
        )
        return best or (due and state.step != saved.step and not self.writer.is_busy)

    def _save_in_background(self) -> None:
        if snapshot := self._take_snapshot():
            self.writer.start(snapshot)

    def _save_now(self, *, parts: bool) -> None:
        self.writer.wait()
        snapshot = self._take_snapshot() if self.gang.decide(self._is_unsaved()) else None
        if parts:
            # The others are not needed for what follows, and need not wait for it.
            self.gang.part()
        if snapshot is not None:
            self.writer.save(snapshot)

    def _is_unsaved(self) -> bool:
        newest = self.store.newest
        same = newest is not None and (newest.manifest.step, newest.manifest.evaluated_step) == (
            self.state.step,
            self.state.evaluated_step,
        )
        return bool(self.state.step) and not same

    def _take_snapshot(self) -> Snapshot | None:
        """A copy of everything at the leader, None elsewhere; all ranks are asked at once."""
        randoms = self.gang.gather(capture_all_random(self.learner.device) if self.gang.rank else {})
        self._saved, self._saved_s = self.state, time.monotonic()
        if not self.gang.is_leader:
            if self.gang.is_sharded:
                take_snapshot(self.learner, self.state, keeps=False)
            return None
        self.reporter.flush()
        self.heartbeat.mark()
        return take_snapshot(self.learner, self.state, randoms[1:])
