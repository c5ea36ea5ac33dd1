"""The dataset gate: how many megabytes of JSON lines one core reads, checks, deduplicates, encodes, splits and writes.

Only processor time counts (of all threads, with one thread for the tokenizers), from the first line to the last byte on
the disk. Loading the libraries and the tokenizer is reported beside it: it takes seconds, whatever the size.

The stages are those of the largest row, each done alone over all lines, in processor time: they add up to the whole but
for what lies between them.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

# Read when the tokenizers' libraries are first imported.
os.environ.update({"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"})

import numpy as np
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bench.finetune.corpus import Corpus, write_corpus
from llmos.api import FineTuneJob
from llmos_workers.prepare import preparing
from llmos_workers.prepare.canonical import compute_digest
from llmos_workers.prepare.digests import DigestSet
from llmos_workers.prepare.encoding import Formatter
from llmos_workers.prepare.examples import parse_line
from llmos_workers.prepare.preparing import Places, prepare
from llmos_workers.prepare.reading import LineReader
from llmos_workers.prepare.storing import Store
from llmos_workers.prepare.templates import ChatTemplate
from llmos_workers.prepare.tokenizing import Tokens

TARGET_MB_PER_S: Final = 20.0
SIDES: Final = (("chat", 3000), ("chat", 1000), ("chat", 300), ("instruction", 1000), ("text", 3000))
_BATCH: Final = 1000
_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def measure_gate(*, megabytes: float, tokenizer: Path | None, repeats: int) -> dict[str, Any]:
    """Run all sides and return their figures."""
    with tempfile.TemporaryDirectory() as folder:
        model = tokenizer or _train_tokenizer(Path(folder) / "model")
        rows = []
        for kind, line_bytes in SIDES:
            source = Path(folder) / f"{kind}-{line_bytes}.jsonl"
            lines = write_corpus(source, kind, line_bytes, int(megabytes * 1e6))
            runs = [_measure(model, source, kind, Path(folder) / "work") for _ in range(repeats)]
            best = min(runs, key=lambda run: run["cpu_s"])
            rows.append({"format": kind, "line_bytes": line_bytes, "lines": lines, "runs": runs, **best})
            if kind == "chat" and line_bytes == SIDES[0][1]:
                stages = _measure_stages(model, source, Path(folder) / "stages")
                slow = _measure_slow(model, source)
        return {"rows": rows, "stages": stages, "slow_encoder_mb_per_s": slow, "target_mb_per_s": TARGET_MB_PER_S}


def _measure(model: Path, source: Path, kind: str, work: Path) -> dict[str, Any]:
    """One run of the whole gate on a copy of the file; it removes its source."""
    places = Places(model, work / str(time.monotonic_ns()))
    target = places.source("dataset") / source.name
    target.parent.mkdir(parents=True)
    os.link(source, target)
    spent: list[float] = []
    inner = preparing._Run._run_dataset

    def timed(self: Any, *arguments: Any) -> Any:
        started_s = time.process_time()
        try:
            return inner(self, *arguments)
        finally:
            spent.append(time.process_time() - started_s)

    preparing._Run._run_dataset = timed  # type: ignore[method-assign, assignment]  # there is no seam for a stopwatch
    started_s = time.process_time()
    try:
        report = prepare(_build_job(kind), places, "sha256:bench", io.StringIO()).report
    finally:
        preparing._Run._run_dataset = inner  # type: ignore[method-assign]
    whole_s = time.process_time() - started_s
    size_mb = source.stat().st_size / 1e6
    return {
        "megabytes": size_mb,
        "cpu_s": spent[0],
        "loading_cpu_s": whole_s - spent[0],
        "mb_per_s": size_mb / spent[0],
        "tokens": report.train_tokens,
        "examples": report.train_examples + report.eval_examples,
        "load_average": os.getloadavg()[0],
    }


def _measure_stages(model: Path, source: Path, folder: Path) -> dict[str, float]:
    """Processor time of each stage, in seconds, over all lines of the file."""
    form = _build_job("chat").spec.dataset.format
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokens = Tokens(tokenizer)
    formatter = Formatter(tokens, ChatTemplate(tokenizer))
    seen = DigestSet()
    stages: dict[str, float] = {}

    def time_stage(name: str, do: Callable[[], Any]) -> Any:
        started_s = time.process_time()
        result = do()
        stages[name] = stages.get(name, 0.0) + time.process_time() - started_s
        return result

    store = Store(folder / "train", is_asked=False)
    for lines in _batch(iter(LineReader([(source.name, source)])), lambda step: time_stage("read", step)):
        examples = time_stage("parse and check", lambda: [parse_line(line.data, form) for line in lines])  # noqa: B023
        time_stage("deduplicate", lambda: [seen.add(compute_digest(one)) for one in examples])  # noqa: B023
        texts = time_stage("chat template", lambda: [formatter.build_text(one) for one in examples])  # noqa: B023
        rows = time_stage("encode", lambda: formatter.encode(texts))  # noqa: B023
        time_stage("write and hash", lambda: store.write(rows, [None] * len(texts)))  # noqa: B023
    time_stage("write and hash", store.finish)
    return stages


def _batch(lines: Iterator[Any], timed: Callable[[Callable[[], list[Any]]], list[Any]]) -> Iterator[list[Any]]:
    def take() -> list[Any]:
        return [line for _, line in zip(range(_BATCH), lines, strict=False)]

    while batch := timed(take):
        yield batch


def _measure_slow(model: Path, source: Path) -> float:
    """What the model's own tokenizer encodes alone, in megabytes of JSON lines a second, on the file's first lines."""
    form = _build_job("chat").spec.dataset.format
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokens = Tokens(tokenizer, use_fast=False)
    formatter = Formatter(tokens, ChatTemplate(tokenizer))
    lines = [line for _, line in zip(range(_BATCH), LineReader([(source.name, source)]), strict=False)]
    texts = [formatter.build_text(parse_line(line.data, form)) for line in lines]
    started_s = time.process_time()
    formatter.encode(texts)
    return float(np.sum([len(line.data or b"") for line in lines])) / 1e6 / (time.process_time() - started_s)


def _build_job(kind: str) -> FineTuneJob:
    spec = {
        "baseModelRef": {"name": "base"},
        "dataset": {"source": {"uri": "https://example.com/train.jsonl"}, "format": {"type": kind}},
        "trainer": {"accelerator": {"class": "cpu"}, "hyperparameters": {"maxLength": 2048}},
        "output": {"name": "out"},
    }
    document = {"apiVersion": "llmos.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "job"}, "spec": spec}
    return FineTuneJob.model_validate(document)


def _train_tokenizer(folder: Path) -> Path:
    """Byte-level BPE with the pre-tokenizer of GPT-2 and its descendants."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = Corpus(seed=8)
    tokenizer.train_from_iterator((corpus.build_text(2000) for _ in range(1000)), trainer)
    fast: PreTrainedTokenizerBase = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")  # noqa: S106
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)
    return folder


