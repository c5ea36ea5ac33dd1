"""Libraries that others import merely because they are installed.

transformers imports scipy.optimize, for losses of object detectors, where it finds scipy. It asks once for the life of
the process. Whoever needs scipy later (bitsandbytes, for some types of numbers) finds it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def hide(name: str) -> Iterator[None]:
    """Have a library that is not imported yet look like one that is not installed, to what is imported meanwhile."""
    if name in sys.modules:
        yield
        return
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]  # None is how Python says it
    modules[name] = None
    try:
        yield
    finally:
        del modules[name]
