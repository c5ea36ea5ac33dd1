"""Worlds to train in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.train.world import World, make_base, make_job, make_rows, write_dataset

MakeWorld = Callable[..., World]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Compute what is computed in this process with one thread, like the attempts."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model."""
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset of 100 examples and 20 that are held out."""
    work = tmp_path_factory.mktemp("prepared")
    rows = make_rows(120)
    write_dataset(work, {"train": rows[:100], "eval": rows[100:], "suite-rule": rows[:30]})
    return work


@pytest.fixture
def make_world(base: Path, prepared: Path, tmp_path: Path) -> MakeWorld:
    """Make a claim of its own with the prepared dataset, and a job."""

    def make(name: str = "work", **changes: Any) -> World:
        work = tmp_path / name
        shutil.copytree(prepared, work)
        return World(base, work, make_job(**changes))

    return make
