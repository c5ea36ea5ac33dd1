"""Requests of a trace: reading, superposing for more load, and a slight shuffle for each seed.

`rate_scale` k superposes k copies of the trace, each moved as a whole by up to `SHIFT_S`, so that each copy keeps its
bursts and all keep the slow trend; of the last copy a random share is taken if k is no whole number. A seed moves each
arrival by up to `JITTER_S` and permutes lengths among `BLOCK` neighbours, so that totals stay what they were.
"""

from __future__ import annotations

import csv
import json
import random
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

TraceFormat = Literal["azure", "mooncake"]

SHIFT_S = 60.0
JITTER_S = 0.25
BLOCK = 8


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace."""

    time_s: float
    prompt_tokens: int
    output_tokens: int


def read_trace(path: Path, trace_format: TraceFormat) -> list[Arrival]:
    """Read a trace file; the first request comes at 0.

    Raises:
        ValueError: a line is not of the format.
    """
    rows = _read_azure(path) if trace_format == "azure" else _read_mooncake(path)
    if not rows:
        raise ValueError(f"{path} holds no requests")
    rows.sort(key=lambda arrival: arrival.time_s)
    first_s = rows[0].time_s
    return [Arrival(row.time_s - first_s, max(1, row.prompt_tokens), max(1, row.output_tokens)) for row in rows]


def _read_azure(path: Path) -> list[Arrival]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if not {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path} lacks the columns TIMESTAMP, ContextTokens, GeneratedTokens of the Azure format")
        return [
            Arrival(
                _parse_time_s(row["TIMESTAMP"]), int(float(row["ContextTokens"])), int(float(row["GeneratedTokens"]))
            )
            for row in reader
        ]


def _parse_time_s(text: str) -> float:
    """Read a timestamp with seven decimals, of which datetime knows six."""
    whole, _, fraction = text.partition(".")
    seconds = datetime.fromisoformat(f"{whole}+00:00").timestamp()
    return seconds + (float(f"0.{fraction[:9]}") if fraction else 0.0)


def _read_mooncake(path: Path) -> list[Arrival]:
    arrivals = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            arrivals.append(Arrival(row["timestamp"] / 1000, int(row["input_length"]), int(row["output_length"])))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} of {path} is not of the Mooncake format: {error!r}") from error
    return arrivals


def vary_trace(trace: list[Arrival], rate_scale: float, seed: int) -> list[Arrival]:
    """Return the requests of one run."""
    source = random.Random(seed)
    end_s = trace[-1].time_s
    copies: list[Arrival] = []
    for copy in range(int(rate_scale + 0.999999)):
        share = min(1.0, rate_scale - copy)
        shift_s = source.uniform(-SHIFT_S, SHIFT_S) if copy else 0.0
        picked = [arrival for arrival in trace if share >= 1 or source.random() < share]
        copies += [_move(arrival, shift_s, end_s, source) for arrival in picked]
    copies.sort(key=lambda arrival: arrival.time_s)
    return _permute_lengths(copies, source)


def _move(arrival: Arrival, shift_s: float, end_s: float, source: random.Random) -> Arrival:
    """Move an arrival; what would leave the trace at one end comes in at the other."""
    time_s = arrival.time_s + shift_s
    if time_s < 0 or time_s > end_s:
        time_s = time_s % end_s if end_s > 0 else 0.0
    jitter_s = source.uniform(-JITTER_S, JITTER_S)
    return Arrival(min(end_s, max(0.0, time_s + jitter_s)), arrival.prompt_tokens, arrival.output_tokens)


def _permute_lengths(arrivals: list[Arrival], source: random.Random) -> list[Arrival]:
    varied: list[Arrival] = []
    for begin in range(0, len(arrivals), BLOCK):
        block = arrivals[begin : begin + BLOCK]
        lengths = [(arrival.prompt_tokens, arrival.output_tokens) for arrival in block]
        source.shuffle(lengths)
        varied += [Arrival(a.time_s, prompt, output) for a, (prompt, output) in zip(block, lengths, strict=True)]
    return varied
