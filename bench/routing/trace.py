"""Reads a trace in Mooncake's format: one JSON object a line with timestamp, lengths and the ids of prompt blocks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["BLOCK_TOKENS", "Request", "compute_infinite_hit_rate", "read_trace"]

BLOCK_TOKENS: Final = 512


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the trace. Equal block ids mean an equal beginning of the prompt up to there."""

    arrival_s: float
    blocks: tuple[int, ...]
    input_tokens: int
    output_tokens: int


def read_trace(path: Path, limit: int | None = None) -> list[Request]:
    """Return the trace's first `limit` requests (all if None), in order of arrival.

    Raises ValueError that names the line if one cannot be read.
    """
    requests: list[Request] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if limit is not None and len(requests) >= limit:
                break
            try:
                row = json.loads(line)
                requests.append(
                    Request(
                        arrival_s=row["timestamp"] / 1000,
                        blocks=tuple(row["hash_ids"]),
                        input_tokens=max(1, row["input_length"]),
                        output_tokens=max(1, row["output_length"]),
                    )
                )
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {number}: no request in Mooncake's format ({error!r})") from error
    return sorted(requests, key=lambda request: request.arrival_s)


def compute_infinite_hit_rate(requests: list[Request]) -> float:
    """Return the share of blocks that one shared cache without a limit would have: no policy can have more."""
    seen: set[int] = set()
    hits = 0
    for request in requests:
        for block in request.blocks:
            if block not in seen:
                break
            hits += 1
        seen.update(request.blocks)
    return hits / sum(len(request.blocks) for request in requests)
