"""The simulator: an OpenAI-compatible server with a timing model instead of a language model."""

from __future__ import annotations

from llmos.api import Engine, PoolPlan
from llmos.api.inferencepool import Adapters
from llmos_operator.manifests.engines.base import (
    ADAPTER_ENV,
    EngineCommand,
    build_adapter_args,
    build_user_args,
)


def build_command(engine: Engine, plan: PoolPlan, adapters: Adapters | None = None) -> EngineCommand:
    """Return the simulator's arguments."""
    lora = build_adapter_args(adapters) if adapters else ()
    args = ("--max-model-len", str(plan.max_model_len), *lora, *build_user_args(engine))
    return EngineCommand(args, ADAPTER_ENV if adapters else (), needs_files=False)
