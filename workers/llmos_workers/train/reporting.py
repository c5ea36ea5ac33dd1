"""How far training is, said in three ways.

    standard output   a JSON line at most every 2 s, and at each checkpoint: the operator copies it into the status
    /metrics          the same numbers for Prometheus, on a port
    tensorboard/      every step's loss, learning rate and tokens, and every evaluation

Event files are flushed when a snapshot is taken: what a killed attempt has not written, the next one does again.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from llmos.api import CheckpointStatus, TrainingMetrics, TrainingProgress
from llmos_workers.pulse import INTERVAL_S as PULSE_S
from llmos_workers.pulse import Activity
from llmos_workers.train.checkpoints import Checkpoint
from llmos_workers.train.events import EventLog
from llmos_workers.train.state import State, StepLoss

INTERVAL_S: Final = 2.0
_WINDOW_STEPS: Final = 20
_MOST_EVALUATIONS: Final = 10
"""Told again and again, for whoever listens does so now and then; he remembers those before."""
Phase = Literal["training", "evaluating"]


class Metrics:
    """The gauges, and the server that shows them. Port 0 serves nothing."""

    def __init__(self, port: int) -> None:
        """Serve on `port`."""
        registry = CollectorRegistry()
        self.step = Gauge("llmos_train_step", "Optimizer steps done.", registry=registry)
        self.total_steps = Gauge("llmos_train_total_steps", "Optimizer steps in all.", registry=registry)
        self.loss = Gauge("llmos_train_loss", "Mean loss for each learned token of the last steps.", registry=registry)
        self.eval_loss = Gauge("llmos_train_eval_loss", "The last one of the held-out examples.", registry=registry)
        self.tokens = Gauge("llmos_train_tokens", "Tokens of the examples learned so far.", registry=registry)
        self.rate = Gauge("llmos_train_tokens_per_second", "Rate over the last steps.", registry=registry)
        self.lost = Gauge(
            "llmos_train_lost_accelerator_seconds", "Spent on steps that were done again.", registry=registry
        )
        self.checkpoint_s = Gauge(
            "llmos_train_checkpoint_write_seconds", "Time that writing the last checkpoint took.", registry=registry
        )
        self.checkpoints = Counter("llmos_train_checkpoints", "Checkpoints completed.", registry=registry)
        self._server: tuple[Any, threading.Thread] | None = None
        if port:
            self._server = start_http_server(port, registry=registry)

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()


class Reporter:
    """Says how far a run is. Methods may be called from the thread that writes checkpoints, too."""

    def __init__(
        self,
        *,
        out: TextIO,
        events: EventLog,
        metrics: Metrics,
        examples: int,
        total_steps: int,
        lost_s: float,
        checkpoint: Checkpoint | None,
        state: State,
        activity: Activity,
        survives: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin at `state`; `activity` is told of everything. What the volume has counts if it `survives` the pod."""
        self._out, self._events, self._metrics, self._clock = out, events, metrics, clock
        self._examples, self._total_steps = examples, total_steps
        self._lost_s, self._state = lost_s, state
        self._activity, self._survives = activity, survives
        self._saved = checkpoint.status if checkpoint is not None and survives else None
        self._trouble = self._unsaved = ""
        self._phase: Phase = "training"
        self._evaluations: deque[TrainingMetrics] = deque(maxlen=_MOST_EVALUATIONS)
        self._rates = 0.0, 0.0
        self._lock = threading.Lock()
        self._printed_s = float("-inf")
        self._times: deque[tuple[float, int, int]] = deque([(clock(), state.step, state.tokens)], _WINDOW_STEPS + 1)
        metrics.lost.set(lost_s)
        metrics.total_steps.set(total_steps)

    def on_step(self, state: State, loss: StepLoss, learning_rate: float) -> None:
        """A step was done."""
        self._activity.touch()
        with self._lock:
            self._state = state
            self._times.append((self._clock(), state.step, state.tokens))
            mean = loss.total / max(1, loss.learned)
            self._events.add(state.step, train_loss=mean, train_learning_rate=learning_rate, train_tokens=state.tokens)
            self._print_at_intervals()

    def on_evaluation(self, state: State) -> None:
        """The held-out examples were asked. The time it took says nothing about the rate of steps."""
        self._activity.touch()
        with self._lock:
            self._state = state
            self._times.clear()
            self._times.append((self._clock(), state.step, state.tokens))
            if state.eval_loss is not None:
                self._events.add(state.step, eval_loss=state.eval_loss)
                if state.value is not None:
                    self._events.add(state.step, **{state.judged_by.partition(" ")[0]: state.value})
                loss, eval_loss = _shorten(state.loss), float(f"{state.eval_loss:.6g}")
                self._evaluations.append(
                    TrainingMetrics(step=state.step, loss=loss, eval_loss=eval_loss, value=_shorten(state.value))
                )
            self._print_at_intervals()

    def on_checkpoint(self, checkpoint: Checkpoint, took_s: float) -> None:
        """A checkpoint is complete."""
        self._activity.touch()
        with self._lock:
            if self._survives:
                self._saved = checkpoint.status
            self._unsaved = ""
            self._metrics.checkpoints.inc()
            self._metrics.checkpoint_s.set(took_s)
            self._print()

    def on_unsaved(self, words: str) -> None:
        """A checkpoint could not be written, and training goes on."""
        with self._lock:
            self._unsaved = words
            self._print()

    def on_uploaded(self, status: CheckpointStatus) -> None:
        """A checkpoint is complete in the object store."""
        with self._lock:
            if self._saved is None or status.step >= self._saved.step:
                self._saved = status
            self._print()

    def on_trouble(self, words: str) -> None:
        """Something is wrong with the object store, or no longer (then there are no words)."""
        with self._lock:
            if self._trouble != words:
                self._trouble = words
                self._print()

    def on_phase(self, phase: Phase) -> None:
        """Something else begins."""
        self._activity.touch()
        with self._lock:
            self._phase = phase
            self._print()

    def on_wait(self) -> None:
        """Something that takes a while goes on."""
        self._activity.touch()
        with self._lock:
            self._print_at_intervals()

    def on_pulse(self) -> None:
        """Nothing happened, perhaps for long: say so."""
        with self._lock:
            if self._clock() - self._printed_s >= PULSE_S:
                self._print()

    def flush(self) -> None:
        """Write the event files."""
        self._events.flush()

    def close(self) -> None:
        """Nothing more will be said."""
        self._events.close()
        self._metrics.close()

    def build_facts(self) -> dict[str, Any]:
        """What progress lines and termination messages have: progress, evaluations, last checkpoint and lost time."""
        return {
            "progress": self._build_progress().to_manifest(),
            "evaluations": [each.to_manifest() for each in self._evaluations],
            "lastCheckpoint": self._saved.to_manifest() if self._saved is not None else None,
            "lostAcceleratorSeconds": round(self._lost_s, 3),
        }

    def _print_at_intervals(self) -> None:
        if self._clock() - self._printed_s >= INTERVAL_S:
            self._print()

    def _print(self) -> None:
        self._printed_s = self._clock()
        active_at = self._activity.at.isoformat()
        line = {"event": "progress", "phase": self._phase, "activeAt": active_at, **self.build_facts()}
        line |= {"storageTrouble": self._trouble} if self._trouble else {}
        line |= {"checkpointTrouble": self._unsaved} if self._unsaved else {}
        print(json.dumps(line), file=self._out, flush=True)
        self._update_metrics()

    def _update_metrics(self) -> None:
        state = self._state
        self._metrics.step.set(state.step)
        self._metrics.tokens.set(state.tokens)
        self._metrics.rate.set(self._compute_rates()[0])
        if state.loss is not None:
            self._metrics.loss.set(state.loss)
        if state.eval_loss is not None:
            self._metrics.eval_loss.set(state.eval_loss)

    def _build_progress(self) -> TrainingProgress:
        state = self._state
        tokens_per_s, steps_per_s = self._compute_rates()
        left = max(0, self._total_steps - state.step)
        return TrainingProgress(
            step=state.step,
            total_steps=self._total_steps,
            epoch=round(state.position / self._examples, 4),
            tokens=state.tokens,
            tokens_per_second=round(tokens_per_s, 1),
            eta_seconds=round(left / steps_per_s) if steps_per_s else None if left else 0,
            loss=_shorten(state.loss),
            eval_loss=_shorten(state.eval_loss),
            display=f"{state.step}/{self._total_steps}",
        )

    def _compute_rates(self) -> tuple[float, float]:
        """Tokens and steps a second; after an evaluation those before it, until a step was done."""
        (began_s, first_step, first_tokens), (now_s, step, tokens) = self._times[0], self._times[-1]
        span_s = now_s - began_s
        if span_s > 0:
            self._rates = (tokens - first_tokens) / span_s, (step - first_step) / span_s
        return self._rates


def _shorten(value: float | None) -> float | None:
    """To as many digits as a column of kubectl should show."""
    return None if value is None else float(f"{value:.6g}")
