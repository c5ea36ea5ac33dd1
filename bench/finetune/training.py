"""What training costs beside a bare loop, what checkpoints cost, and what a kill costs.

    python -m bench.finetune train --model DIR [--json OUT]

    bare      model(...).loss, backward, clip, AdamW, schedule, on batches that lie ready in memory
    trainer   `llmos_workers.train` with everything: data from the disk, reports, heartbeat, checkpoints

Both do the same steps on the same batches, in turns, in one process each time begun anew; the ratio is that of the
medians over the rounds. A kill and the way back are measured on the real command.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import datasets
import numpy as np
import torch
from transformers import get_scheduler

from llmos.api import FineTuneJob
from llmos_workers.train.attempt import Attempt
from llmos_workers.train.attempts import AttemptRecord, read_records
from llmos_workers.train.dataset import UNLEARNED, Examples
from llmos_workers.train.model import get_learned, load_trainable, observe_device
from llmos_workers.train.options import Options
from llmos_workers.train.order import Order
from llmos_workers.train.settings import build_settings

BASE_DIGEST: Final = "sha256:" + "b" * 64
DEADLINE_S: Final = 900.0


@dataclass(frozen=True)
class Load:
    """What is trained: a model on disk, and made-up examples of lengths as conversations have them."""

    model: Path
    tuning: str
    steps: int
    batch_tokens: int
    max_length: int

    def make_job(self, every_steps: int) -> FineTuneJob:
        """The job, with default settings but for what makes it short."""
        hyperparameters = {
            "maxSteps": self.steps,
            "batchTokens": self.batch_tokens,
            "maxLength": self.max_length,
        }
        spec = {
            "baseModelRef": {"name": "base"},
            "method": {"tuning": self.tuning},
            "dataset": {"source": {"uri": "hf://org/data"}},
            "trainer": {"accelerator": {"class": "cpu"}, "hyperparameters": hyperparameters},
            "checkpoint": {"everySteps": every_steps},
            "output": {"name": "tuned"},
        }
        return FineTuneJob.model_validate({"metadata": {"name": "bench", "namespace": "bench"}, "spec": spec})

    def write_dataset(self, work: Path) -> None:
        """Examples of which the second half of each is learned."""
        chance = np.random.default_rng(0)
        lengths = chance.lognormal(4.5, 0.7, 2000).clip(16, self.max_length).astype(int)
        rows = []
        for length in lengths:
            tokens = chance.integers(2, load_vocabulary(self.model), length).tolist()
            rows.append({"input_ids": tokens, "labels": [UNLEARNED] * (length // 2) + tokens[length // 2 :]})
        integers = datasets.List(datasets.Value("int32"))
        features = datasets.Features(input_ids=integers, labels=integers)
        folder = work / "dataset"
        datasets.Dataset.from_list(rows, features=features).save_to_disk(str(folder / "train"))
        (folder / "manifest.json").write_text(json.dumps({"digest": "sha256:bench", "baseDigest": BASE_DIGEST}))

    def make_options(self, work: Path, every_steps: int) -> Options:
        """One attempt."""
        return Options(self.make_job(every_steps), self.model, work, BASE_DIGEST, 1, 1, metrics_port=0)


def run(
    *,
    model: Path,
    tuning: str = "lora",
    steps: int = 6,
    rounds: int = 3,
    batch_tokens: int = 256,
    max_length: int = 256,
) -> dict[str, Any]:
    """Measure one model and method; seconds are wall time."""
    load = Load(model, tuning, steps, batch_tokens, max_length)
    with tempfile.TemporaryDirectory(prefix="llmos-bench-") as folder:
        prepared = Path(folder) / "prepared"
        load.write_dataset(prepared)
        measured: dict[str, list[float]] = {"bare": [], "trainer": [], "saving each step": []}
        tokens = 0
        for _ in range(rounds):
            tokens, bare_s = run_bare(load, prepared)
            measured["bare"].append(bare_s)
            measured["trainer"].append(run_trainer(load, prepared, every_steps=200))
            measured["saving each step"].append(run_trainer(load, prepared, every_steps=1))
        kill = measure_kill(load, prepared)
    return build_figures(load, tokens, measured, kill)


def load_vocabulary(model: Path) -> int:
    """Number of the model's tokens."""
    return int(json.loads((model / "config.json").read_text())["vocab_size"])


