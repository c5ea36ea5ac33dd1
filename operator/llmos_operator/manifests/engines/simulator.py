"""The simulator: an OpenAI-compatible server with a timing model instead of a language model."""

from __future__ import annotations

from llmos.api import Engine, PoolPlan
from llmos_operator.manifests.engines.base import EngineCommand, build_user_args


def build_command(engine: Engine, plan: PoolPlan) -> EngineCommand:
    """Return the simulator's arguments."""
    args = ("--max-model-len", str(plan.max_model_len), *build_user_args(engine))
    return EngineCommand(args, needs_files=False)
