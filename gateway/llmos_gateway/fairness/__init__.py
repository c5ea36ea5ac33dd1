"""Whose request goes next, and how many go at once: pure and synchronous, time comes in as an argument.

`counters` says whose turn it is, `queue` who waits and who may go, `window` how many requests the replicas of a pool
get at once. The gateway's `queueing` and the benchmark run this very code.
"""

from __future__ import annotations

from llmos_gateway.fairness.counters import Costs, Flow
from llmos_gateway.fairness.queue import FairQueue, QueueFull, QueueLimits, Ticket
from llmos_gateway.fairness.window import EngineFigures, Room, Window

__all__ = [
    "Costs",
    "EngineFigures",
    "FairQueue",
    "Flow",
    "QueueFull",
    "QueueLimits",
    "Room",
    "Ticket",
    "Window",
]
