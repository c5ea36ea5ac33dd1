"""What happens where memory does not suffice: the kernel refuses it, by a limit of the process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.training.train.world import World

MIDDLE = 700 << 20
"""Bytes: less than all activations of a step take, and more than what is kept when they are computed twice."""
SMALL = 150 << 20

LARGE: dict[str, Any] = {
    "method": {"tuning": "full"},
    "hyperparameters": {"batchTokens": 65536, "maxLength": 65536, "maxSteps": 2},
}


def test_memory_that_does_not_suffice_is_saved_first(make_world: Callable[..., World]) -> None:
    world = make_world(**LARGE)
    assert world.run(address_space_bytes=MIDDLE) == 0, world.log_path.read_text()[-3000:]
    assert "activations are computed twice from now on" in world.log_path.read_text()


def test_memory_that_never_suffices_is_said_with_numbers_and_remedy(make_world: Callable[..., World]) -> None:
    world = make_world(**LARGE)
    assert world.run(address_space_bytes=SMALL) == 1
    message = world.message
    assert message["reason"] == "OutOfMemory"
    assert "maxLength" in message["message"]
    assert "GiB" in message["message"]
