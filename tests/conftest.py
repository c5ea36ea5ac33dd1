"""What all tests share."""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import settings
from hypothesis.strategies import from_regex

# A test says what is right, not how fast: no deadlines. CI tells the same cases each time, so that a change fails by
# what it did; every other run looks for new ones.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session", autouse=True)
def no_stray_event_loop() -> None:
    """Say that no loop is current: else looptime makes one for the first blocking test and never closes it."""
    asyncio.set_event_loop(None)


@pytest.fixture(scope="session", autouse=True)
def whole_hypothesis() -> None:
    """Import now what Hypothesis imports at the first use of this strategy.

    pytest rewrites what it imports, and deep in a test the parser of Python 3.11 now and then fails at it ("AST
    constructor recursion depth mismatch").
    """
    from_regex("a").validate()
