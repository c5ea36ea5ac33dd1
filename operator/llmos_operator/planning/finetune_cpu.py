"""Processors of a train pod, and the threads that it computes with. Pure.

How many threads add up a sum decides in which order it is added, and so its last bits. An attempt that goes on where
another was must add in the same order, on whatever node it lands: the number of threads comes from the spec, never from
the node.

    threads = ceil(trainer.cpu), 2 without it
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Final

from llmos.api.finetunejob import Trainer
from llmos.api.names import CPU_CLASS

USUAL_THREADS: Final = 2
_ON_THE_PROCESSOR: Final = "500m"
"""A small request lets it start on a small machine; without a limit it uses what is idle."""
_BESIDE_AN_ACCELERATOR: Final = "1"
_MOST_THREADS: Final = 1024


def plan_cpu_request(trainer: Trainer) -> str:
    """Return what the container asks for, as a quantity."""
    if trainer.cpu:
        return trainer.cpu
    return _ON_THE_PROCESSOR if trainer.accelerator.class_name == CPU_CLASS else _BESIDE_AN_ACCELERATOR


def count_threads(trainer: Trainer) -> int:
    """Return with how many threads the trainer computes."""
    if not trainer.cpu:
        return USUAL_THREADS
    number, is_milli = trainer.cpu.rstrip("m"), trainer.cpu.endswith("m")
    try:
        processors = Decimal(number) / (1000 if is_milli else 1)
    except ArithmeticError:
        return USUAL_THREADS
    return min(max(1, math.ceil(processors)), _MOST_THREADS)
