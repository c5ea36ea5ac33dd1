"""Importing without the garbage collector.

torch, transformers and peft make about a million objects that stay for the life of the process. The collector would
look at them again and again while they are made, and later at each full collection, and would find next to nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def keep_everything() -> Iterator[None]:
    """Collect nothing meanwhile, and never look for garbage among what is there at the end."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
