"""The trainer beside a bare loop: the same steps on the same batches, in pairs.

    bare      model(...).loss, backward, clip, AdamW, schedule, on batches that lie ready in memory
    trainer   `llmos_workers.train` with everything: data from the disk, reports, heartbeat, checkpoints

A round does all steps on each side, one right after the other; which goes first changes from round to round. Wall
seconds and processor seconds (of all threads of the process) are taken from when the model is loaded until the last
step is done. The ratio is taken within a round, and the median over the rounds counts: a machine that is slower for
a minute slows both sides of a pair. Where other jobs share the cores the processor seconds say more.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import get_scheduler

from bench.finetune.load import DEFAULT_EVERY_STEPS, Load, copy_prepared
from llmos_workers.train.attempt import Attempt
from llmos_workers.train.attempts import Heartbeat
from llmos_workers.train.dataset import UNLEARNED, Examples
from llmos_workers.train.model import get_learned, load_trainable, observe_device
from llmos_workers.train.order import Order
from llmos_workers.train.settings import build_settings
from llmos_workers.train.state import State


@dataclass(frozen=True)
class Spent:
    """What the steps of one run took."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Round:
    """One pair, and a run of the trainer that saves after each step. `tokens` are those of each run."""

    tokens: int
    bare: Spent
    trainer: Spent
    saving: Spent


def run_rounds(load: Load, prepared: Path, rounds: int) -> list[Round]:
    """Do the pairs, after a step of each side that does not count: the first one of a process does more."""
    short = replace(load, steps=1)
    run_bare(short, prepared)
    run_trainer(short, prepared, every_steps=DEFAULT_EVERY_STEPS)
    return [_run_round(load, prepared, trainer_first=bool(number % 2)) for number in range(rounds)]


def _run_round(load: Load, prepared: Path, *, trainer_first: bool) -> Round:
    if trainer_first:
        trainer = run_trainer(load, prepared, every_steps=DEFAULT_EVERY_STEPS)
        tokens, bare = run_bare(load, prepared)
        saving = run_trainer(load, prepared, every_steps=1)
    else:
        saving = run_trainer(load, prepared, every_steps=1)
        tokens, bare = run_bare(load, prepared)
        trainer = run_trainer(load, prepared, every_steps=DEFAULT_EVERY_STEPS)
    return Round(tokens, bare, trainer, saving)


def compute_spread(values: Sequence[float]) -> dict[str, float]:
    """The median, and the lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


class Stopwatch:
    """Seconds since it was made, until it was last looked at."""

    def __init__(self) -> None:
        """Start."""
        self._wall_s, self._cpu_s = time.perf_counter(), time.process_time()
        self.spent = Spent(0.0, 0.0)

    def look(self) -> Spent:
        """What was spent until now."""
        self.spent = Spent(time.perf_counter() - self._wall_s, time.process_time() - self._cpu_s)
        return self.spent


def run_bare(load: Load, prepared: Path) -> tuple[int, Spent]:
    """Tokens of the steps, and what they take in a plain loop."""
    settings, device = build_settings(load.make_job(DEFAULT_EVERY_STEPS)), observe_device("auto")
    model = load_trainable(load.model, settings, device)
    steps, tokens = _collate(load, prepared, settings.seed, device.device)
    learned = list(get_learned(model).values())
    optimizer = torch.optim.AdamW(learned, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=0, num_training_steps=load.steps)
    watch = Stopwatch()
    for batches in steps:
        count = sum(int((batch["labels"] != UNLEARNED).sum()) for batch in batches)
        for batch in batches:
            with device.autocast():
                loss = model(**batch, use_cache=False, num_items_in_batch=count).loss
            loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
    if device.device.type == "cuda":
        torch.cuda.synchronize()
    return tokens, watch.look()


def _collate(
    load: Load, prepared: Path, seed: int, device: torch.device
) -> tuple[list[list[dict[str, torch.Tensor]]], int]:
    """The batches of the trainer, as transformers wants them."""
    examples = Examples(prepared / "dataset" / "train")
    order = Order(examples.lengths, seed=seed, batch_tokens=load.batch_tokens, max_length=load.max_length)
    steps, tokens, position = [], 0, 0
    for _ in range(load.steps):
        plan = order.plan_step(position, None)
        position, tokens = plan.position, tokens + plan.tokens
        steps.append([_to_labels(examples.build_micro_batch(chosen, 0), device) for chosen in plan.micro_batches])
    return steps, tokens


def _to_labels(batch: Any, device: torch.device) -> dict[str, torch.Tensor]:
    labels = torch.full_like(batch.input_ids, UNLEARNED).flatten()
    labels[batch.positions + 1] = batch.targets
    return {"input_ids": batch.input_ids.to(device), "labels": labels.view_as(batch.input_ids).to(device)}


class _TimedHeartbeat(Heartbeat):
    """Looks at a stopwatch after each step."""

    def __init__(self, folder: Path, **facts: Any) -> None:
        super().__init__(folder, **facts)
        self.watch = Stopwatch()

    def beat(self, step: int) -> None:
        super().beat(step)
        self.watch.look()


class _TimedAttempt(Attempt):
    """An attempt whose steps are timed, from when it begins to train."""

    heartbeat: _TimedHeartbeat

    def _build_heartbeat(self, state: State) -> Heartbeat:
        options = self._options
        self.heartbeat = _TimedHeartbeat(
            options.folder / "attempts",
            attempt=options.attempt,
            accelerators=options.accelerators,
            resumed_step=state.step,
        )
        return self.heartbeat


def run_trainer(load: Load, prepared: Path, *, every_steps: int) -> Spent:
    """What the steps take in the trainer; the model's loading and the result are not counted."""
    work = copy_prepared(prepared)
    # Its lines would drown ours.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        attempt = _TimedAttempt(load.make_options(work, every_steps))
        try:
            attempt.run()
        finally:
            attempt.close()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    shutil.rmtree(work)
    return attempt.heartbeat.watch.spent
