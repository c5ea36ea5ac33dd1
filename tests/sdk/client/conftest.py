"""Each test of an operation runs against the blocking and the asynchronous client."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.sdk.client.support import Handler, Twin


@pytest.fixture(params=["blocking", "asynchronous"])
def client_for(request: pytest.FixtureRequest) -> Callable[[Handler], Twin]:
    return lambda handler: Twin(request.param, handler)
