"""The clock of these tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.operator.runtime.steady_loop import SteadyLoop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A loop for each test: a steady one for those that have their whole world in their own process."""
    return {"loop": SteadyLoop if item.get_closest_marker("steady") else asyncio.new_event_loop}
