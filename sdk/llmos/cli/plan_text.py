"""Writes the verdict of `llmos plan` for people. Reads values, decides nothing."""

from __future__ import annotations

from llmos.api import PoolPlan
from llmos.cli.planning import GIB, Verdict


def draw_verdict(verdict: Verdict) -> str:
    """The answer in a few lines: yes or no first, then the numbers."""
    if verdict.plan is None:
        return f"Does not fit ({verdict.reason}): {_place(verdict)}\n  {verdict.message}\n\n{_facts(verdict)}"
    rows = "\n".join(f"  {name:<24}{value}" for name, value in _rows(verdict, verdict.plan))
    return f"Fits: {_place(verdict)}\n{rows}\n\n{_facts(verdict)}\n{_manifest_hint(verdict, verdict.plan)}"


def _place(verdict: Verdict) -> str:
    if verdict.memory_gib is None:
        return f"{verdict.wish.model} on {verdict.accelerator}"
    count = verdict.wish.count
    return f"{verdict.wish.model} on {count} x {verdict.accelerator} ({verdict.memory_gib:.1f} GiB each)"


def _rows(verdict: Verdict, plan: PoolPlan) -> list[tuple[str, str]]:
    each = "" if verdict.memory_gib is None else " on each accelerator"
    rows = [
        ("weights", f"{plan.weights_gib:.1f} GiB{each}"),
        ("KV cache", f"{plan.kv_cache_gib:.1f} GiB{each}, {plan.kv_cache_tokens} tokens in all"),
        ("context length", f"{plan.max_model_len} tokens"),
        ("requests at once", f"{plan.max_concurrency:.1f} of full context length"),
    ]
    if verdict.memory_gib is None:
        return [*rows, ("container memory", f"{plan.container_memory_gib:.1f} GiB")]
    layout = f"tensor {plan.tensor_parallel_size}, pipeline {plan.pipeline_parallel_size}"
    if plan.pods > 1:
        layout += f", over {plan.pods} pods of {verdict.wish.count // plan.pods}"
    return [*rows, ("parallelism", layout), ("gpu-memory-utilization", f"{plan.gpu_memory_utilization or 0:g}")]


def _facts(verdict: Verdict) -> str:
    resolved = verdict.resolved
    size = f", {resolved.weights_bytes / GIB:.1f} GiB on disk" if resolved.weights_bytes else ""
    precision = f"{resolved.dtype}{f' ({resolved.quantization})' if resolved.quantization else ''}"
    return (
        f"Model: {resolved.architecture}, {resolved.parameters / 1e9:.2f} B parameters, {precision}{size}, "
        f"context up to {resolved.max_context} tokens."
    )


def _manifest_hint(verdict: Verdict, plan: PoolPlan) -> str:
    return (
        f"In an InferencePool: accelerator: {{class: {verdict.accelerator}, count: {verdict.wish.count}}}, "
        f"contextLength: {plan.max_model_len}"
    )