def build_figures(load: Load, tokens: int, measured: dict[str, list[float]], kill: dict[str, float]) -> dict[str, Any]:
    """Medians and ratios. The default is to save after 200 steps: the cost of one save, spread over these."""
    median = {name: statistics.median(values) for name, values in measured.items()}
    save_s = max(0.0, median["saving each step"] - median["trainer"]) / load.steps
    step_s = median["trainer"] / load.steps
    return {
        "tuning": load.tuning,
        "steps": load.steps,
        "tokens": tokens,
        "bare_tokens_per_s": tokens / median["bare"],
        "trainer_tokens_per_s": tokens / median["trainer"],
        "trainer_of_bare": median["bare"] / median["trainer"],
        "checkpoint_cost_s": save_s,
        "checkpoint_share_each_step": save_s / (step_s + save_s),
        "checkpoint_share_default": save_s / (200 * step_s + save_s),
        **kill,
        "rounds": measured,
    }


def run_bare(load: Load, prepared: Path) -> tuple[int, float]:
    """Tokens and seconds of the steps in a plain loop."""
    settings, device = build_settings(load.make_job(200)), observe_device("auto")
    model = load_trainable(load.model, settings, device)
    steps, tokens = _collate(load, prepared, device.device)
    learned = list(get_learned(model).values())
    optimizer = torch.optim.AdamW(learned, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=0, num_training_steps=load.steps)
    began_s = time.perf_counter()
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
    return tokens, time.perf_counter() - began_s


def _collate(load: Load, prepared: Path, device: torch.device) -> tuple[list[list[dict[str, torch.Tensor]]], int]:
    """The batches of the trainer, as transformers wants them."""
    examples = Examples(prepared / "dataset" / "train")
    order = Order(examples.lengths, seed=42, batch_tokens=load.batch_tokens, max_length=load.max_length)
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


def run_trainer(load: Load, prepared: Path, *, every_steps: int) -> float:
    """Seconds of the steps in the trainer; the model's loading and the result are not counted."""
    work = _copy(prepared)
    attempt = Attempt(load.make_options(work, every_steps))
    out, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: PTH123, SIM115  its lines would drown ours
    try:
        attempt.run()
    finally:
        attempt.close()
        sys.stdout = out
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    (record,) = read_records(work / "attempts")
    shutil.rmtree(work)
    return record.step_at - record.began_at


def measure_kill(load: Load, prepared: Path) -> dict[str, float]:
    """Kill the real command between two checkpoints, begin it again, and look what that took."""
    work, load = _copy(prepared), replace(load, steps=100)
    every_steps = 3
    process = _start(load, work, every_steps)
    record = _wait(work, 0, lambda record: record.step >= 2 * every_steps + 2, process)
    process.kill()
    process.wait()
    interval_s = (record.step_at - record.began_at) / record.step * every_steps
    began = time.time()
    process = _start(load, work, every_steps)
    record = _wait(work, 1, lambda record: record.step > record.resumed_step, process)
    process.terminate()
    process.wait()
    message = json.loads(work.with_name(work.name + "-message").read_text())
    shutil.rmtree(work)
    return {
        "interval_s": interval_s,
        "lost_s": message["lostAcceleratorSeconds"],
        "resume_s": record.began_at - began,
        "resume_to_first_step_s": record.step_at - began,
    }


def _start(load: Load, work: Path, every_steps: int) -> subprocess.Popen[bytes]:
    job = work.with_name(work.name + "-job.json")
    job.write_text(load.make_job(every_steps).model_dump_json(by_alias=True))
    command = [sys.executable, "-m", "llmos_workers.train", f"--job={job}", f"--model={load.model}", f"--work={work}"]
    environment = {**os.environ, "LLMOS_TERMINATION_LOG": str(work.with_name(work.name + "-message"))}
    return subprocess.Popen(
        [*command, f"--base-digest={BASE_DIGEST}", "--metrics-port=0"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _wait(work: Path, number: int, condition: Any, process: subprocess.Popen[bytes]) -> AttemptRecord:
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s and process.poll() is None:
        records = read_records(work / "attempts")
        if len(records) > number and condition(records[number]):
            return records[number]
        time.sleep(0.01)
    raise RuntimeError("the trainer ended, or did not get so far")


def _copy(prepared: Path) -> Path:
    work = Path(tempfile.mkdtemp(prefix="work-", dir=prepared.parent))
    shutil.copytree(prepared, work, dirs_exist_ok=True)
    return work
