"""What the operator adds to each line of its log: the key that is being reconciled.

The key travels in a context variable: each reconcile is a task with a context of its own, so that every line of any
module below it carries the key without being told.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final

from llmos_operator.reconcilers.base import Key

current_key: ContextVar[Key | None] = ContextVar("current_key", default=None)
"""The key that this task reconciles."""

CHATTY: Final = ("kopf", "asyncio", "aiohttp.access")
"""At their own info level these tell about each watch event."""


def read_key_fields() -> Mapping[str, str]:
    """Return the fields that name the key of the running reconcile, none outside of one."""
    key = current_key.get()
    return {"kind": key.kind, "namespace": key.namespace, "name": key.name} if key else {}
