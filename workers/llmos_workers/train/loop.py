"""The loop: at each step the same questions in the same order, so that a resumed run asks them like one that went on.

is an evaluation due that this step has not had?   -> ask the held-out examples is a checkpoint due? -> snapshot,
written in the background is there nothing more to learn?                    -> the last checkpoint, written at once
does somebody want the accelerator back?           -> a checkpoint, written at once; the run is stopped else
-> one optimizer step
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from llmos.api.finetunejob import EarlyStopping
from llmos_workers.pulse import Activity
from llmos_workers.train.attempts import Heartbeat
from llmos_workers.train.checkpoints import CheckpointStore
from llmos_workers.train.dataset import Examples, MicroBatch
from llmos_workers.train.errors import LossNotFiniteError, Stopped
from llmos_workers.train.evaluation import Asking, compute_loss
from llmos_workers.train.order import Order, StepPlan
from llmos_workers.train.reporting import Reporter
from llmos_workers.train.snapshot import Learner, Snapshot, take_snapshot
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


class Feeder:
    """Makes the tensors of the next step while this one is computed."""

    def __init__(self, order: Order, examples: Examples, padding: int, end: int | None, *, pin: bool) -> None:
        """Feed steps of `examples` in this order."""
        self._order, self._examples, self._padding, self._end, self._pin = order, examples, padding, end, pin
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="feeder")
        self._next: tuple[int, Future[tuple[StepPlan, list[MicroBatch]]]] | None = None

    def take(self, position: int) -> tuple[StepPlan, list[MicroBatch]]:
        """The step that begins at `position`; the one after it is begun."""
        if self._next is None or self._next[0] != position:
            self._next = (position, self._executor.submit(self._build, position))
        plan, batches = self._next[1].result()
        self._next = (plan.position, self._executor.submit(self._build, plan.position))
        return plan, batches

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _build(self, position: int) -> tuple[StepPlan, list[MicroBatch]]:
        plan = self._order.plan_step(position, self._end)
        batches = [self._examples.build_micro_batch(chosen, self._padding) for chosen in plan.micro_batches]
        return plan, [batch.pin() for batch in batches] if self._pin else batches


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
    store: CheckpointStore
    writer: CheckpointWriter
    reporter: Reporter
    heartbeat: Heartbeat
    stop: StopSignal
    activity: Activity

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
        with self.activity.by_effort():
            if finished or self.stop.requested:
                self._save_now()
            else:
                self._save_if_due()
        if self.stop.requested and not finished:
            raise Stopped
        return finished

    def _do_step(self) -> None:
        plan, batches = self.feeder.take(self.state.position)
        rate = self.learner.scheduler.get_last_lr()[0]
        loss = self.stepper.run(self.state.step + 1, batches)
        self.state = self.state.after_step(position=plan.position, tokens=plan.tokens, loss=loss)
        self.heartbeat.beat(self.state.step)
        self.reporter.on_step(self.state, loss, rate)

    def _evaluate_if_due(self) -> None:
        due = self.state.is_evaluation_due(self.schedule.evaluate_every_steps, self.schedule.total_steps)
        if self.held_out is None or not due:
            return
        try:
            value = self._evaluate(self.held_out)
        except _Interrupted:
            return
        self.state = self.state.after_evaluation(value, self.schedule.early_stopping)
        self.reporter.on_evaluation(self.state)

    def _evaluate(self, examples: Examples) -> float:
        model: Any = self.learner.model
        model.eval()
        try:
            asked = compute_loss(model, examples, range(len(examples)), self.asking(self._tick))
        finally:
            model.train()
        value = math.nan if asked.value is None else asked.value
        if not math.isfinite(value):
            raise LossNotFiniteError(
                f"eval_loss is {value} at step {self.state.step}",
                "See that the held-out examples have tokens to learn; lower hyperparameters.learningRate.",
            )
        return value

    def _tick(self) -> None:
        self.reporter.on_wait()
        if self.stop.requested:
            raise _Interrupted

    def _save_if_due(self) -> None:
        state, saved, every = self.state, self._saved, self.schedule.save_every_steps
        best = self.schedule.keep_best and state.is_best() and state.evaluated_step != saved.evaluated_step
        due = (
            state.step // every > saved.step // every or time.monotonic() - self._saved_s >= self.schedule.save_every_s
        )
        if best or (due and state.step != saved.step and not self.writer.is_busy):
            self.writer.start(self._take_snapshot())

    def _save_now(self) -> None:
        self.writer.wait()
        newest = self.store.newest
        same = newest is not None and (newest.manifest.step, newest.manifest.evaluated_step) == (
            self.state.step,
            self.state.evaluated_step,
        )
        if self.state.step and not same:
            self.writer.save(self._take_snapshot())

    def _take_snapshot(self) -> Snapshot:
        self.reporter.flush()
        self.heartbeat.mark()
        self._saved, self._saved_s = self.state, time.monotonic()
        return take_snapshot(self.learner, self.state)
