"""What happens where memory does not suffice: the kernel refuses it, by a limit of the process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.train.world import World, make_base, make_rows, write_dataset

TOKENS = 32768
MIDDLE = 700 << 20
"""Bytes: all activations of a step take 850 MB, those that are kept when they are computed twice less than 600 MB."""
SMALL = 200 << 20
"""Bytes: enough to begin with, and less than a micro-batch of three times as many tokens takes in any case."""


@pytest.fixture
def deep(make_world: Callable[..., World], tmp_path: Path) -> Callable[..., World]:
    """Make worlds with a base model whose activations take much more than its weights."""
    base = make_base(tmp_path / "deep", layers=8)
    # All of one length: others would be cut into micro-batches of their own.
    rows = [row for row in make_rows(900) if len(row["input_ids"]) == 10]

    def make(name: str, tokens: int = TOKENS) -> World:
        hyperparameters = {"batchTokens": tokens, "maxLength": tokens, "maxSteps": 2}
        world = make_world(name, method={"tuning": "full"}, hyperparameters=hyperparameters)
        write_dataset(world.work, {"train": rows[10:], "eval": rows[:10]})
        return replace(world, base=base)

    return make


def test_memory_that_does_not_suffice_is_saved_and_changes_no_bit(deep: Callable[..., World]) -> None:
    ample, narrow = deep("ample"), deep("narrow")
    ample.complete()
    assert narrow.run(address_space_bytes=MIDDLE) == 0, narrow.log_path.read_text()[-3000:]
    said = "activations are computed twice from now on"
    assert (said in ample.log_path.read_text(), said in narrow.log_path.read_text()) == (False, True)
    assert narrow.result_files() == ample.result_files()


def test_memory_that_never_suffices_is_said_with_numbers_and_remedy(deep: Callable[..., World]) -> None:
    world = deep("small", 3 * TOKENS)
    assert world.run(address_space_bytes=SMALL) == 1
    message = world.message
    assert message["reason"] == "OutOfMemory"
    assert "maxLength" in message["message"]
    assert "GiB" in message["message"]
