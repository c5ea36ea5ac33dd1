"""Waits for an object to become ready, and shows what holds it up meanwhile."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Any, Final

from llmos.api import AcceleratorClass, InferencePool, LLMModel
from llmos.cli.screen import describe_progress
from llmos.client import Client
from llmos.client.readiness import AnyKind, ready_condition


class Kind(StrEnum):
    """Kinds that one can wait for."""

    MODEL = "model"
    POOL = "pool"
    ACCELERATOR = "accelerator"


_MODELS: Final[dict[Kind, type[LLMModel | InferencePool | AcceleratorClass]]] = {
    Kind.MODEL: LLMModel,
    Kind.POOL: InferencePool,
    Kind.ACCELERATOR: AcceleratorClass,
}


def parse_kind(text: str) -> Kind | None:
    """The kind that a person means: `pool`, `pools`, `InferencePool`, `ipool`..."""
    word = text.lower()
    for kind, model in _MODELS.items():
        info = model.info
        if word in (kind, f"{kind}s", info.singular, info.plural, *info.short_names):
            return kind
    return None


def run_wait(client: Client, kind: Kind, name: str, *, timeout_s: float, as_json: bool) -> None:
    """Wait; progress goes to standard error, the object (with --json) to standard output."""
    resources: Any = {Kind.MODEL: client.models, Kind.POOL: client.pools, Kind.ACCELERATOR: client.accelerators}[kind]
    thing = resources.wait_ready(name, timeout_s, on_change=ProgressLines())
    print(json.dumps(thing.to_manifest(), indent=2) if as_json else f"{thing.kind} {name} is ready.")


class ProgressLines:
    """Tells on standard error how an object comes along; only when there is something new."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, thing: AnyKind) -> None:
        line = describe(thing)
        if line != self._last:
            print(line, file=sys.stderr)
            self._last = line


def describe(thing: AnyKind) -> str:
    """One line about an object's state."""
    condition = ready_condition(thing)
    if condition is None:
        return f"{thing.metadata.name}: waiting for the operator"
    progress = describe_progress(thing.status.fetch) if isinstance(thing, LLMModel) else ""
    message = progress or condition.message
    return f"{thing.metadata.name}: {condition.reason}{f': {message}' if message else ''}"
