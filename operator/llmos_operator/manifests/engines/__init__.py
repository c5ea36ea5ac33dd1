"""One engine, one file: the command line and environment of each engine that a pool may choose."""

from __future__ import annotations

from llmos.api import Engine, LLMModel, PoolPlan
from llmos.api.inferencepool import Adapters
from llmos_operator.manifests.engines import simulator, vllm
from llmos_operator.manifests.engines.base import EngineCommand


def build_engine_command(
    engine: Engine, model: LLMModel | None, plan: PoolPlan, *, on_cpu: bool, adapters: Adapters | None = None
) -> EngineCommand:
    """Return the command line and environment of the engine."""
    if engine.name == "simulator":
        return simulator.build_command(engine, plan, adapters)
    return vllm.build_command(engine, model, plan, on_cpu=on_cpu, adapters=adapters)
