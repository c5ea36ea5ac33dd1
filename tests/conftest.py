"""What all tests share."""

from __future__ import annotations

import asyncio

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_stray_event_loop() -> None:
    """Say that no loop is current: else looptime makes one for the first blocking test and never closes it."""
    asyncio.set_event_loop(None)
