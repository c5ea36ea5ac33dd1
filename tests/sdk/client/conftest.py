"""Each test of an operation runs against the blocking and the asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.sdk.client.support import Handler, Twin


@pytest.fixture(scope="session", autouse=True)
def no_stray_event_loop() -> None:
    """Say that no loop is current: else looptime makes one for the first blocking test and never closes it."""
    asyncio.set_event_loop(None)


@pytest.fixture(params=["blocking", "asynchronous"])
def client_for(request: pytest.FixtureRequest) -> Callable[[Handler], Twin]:
    return lambda handler: Twin(request.param, handler)
