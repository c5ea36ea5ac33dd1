"""What an engine file returns, and how a user's arguments become words of a command line."""

from __future__ import annotations

from dataclasses import dataclass

from llmos.api import Engine


@dataclass(frozen=True)
class EngineCommand:
    """Words after `--` of the worker's command line, and environment variables."""

    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    needs_files: bool = True
    """Whether the engine reads the model's files."""


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
