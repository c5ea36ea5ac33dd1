"""What an engine file returns, and how a user's arguments become words of a command line."""

from __future__ import annotations

from dataclasses import dataclass

from llmos.api import Engine
from llmos.api.inferencepool import Adapters
from llmos_operator.planning.lora_memory import compute_host_adapters


@dataclass(frozen=True)
class EngineCommand:
    """Words after `--` of the worker's command line, and environment variables."""

    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    needs_files: bool = True
    """Whether the engine reads the model's files."""


ADAPTER_ENV: tuple[tuple[str, str], ...] = (("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1"),)
"""Opens the engine's own requests that load adapters; the worker's guard closes them to all but itself."""


def build_adapter_args(adapters: Adapters) -> tuple[str, ...]:
    """Return the arguments by which an engine can load adapters.

    vLLM gives the slot of the least recently used adapter to the one that is asked, and has all others at hand in the
    host's memory.
    """
    return (
        "--enable-lora",
        *("--max-loras", str(adapters.slot_count)),
        *("--max-cpu-loras", str(compute_host_adapters(adapters))),
        *("--max-lora-rank", str(adapters.max_rank)),
    )


def build_user_args(engine: Engine) -> tuple[str, ...]:
    """Return the user's arguments, sorted so that equal maps give equal pods. `false` leaves the argument out."""
    words: list[str] = []
    for name, value in sorted(engine.args.items()):
        if value is False:
            continue
        words.append(f"--{name}")
        if value is not True:
            words.append(str(value))
    return tuple(words)
