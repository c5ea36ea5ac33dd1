"""Runs the command line over a scripted cluster that is given to it as a value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import httpx
import pytest
from typer.testing import CliRunner, Result

from llmos.cli.app import app
from llmos.cli.session import Session, Target
from llmos.client import Client, Connection, Endpoint
from tests.sdk.client.support import BORN, CONNECTION, Handler

Run = Callable[..., Result]


@pytest.fixture
def llmos() -> Run:
    """`llmos(handler, *arguments)` runs the command; `lines` are what the user types in a conversation."""

    def run(
        handler: Handler,
        *arguments: str,
        lines: list[str] | None = None,
        age_s: float = 5,
        environment: dict[str, str] | None = None,
    ) -> Result:
        typed: Iterator[str] = iter(lines or [])

        def connect(target: Target) -> Client:
            connection = Connection(server=CONNECTION.server, namespace=target.namespace or CONNECTION.namespace)
            return Client(connection=connection, transport=httpx.MockTransport(handler))

        def read_line(_prompt: str) -> str:
            try:
                return next(typed)
            except StopIteration:
                raise EOFError from None

        session = Session(
            connect=connect,
            open_endpoint=lambda url, key: Endpoint(url, api_key=key, transport=httpx.MockTransport(handler)),
            read_line=read_line,
            read_pipe=lambda: None,
            now=lambda: BORN + timedelta(seconds=age_s),
            environment=environment or {},
        )
        return CliRunner().invoke(app, list(arguments), obj=session)

    return run
