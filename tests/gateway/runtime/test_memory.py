"""Room for the bodies of requests in the memory that the container may have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmos_gateway.proxy.limits import Limits
from llmos_gateway.runtime.memory import compute_needed_bytes, find_memory_warning, read_limit_bytes

GIB = 1024**3


@pytest.mark.parametrize(
    ("name", "text", "limit"),
    [
        ("memory.max", f"{GIB}\n", GIB),
        ("memory.max", "max\n", None),
        ("memory/memory.limit_in_bytes", f"{GIB}\n", GIB),
        ("nothing", "", None),
    ],
)
def test_the_limit_is_read_from_either_version_of_cgroups(
    tmp_path: Path, name: str, text: str, limit: int | None
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert read_limit_bytes(tmp_path) == limit


def test_a_limit_without_room_for_the_bodies_is_told_with_its_remedy() -> None:
    limits = Limits()
    assert find_memory_warning(limits, compute_needed_bytes(limits)) == ""
    assert find_memory_warning(limits, None) == ""
    warning = find_memory_warning(replace(limits, max_bodies_bytes=2 * GIB), GIB)
    assert "1024 MiB" in warning
    assert "--max-bodies-mib (2048)" in warning
