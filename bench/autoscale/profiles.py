"""How long an engine step takes on a GPU: fitted to measured operations.

`data/step_times.csv` holds what each operation of Llama-3.1-8B (bfloat16) was measured to take under vLLM 0.24. A step
that decodes `n` sequences with `S` tokens of context in all, and prefills `p` prompt tokens that attend to `Q` tokens
in all (for a chunk of `p` at offset `o`: p * (o + p / 2)), is composed of them as

    t = max(a + b * (n + p), c0 + c * (n + p)) + d * S + e * Q

The first is linear layers that wait for weights, the second linear layers that compute (a roofline); `d` and `e` are
attention. This is finer than the model that the autoscaler learns, so that it must cope with a world that is not its
own. Left out by the tables, and added: the norms, activations and rotary embeddings, which move ELEMENTWISE_BYTES for
each token and layer, and OVERHEAD_S for sampling and scheduling.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

STEP_TIMES = Path(__file__).parent / "data" / "step_times.csv"
LAYERS = 32
VOCABULARY = 128_256
KV_BYTES_PER_TOKEN = 2 * LAYERS * 8 * 128 * 2
WEIGHTS_GIB = 15.0
ELEMENTWISE_BYTES = 2 * (8 * 4096 + 4 * 14336)
"""Eight passes over the hidden state and four over the feed-forward state."""
OVERHEAD_S = 0.001
BLOCK_TOKENS = 16
BEYOND_CACHE_TOKENS = 65_536
"""Contexts so large that they are read from memory, as they are while other layers run in between."""


@dataclass(frozen=True)
class Profile:
    """One kind of GPU under vLLM's defaults."""

    name: str
    weights_s: float
    """a: a step with no tokens, waiting for weights."""
    weights_per_token_s: float
    """b"""
    compute_s: float
    """c0"""
    compute_per_token_s: float
    """c"""
    context_token_s: float
    """d: for each token of context of a sequence that decodes."""
    pair_s: float
    """e: for each pair of a prompt token and a token that it attends to."""
    blocks: int
    """KV cache blocks of 16 tokens."""
    max_sequences: int
    max_batched_tokens: int
    ttft_s: float
    """Objective for the time to the first token, unless said otherwise."""
    tpot_s: float

    def compute_linear_s(self, tokens: int) -> float:
        """Return the time of a step's linear layers."""
        return max(
            self.weights_s + self.weights_per_token_s * tokens, self.compute_s + self.compute_per_token_s * tokens
        )


@dataclass(frozen=True)
class Gpu:
    """What the tables do not say of a GPU."""

    memory_gib: float
    bandwidth_bytes_per_s: float
    max_sequences: int
    """vLLM's defaults for an API server differ with the memory."""
    max_batched_tokens: int
    ttft_s: float
    tpot_s: float


GPUS = {
    "h100": Gpu(79.6, 3.35e12, 1024, 8192, 2.0, 0.075),
    "l40s": Gpu(44.5, 0.864e12, 256, 2048, 2.0, 0.150),
}
MEMORY_USE = 0.9
"""vLLM's gpu_memory_utilization."""
ACTIVATION_GIB = 2.0
BANDWIDTH_REACHED = 0.8

Rows = dict[tuple[str, int, int, int, int], float]
"""Seconds by operation, rows, columns, depth and context tokens."""


@cache
def load_profile(gpu: str) -> Profile:
    """Fit the profile of `gpu`, a key of GPUS."""
    rows, facts = read_rows(gpu), GPUS[gpu]
    few = _powers(1, 128)
    many = _powers(facts.max_batched_tokens // 4, facts.max_batched_tokens)
    a, b = fit_line([(m, compose_linear_s(rows, m)) for m in few])
    c0, c = fit_line([(m, compose_linear_s(rows, m)) for m in many])
    elementwise_s = LAYERS * ELEMENTWISE_BYTES / (facts.bandwidth_bytes_per_s * BANDWIDTH_REACHED)
    attention, context_s = fit_line(
        [
            (r * context, s * LAYERS)
            for (op, r, _, _, context), s in rows.items()
            if op == "decode_attention" and r * context >= BEYOND_CACHE_TOKENS
        ]
    )
    _, pair_s = fit_line(
        [(context**2 / 2, s * LAYERS) for (op, _, _, _, context), s in rows.items() if op == "prefill_attention"]
    )
    kv_gib = facts.memory_gib * MEMORY_USE - WEIGHTS_GIB - ACTIVATION_GIB
    return Profile(
        name=gpu,
        weights_s=a + max(0.0, attention) + OVERHEAD_S,
        weights_per_token_s=b + elementwise_s,
        compute_s=max(0.0, c0) + max(0.0, attention) + OVERHEAD_S,
        compute_per_token_s=c + elementwise_s,
        context_token_s=context_s,
        pair_s=pair_s,
        blocks=int(kv_gib * 1024**3 / (KV_BYTES_PER_TOKEN * BLOCK_TOKENS)),
        max_sequences=facts.max_sequences,
        max_batched_tokens=facts.max_batched_tokens,
        ttft_s=facts.ttft_s,
        tpot_s=facts.tpot_s,
    )


def read_rows(gpu: str) -> Rows:
    """Read what was measured on `gpu`."""
    with STEP_TIMES.open(encoding="utf-8", newline="") as file:
        return {
            (
                row["operation"],
                int(row["rows"]),
                int(row["columns"]),
                int(row["depth"]),
                int(row["context_tokens"]),
            ): float(row["latency_ms"]) / 1000
            for row in csv.DictReader(file)
            if row["gpu"] == gpu
        }


def compose_linear_s(rows: Rows, tokens: int) -> float:
    """Return the time of all linear layers of a step for one of the measured numbers of tokens.

    The gate and up projection has 28,672 = 16,384 + 12,288 columns, the down projection a depth of 14,336, half-way
    between two that were measured; the vocabulary is a little smaller than twice 65,536.
    """

    def gemm_s(columns: int, depth: int) -> float:
        return rows["gemm", tokens, columns, depth, 0]

    layer_s = gemm_s(6144, 4096) + gemm_s(4096, 4096) + gemm_s(16384, 4096) + gemm_s(12288, 4096)
    layer_s += (gemm_s(4096, 12288) + gemm_s(4096, 16384)) / 2
    # Only the last token of each sequence meets the vocabulary; in a prefill that is one.
    head_rows = tokens if tokens <= 256 else 1
    head_s = rows["gemm", head_rows, 65536, 4096, 0] * VOCABULARY / 65536
    return LAYERS * layer_s + head_s


def _powers(first: int, last: int) -> list[int]:
    return [2**i for i in range(first.bit_length() - 1, last.bit_length())]


def fit_line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return intercept and slope with the least squared relative error."""
    weights = [1 / y**2 for _, y in points]
    total = sum(weights)
    mean_x = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
    mean_y = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    slope = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, points, strict=True)) / spread
    return mean_y - slope * mean_x, slope
