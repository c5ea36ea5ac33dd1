"""One attempt: what is there, what goes on from it, and the result.

    a complete result?      -> reported at once
    the other ranks         -> met, where there are some
    the newest checkpoint   -> the model, optimizer, schedule and random numbers as they were
    the loop                -> the last checkpoint
    the result              -> from the best or the last checkpoint, compared with the base model

Rank 0 alone writes and reports. The others end after the loop, or, where each holds a share of the model (`sharding`),
when the result was compared.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from llmos.api.finetunejob_evaluation import compute_evaluate_every
from llmos_workers.pulse import Pulse
from llmos_workers.train.attempts import Heartbeat, NoHeartbeat
from llmos_workers.train.checkpoints import Checkpoint, CheckpointStore, Lineage
from llmos_workers.train.dataset import PreparedDataset
from llmos_workers.train.errors import NotPreparedError, PeerFailedError, PeerLostError, Stopped, TrainError
from llmos_workers.train.evaluation import Asking
from llmos_workers.train.events import EventLog
from llmos_workers.train.gang import Gang, ManyRanks
from llmos_workers.train.heads import Head, build_head
from llmos_workers.train.loop import Feeder, Schedule, TrainingLoop
from llmos_workers.train.meeting import Loss, Meeting
from llmos_workers.train.merging import check_mergeable
from llmos_workers.train.model import (
    Device,
    find_padding,
    get_learned,
    load_model,
    load_tokenizer,
    load_trainable,
)
from llmos_workers.train.no_keeping import NoKeeping
from llmos_workers.train.objective import Objective, build_objective
from llmos_workers.train.optimizing import build_learner
from llmos_workers.train.options import Options, observe_rank_device
from llmos_workers.train.order import Order
from llmos_workers.train.reporting import Metrics, Reporter
from llmos_workers.train.result import ResultMaker, read_outcome
from llmos_workers.train.settings import Settings, build_settings
from llmos_workers.train.sharding import ShardedRanks
from llmos_workers.train.snapshot import Learner, restore_snapshot, seed_rank
from llmos_workers.train.state import State
from llmos_workers.train.step import Stepper
from llmos_workers.train.stopping import StopSignal
from llmos_workers.train.writer import CheckpointWriter

if TYPE_CHECKING:
    from llmos_workers.train.keeping import Keeping

log = logging.getLogger(__name__)

LEARN_CAUSE_S: Final = 5.0
"""A rank that lost another one waits so long to be told why that one ended."""


class Attempt:
    """One attempt. `facts` is what can be said about it at any time, also after it failed."""

    def __init__(
        self, options: Options, pulse: Pulse | None = None, on_loss: Callable[[Loss], None] | None = None
    ) -> None:
        """Nothing is done yet. `on_loss` is called, in a thread, when another rank is lost."""
        self._options = options
        self._pulse = pulse or Pulse(sys.stdout, "loading")
        self._on_loss = on_loss or (lambda _loss: None)
        self._stop = StopSignal()
        self._gang = Gang()
        self._reporter: Reporter | None = None
        self._closers: list[Callable[[], None]] = [self._pulse.close]

    @property
    def facts(self) -> dict[str, Any]:
        """Progress, last checkpoint and lost time, once they are known."""
        return self._reporter.build_facts() if self._reporter is not None else {}

    def close(self) -> None:
        """End threads and files, the latest first."""
        while self._closers:
            try:
                self._closers.pop()()
            except Exception:  # nothing here may keep the outcome from being written
                log.exception("could not close everything in order")

    def explain(self, failure: TrainError) -> TrainError:
        """Say what really ended the attempt: what another rank failed with, if that is why. Tell the others if not."""
        if isinstance(failure, PeerLostError) and (loss := self._gang.find_loss(LEARN_CAUSE_S)):
            return PeerFailedError(loss.reason, loss.message)
        self._gang.fail(failure.reason, str(failure))
        return failure

    def run(self) -> dict[str, Any]:
        """Do it, and return what the termination message says.

        Raises:
            Stopped: SIGTERM came; all is saved.
            TrainError: one of its subclasses.
        """
        try:
            outcome = self._run()
            if self._options.place.rank == 0:
                self._keeping.publish(self._output)
        except Stopped:
            # All of them stop here: none is to take the end of another one for a loss while it still uploads.
            self._gang.part()
            # It may be another rank that was asked to stop.
            self._keeping.finish(self._stop.requested_s if self._stop.requested else time.monotonic())
            raise
        # Meanwhile the last checkpoint may have come to where it is safe.
        return outcome | {name: fact for name, fact in self.facts.items() if name == "lastCheckpoint" and fact}

    def _run(self) -> dict[str, Any]:
        outcome = read_outcome(self._output, self._lineage)
        if outcome is not None:
            log.info("the result is there already")
            return outcome
        self._meet()
        store = self._build_store()
        learner, newest = self._load(store)
        state = self._resume(learner, newest)
        # From here on SIGTERM waits for the step; before, there is nothing that could be lost.
        self._stop.listen()
        reporter, heartbeat = self._build_reports(state, newest)
        self._keeping.start(store, reporter, self._pulse.activity)
        self._closers.append(self._keeping.close)
        writer = CheckpointWriter(store, self._build_on_saved(store, reporter), reporter.on_unsaved)
        self._closers.append(writer.close)
        with self._pulse.activity.by_effort(False):
            self._build_loop(state, learner, store, writer, reporter, heartbeat).run()
        makers = self._gang if self._gang.is_sharded else Gang()
        if makers.size < self._gang.size and not self._gang.is_leader:
            return {"outcome": "finished"}
        checkpoint = makers.decide(store.verify_best() if self._gang.is_leader else None)
        if checkpoint is None:
            raise NotPreparedError("There is nothing to learn")
        model = learner.model
        del learner  # the optimizer's memory is needed for the evaluation
        reporter.on_phase("evaluating")
        outcome = self._build_result_maker(makers).make(model, checkpoint, reporter.build_facts())
        return outcome if self._gang.is_leader else {"outcome": "finished"}

    def _meet(self) -> None:
        place = self._options.place
        if place.size == 1:
            return
        log.info("rank %d of %d looks for the others", place.rank, place.size)
        # Waiting for the others has a deadline of its own, and is no sign that this rank hangs.
        meeting = Meeting(place, self._on_loss, self._pulse.activity.touch)
        self._closers.append(meeting.close)
        self._gang = self._build_gang(meeting)
        self._closers.append(self._gang.close)
        log.info("all %d ranks are here", place.size)

    def _build_gang(self, meeting: Meeting) -> Gang:
        options = self._options
        if not options.is_sharded:
            return ManyRanks(meeting)
        touch = self._pulse.activity.touch
        return ShardedRanks(meeting, turn=options.local_rank, turns=options.processes, touch=touch)

    def _load(self, store: CheckpointStore) -> tuple[Learner, Checkpoint | None]:
        """Load the model, and meanwhile read the checkpoint to go on from whole, to know that it is not damaged."""
        if not self._gang.is_leader:
            # The leader chooses, for what it removes another one must not look at.
            return self._build_learner(), self._gang.decide(None)
        store.observe()
        verifying = store.begin_to_verify()
        return self._build_learner(), self._gang.decide(verifying.result())

    @property
    def _output(self) -> Path:
        return self._options.folder / "output"

    @cached_property
    def _settings(self) -> Settings:
        return build_settings(self._options.job, self._options.teacher_digest)

    @cached_property
    def _device(self) -> Device:
        return observe_rank_device(self._options)

    @cached_property
    def _dataset(self) -> PreparedDataset:
        return PreparedDataset(self._options.work / "dataset", self._options.base_digest, self._objective.layout)

    @cached_property
    def _objective(self) -> Objective:
        teacher, device = self._options.teacher, self._device

        def load_base() -> Any:
            # Asked for in the middle of a step, and as long as all loading.
            with self._pulse.activity.by_effort():
                return self._gang.load(self._read_base, device)

        def load_teacher(folder: Path) -> Any:
            with self._pulse.activity.by_effort():
                return load_model(folder, device.compute, device.device)

        return build_objective(self._settings, load_base, partial(load_teacher, teacher) if teacher else None)

    @cached_property
    def _head(self) -> Head | None:
        return build_head(self._settings, self._dataset.labels, find_padding(self._tokenizer))

    def _read_base(self, device: Device) -> Any:
        return load_model(self._options.base, device.compute, device.device)

    def _read_trainable(self, device: Device) -> Any:
        model = load_trainable(self._options.base, self._settings, device, self._head)
        if self._options.job.spec.output.kind == "merged":
            check_mergeable(model)
        return model

    @property
    def _max_tokens(self) -> int:
        """Tokens that are computed at once."""
        return self._settings.max_length * self._objective.layout.rows

    @cached_property
    def _lineage(self) -> Lineage:
        return Lineage(self._dataset.digest, self._options.base_digest, self._settings)

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self._options.base)

    @cached_property
    def _order(self) -> Order:
        settings = self._settings
        try:
            return Order(
                self._dataset.train.lengths,
                widths=self._dataset.train.widths,
                seed=settings.seed,
                batch_tokens=settings.batch_tokens,
                max_length=self._max_tokens,
                full=self._objective.fills_batches,
            )
        except ValueError as error:
            raise NotPreparedError(f"The prepared dataset does not fit the job: {error}") from error

    @cached_property
    def schedule(self) -> Schedule:
        """When what is done."""
        settings, spec = self._settings, self._options.job.spec
        end = None if settings.max_steps else max(1, round(settings.epochs * self._order.count))
        total = settings.max_steps or self._order.count_steps(end or 0)
        return Schedule(
            total_steps=total,
            end=end,
            evaluate_every_steps=compute_evaluate_every(spec.evaluate, total),
            save_every_steps=spec.checkpoint.every_steps,
            save_every_s=spec.checkpoint.every_minutes * 60.0,
            early_stopping=spec.early_stopping,
            keep_best=spec.checkpoint.keep_best,
        )

    def _build_store(self) -> CheckpointStore:
        wanted = self._options.job.spec.checkpoint
        folder = self._options.folder / "checkpoints"
        return CheckpointStore(folder, self._lineage, keep=wanted.keep, keep_best=wanted.keep_best)

    def _build_learner(self) -> Learner:
        model = self._gang.load(self._read_trainable, self._device)
        return build_learner(model, self._settings, self.schedule.total_steps, self._device)

    def _resume(self, learner: Learner, newest: Checkpoint | None) -> State:
        if newest is None:
            log.info("there is no checkpoint: training begins")
            self._gang.copy_from_leader(parameter.data for parameter in get_learned(learner.model).values())
            if self._gang.rank:
                seed_rank(self._settings.seed, self._gang.rank)
            return State()
        log.info("going on from %s", newest.folder.name)
        return restore_snapshot(learner, newest.folder, rank=self._gang.rank, seed=self._settings.seed)

    def _build_reports(self, state: State, newest: Checkpoint | None) -> tuple[Reporter, Heartbeat | NoHeartbeat]:
        options, is_leader = self._options, self._gang.is_leader
        heartbeat = self._build_heartbeat(state) if is_leader else NoHeartbeat()
        self._closers.append(heartbeat.close)
        self._reporter = Reporter(
            out=self._open_out(),
            events=EventLog(options.folder / "tensorboard" if is_leader else None, options.attempt),
            metrics=Metrics(options.metrics_port if is_leader else 0),
            examples=self._order.count,
            total_steps=self.schedule.total_steps,
            lost_s=heartbeat.lost_s,
            checkpoint=newest,
            state=state,
            activity=self._pulse.activity,
            survives=options.job.spec.checkpoint.storage.has_claim,
        )
        self._pulse.speak = self._reporter.on_pulse
        self._closers.append(self._reporter.close)
        self._reporter.on_phase("training")
        return self._reporter, heartbeat

    def _open_out(self) -> TextIO:
        """Of the processes of a pod one speaks: the others know neither what was lost nor what was saved."""
        if not self._options.local_rank:
            return sys.stdout
        out = Path(os.devnull).open("w")  # noqa: SIM115  it is closed with all else
        self._closers.append(out.close)
        return out

    def _build_on_saved(self, store: CheckpointStore, reporter: Reporter) -> Callable[[Checkpoint, float], None]:
        def on_saved(checkpoint: Checkpoint, took_s: float) -> None:
            reporter.on_checkpoint(checkpoint, took_s)
            self._keeping.offer(checkpoint, store.best)

        return on_saved

    @cached_property
    def _keeping(self) -> Keeping | NoKeeping:
        options = self._options
        # The gang does not tell: where the result is there already, no rank meets the others.
        if options.place.rank or not options.store_uri:
            return NoKeeping()
        # Most jobs need no client of object stores, and its import takes time.
        from llmos_workers.train.keeping import build_keeping  # noqa: PLC0415

        wanted, tick = options.job.spec.checkpoint, self._tick_alone
        return build_keeping(options.store_uri, options.folder, wanted, options.attempt, options.trial, tick)

    def _build_heartbeat(self, state: State) -> Heartbeat:
        options = self._options
        return Heartbeat(
            options.folder / "attempts",
            attempt=options.attempt,
            accelerators=options.accelerators,
            resumed_step=state.step,
        )

    def _build_loop(
        self,
        state: State,
        learner: Learner,
        store: CheckpointStore,
        writer: CheckpointWriter,
        reporter: Reporter,
        heartbeat: Heartbeat | NoHeartbeat,
    ) -> TrainingLoop:
        device, gang = self._device, self._gang
        return TrainingLoop(
            state=state,
            schedule=self.schedule,
            learner=learner,
            stepper=Stepper(
                learner.model,
                learner.optimizer,
                learner.scheduler,
                device,
                self._settings.max_grad_norm,
                gang,
                self._pulse.activity.touch,
                self._objective.compute_loss_sum,
            ),
            feeder=Feeder(
                self._order,
                self._dataset.train,
                find_padding(self._tokenizer),
                self.schedule.end,
                pin=device.device.type == "cuda",
                gang=gang,
            ),
            held_out=self._dataset.held_out,
            asking=self._build_asking,
            ask=self._objective.ask,
            store=store,
            writer=writer,
            reporter=reporter,
            heartbeat=heartbeat,
            stop=self._stop,
            activity=self._pulse.activity,
            gang=gang,
        )

    def _build_asking(self, tick: Callable[[], None]) -> Asking:
        return Asking(
            self._tokenizer,
            self._device,
            self._max_tokens,
            tick,
            self._pulse.activity,
            self._objective.compute_eval_loss_sum,
            self._objective.fills_batches,
        )

    def _build_result_maker(self, gang: Gang) -> ResultMaker:
        options = self._options
        return ResultMaker(
            job=options.job,
            base=options.base,
            folder=self._output,
            dataset=self._dataset,
            lineage=self._lineage,
            objective=self._objective,
            head=self._head,
            asking=self._build_asking(self._tick),
            gang=gang,
        )

    def _tick(self) -> None:
        if self._reporter is not None:
            self._reporter.on_wait()
        if self._gang.should_stop(self._stop.requested):
            raise Stopped

    def _tick_alone(self) -> None:
        """The same when the others are gone: nobody can be asked together with them any more."""
        if self._reporter is not None:
            self._reporter.on_wait()
        if self._stop.requested:
            raise Stopped
