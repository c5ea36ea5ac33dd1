"""Kinds and names as people write them: `pool smol`, `job/support`, `ftj/support`."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

from llmos.api import AcceleratorClass, FineTuneJob, InferencePool, LLMModel
from llmos.client import Client


class Kind(StrEnum):
    """Kinds that commands know."""

    MODEL = "model"
    POOL = "pool"
    JOB = "job"
    ACCELERATOR = "accelerator"


_MODELS: Final[dict[Kind, type[LLMModel | InferencePool | FineTuneJob | AcceleratorClass]]] = {
    Kind.MODEL: LLMModel,
    Kind.POOL: InferencePool,
    Kind.JOB: FineTuneJob,
    Kind.ACCELERATOR: AcceleratorClass,
}


class BadReferenceError(ValueError):
    """The words name no object; the message says why."""


def parse_kind(text: str) -> Kind | None:
    """The kind that a person means: `pool`, `pools`, `InferencePool`, `ipool`..."""
    word = text.lower()
    for kind, model in _MODELS.items():
        info = model.info
        if word in (kind, f"{kind}s", info.singular, info.plural, *info.short_names):
            return kind
    return None


def parse_reference(text: str, kinds: Iterable[Kind], *, default: Kind | None = None) -> tuple[Kind, str]:
    """Kind and name of KIND/NAME, or of a NAME alone where there is a default.

    Raises:
        BadReferenceError: it is neither, or the kind is not among the wanted.
    """
    wanted = tuple(kinds)
    word, slash, name = text.partition("/")
    if not slash:
        word, name = default or "", text
    kind = parse_kind(word)
    if kind is None or kind not in wanted or not name:
        raise BadReferenceError(f"{text!r} is none of {', '.join(f'{each}/NAME' for each in wanted)}")
    return kind, name


def find_resources(client: Client, kind: Kind) -> Any:
    """The client's operations on the kind."""
    return {
        Kind.MODEL: client.models,
        Kind.POOL: client.pools,
        Kind.JOB: client.jobs,
        Kind.ACCELERATOR: client.accelerators,
    }[kind]
