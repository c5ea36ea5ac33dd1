"""Prints the scores as tables and gathers everything for the JSON file."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.memory.heldout import predict_leaving_family_out, predict_leaving_version_out
from bench.memory.observations import Observation, Skipped
from bench.memory.scoring import Decision, Prediction, Score, decide, predict, summarize, summarize_by

# What others reported, or what was computed of theirs, on rows that this data set shares. Not run again here.
PUBLISHED = (
    ("llm-d-planner", 6.62, None, "53 runs, H100, vLLM 0.19; its own report"),
    ("NVIDIA AIConfigurator 0.12.0", 4.66, 1.73, "12 of these rows; its tables are for vLLM 0.24"),
    ("KAITO formula, logged weights", 3.62, 1.92, "59 runs, H100, vLLM 0.19; weights taken from the log"),
)
SHARED_VERSION = "0.19.0"


def build_report(observations: list[Observation], skipped: list[Skipped]) -> dict[str, Any]:
    """All scores as plain values."""
    predictions = [predict(observation) for observation in observations]
    shared = [prediction for prediction in predictions if prediction.observation.version == SHARED_VERSION]
    decisions = decide(observations)
    families_out = predict_leaving_family_out(observations)
    versions_out = predict_leaving_version_out(observations)
    return {
        "machine": f"{platform.machine()} {platform.system()}, Python {platform.python_version()}",
        "rows": {
            "all": len(observations) + len(skipped),
            "kv": sum(prediction.kv_error_percent is not None for prediction in predictions),
            "weights": sum(prediction.weights_error_percent is not None for prediction in predictions),
            "skipped": len(skipped),
        },
        "kv": {
            "all": _score(summarize(p.kv_error_percent for p in predictions)),
            "vllm 0.19 rows": _score(summarize(p.kv_error_percent for p in shared)),
            "vllm 0.19 rows, logged weights": _score(summarize(p.kv_error_with_logged_weights_percent for p in shared)),
            "leave one family out": _score(summarize(p.kv_error_percent for p in families_out)),
            "leave one version out": _score(summarize(p.kv_error_percent for p in versions_out)),
        },
        "weights": {"all": _score(summarize(p.weights_error_percent for p in predictions))},
        "kaito": {
            "all": _score(summarize(p.kaito_error_percent for p in predictions)),
            "vllm 0.19 rows": _score(summarize(p.kaito_error_percent for p in shared)),
            "vllm 0.19 rows, logged weights": _score(
                summarize(p.kaito_error_with_logged_weights_percent for p in shared)
            ),
        },
        "by": {name: _groups(predictions, key) for name, key in _KEYS.items()},
        "decisions": {
            "counts": dict(Counter(decision.verdict for decision in decisions)),
            "rows": [
                _decision(decision) for decision in decisions if not decision.started or decision.verdict != "right"
            ],
        },
        "published": [
            {"estimator": name, "mape": mape, "median": median, "basis": basis}
            for name, mape, median, basis in PUBLISHED
        ],
        "predictions": [_prediction(prediction) for prediction in predictions],
        "skipped": [asdict(skip) for skip in skipped],
    }


_KEYS = {
    "family": lambda observation: observation.architecture.family,
    "gpu": lambda observation: observation.gpu,
    "vllm version": lambda observation: observation.version,
}


def print_report(report: dict[str, Any], console: Console) -> None:
    """The same for a person."""
    rows = report["rows"]
    console.print(
        f"{rows['all']} rows: {rows['kv']} with KV cache, {rows['weights']} with weights, {rows['skipped']} skipped. "
        f"{report['machine']}"
    )
    table = _table("Error of available KV GiB, from the configuration alone", "estimator")
    for name, score in report["kv"].items():
        _add(table, f"LLMOS, {name}", score)
    for name, score in report["kaito"].items():
        _add(table, f"KAITO formula, {name}", score)
    _add(table, "LLMOS, weights GiB, all", report["weights"]["all"])
    console.print(table)
    published = Table(title="Published errors of KV GiB (not run again)")
    for column in ("estimator", "MAPE %", "median %", "basis"):
        published.add_column(column)
    for entry in report["published"]:
        median = "-" if entry["median"] is None else f"{entry['median']:.2f}"
        published.add_row(entry["estimator"], f"{entry['mape']:.2f}", median, entry["basis"])
    console.print(published)
    for name, groups in report["by"].items():
        table = _table(f"By {name}", name)
        for group, scores in groups.items():
            _add(table, f"{group}: KV", scores.get("kv"))
            _add(table, f"{group}: weights", scores.get("weights"))
        console.print(table)
    _print_decisions(report["decisions"], console)
    for skip in report["skipped"]:
        console.print(f"skipped row {skip['row']}: {skip['reason']}", highlight=False)


def _print_decisions(decisions: dict[str, Any], console: Console) -> None:
    counts = decisions["counts"]
    console.print(
        f"Starts and refusals: {counts.get('right', 0)} right, {counts.get('dangerous', 0)} dangerous "
        f'("fits" where the engine refused), {counts.get("wasteful", 0)} wasteful (refused where it started)'
    )
    for decision in decisions["rows"]:
        engine = "started" if decision["started"] else "refused"
        console.print(
            f"  row {decision['row']} {decision['model']} at {decision['maxModelLen']}: "
            f"engine {engine}, planner is {decision['verdict']}",
            highlight=False,
        )


def _table(title: str, first: str) -> Table:
    table = Table(title=title)
    table.add_column(first)
    for column in ("rows", "MAPE %", "median %", "p95 %", "worst %"):
        table.add_column(column, justify="right")
    return table


def _add(table: Table, name: str, score: dict[str, float] | None) -> None:
    if score:
        table.add_row(name, str(score["count"]), *(f"{score[key]:.2f}" for key in ("mape", "median", "p95", "worst")))


def _score(score: Score | None) -> dict[str, float] | None:
    return asdict(score) if score else None


def _groups(predictions: list[Prediction], key: Any) -> dict[str, dict[str, Any]]:
    kv = summarize_by(predictions, key, lambda prediction: prediction.kv_error_percent)
    weights = summarize_by(predictions, key, lambda prediction: prediction.weights_error_percent)
    return {
        name: {"kv": _score(kv.get(name)), "weights": _score(weights.get(name))} for name in sorted({*kv, *weights})
    }


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "row": decision.row,
        "model": decision.model,
        "maxModelLen": decision.max_model_len,
        "started": decision.started,
        "verdict": decision.verdict,
    }


def _prediction(prediction: Prediction) -> dict[str, Any]:
    observation, estimate = prediction.observation, prediction.estimate
    return {
        "row": observation.row,
        "model": observation.model,
        "version": observation.version,
        "kvGib": {"predicted": estimate.available_kv_gib, "observed": observation.available_kv_gib},
        "weightsGib": {"predicted": estimate.weights_gib, "observed": observation.weights_gib},
        "activationGib": {"predicted": estimate.activation_gib, "observed": observation.activation_gib},
        "nonTorchGib": {"predicted": estimate.non_torch_gib, "observed": observation.non_torch_gib},
        "blocks": {"predicted": estimate.kv_cache.blocks, "observed": observation.blocks},
        "kvErrorPercent": prediction.kv_error_percent,
    }
