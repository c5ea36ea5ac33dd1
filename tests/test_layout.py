"""The layout of the repository keeps its promises."""

from __future__ import annotations

import operator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE_ROOTS = ("operator", "gateway", "sdk", "workers")


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_a_source_root_is_no_package(root: str) -> None:
    assert not (ROOT / root / "__init__.py").exists(), f"{root}/__init__.py would shadow or split packages: remove it"


def test_operator_is_still_the_standard_library() -> None:
    assert operator.add(1, 2) == 3
    assert not Path(operator.__file__ or "").is_relative_to(ROOT)


def test_every_package_ships_its_types() -> None:
    packages = ["operator/llmos_operator", "gateway/llmos_gateway", "sdk/llmos", "workers/llmos_workers"]
    assert [package for package in packages if not (ROOT / package / "py.typed").exists()] == []