def print_gate(console: Console, figures: dict[str, Any]) -> None:
    """Print the figures."""
    table = Table(title="dataset gate, one core")
    for name in (
        "format",
        "bytes a line",
        "lines",
        "MB",
        "CPU s",
        "MB/s",
        "spread",
        "tokens/s",
        "loading, CPU s",
        "load",
    ):
        table.add_column(name, justify="right")
    for row in figures["rows"]:
        speeds = [run["mb_per_s"] for run in row["runs"]]
        table.add_row(
            row["format"],
            str(row["line_bytes"]),
            str(row["lines"]),
            f"{row['megabytes']:.0f}",
            f"{row['cpu_s']:.1f}",
            f"{row['mb_per_s']:.1f}",
            f"{min(speeds):.1f}-{max(speeds):.1f}",
            f"{row['tokens'] / row['cpu_s']:,.0f}",
            f"{row['loading_cpu_s']:.1f}",
            f"{row['load_average']:.1f}",
        )
    console.print(table)
    total_s = sum(figures["stages"].values())
    shares = ", ".join(f"{name} {cpu_s / total_s:.0%}" for name, cpu_s in figures["stages"].items())
    console.print(f"stages of the first row: {shares}")
    console.print(f"the model's own tokenizer alone: {figures['slow_encoder_mb_per_s']:.1f} MB/s")
    met = sum(row["mb_per_s"] >= TARGET_MB_PER_S for row in figures["rows"])
    console.print(f"{met} of {len(figures['rows'])} rows reach {TARGET_MB_PER_S:.0f} MB/s")
