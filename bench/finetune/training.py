"""What training costs beside a bare loop (`pairs`), what checkpoints cost, and what a kill costs (`killing`).

python -m bench.finetune train --model DIR [--json OUT]
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import datasets

from bench.finetune.killing import measure_kill
from bench.finetune.load import DEFAULT_EVERY_STEPS, Load
from bench.finetune.pairs import Round, compute_spread, run_rounds

TARGETS: Final = {"trainer_of_bare": 0.95, "checkpoint_share_default": 0.01, "resume_s": 10.0}


def run(
    *,
    model: Path,
    tuning: str = "lora",
    steps: int = 4,
    rounds: int = 4,
    batch_tokens: int = 256,
    max_length: int = 256,
) -> dict[str, Any]:
    """Measure one model and method."""
    datasets.disable_progress_bars()
    load = Load(model, tuning, steps, batch_tokens, max_length)
    with tempfile.TemporaryDirectory(prefix="llmos-bench-") as folder:
        prepared = Path(folder) / "prepared"
        load.write_dataset(prepared)
        done = run_rounds(load, prepared, rounds)
        kill = measure_kill(load, prepared)
    return build_figures(load, done, kill)


def build_figures(load: Load, rounds: Sequence[Round], kill: dict[str, Any]) -> dict[str, Any]:
    """Medians, and ratios within rounds. The default is to save after 200 steps: one save's cost, over these."""
    step_s = statistics.median(one.trainer.wall_s for one in rounds) / load.steps
    save_s = max(0.0, statistics.median(one.saving.wall_s - one.trainer.wall_s for one in rounds) / load.steps)
    return {
        "tuning": load.tuning,
        "steps": load.steps,
        "tokens": rounds[0].tokens,
        "bare_tokens_per_s": statistics.median(one.tokens / one.bare.wall_s for one in rounds),
        "trainer_tokens_per_s": statistics.median(one.tokens / one.trainer.wall_s for one in rounds),
        "trainer_of_bare_wall": compute_spread([one.bare.wall_s / one.trainer.wall_s for one in rounds]),
        "trainer_of_bare_cpu": compute_spread([one.bare.cpu_s / one.trainer.cpu_s for one in rounds]),
        "checkpoint_cost_s": save_s,
        "checkpoint_share_each_step": save_s / (step_s + save_s),
        "checkpoint_share_default": save_s / (DEFAULT_EVERY_STEPS * step_s + save_s),
        **kill,
        "targets": TARGETS,
        "rounds": [asdict(one) for one in rounds],
    }
