"""What the commands need from outside, as one value: tests and other programs give their own.

CliRunner().invoke(app, ["status"], obj=Session(connect=lambda target: Client(connection=..., transport=...)))
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmos.client import Client, Endpoint


@dataclass(frozen=True)
class Target:
    """Which cluster and namespace a command is about; None leaves it to the kubeconfig."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | None = None


def connect_cluster(target: Target) -> Client:
    """Connect as kubectl would."""
    from llmos.client import Client  # noqa: PLC0415  (half a second that --help and offline use do not need)

    return Client(kubeconfig=target.kubeconfig, context=target.context, namespace=target.namespace)


def open_endpoint(url: str, api_key: str = "") -> Endpoint:
    """Connect to one server, without any cluster."""
    from llmos.client import Endpoint  # noqa: PLC0415  (as above)

    return Endpoint(url, api_key=api_key)


def ask_line(prompt: str) -> str:
    """Ask at the terminal, with line editing and history where there is readline.

    Raises:
        EOFError: the user ended the input.
    """
    with suppress(ImportError):
        import readline  # noqa: F401, PLC0415  (changes how input() works)
    return input(prompt)


def read_pipe() -> str | None:
    """What comes through a pipe, None at a terminal."""
    return None if sys.stdin.isatty() else sys.stdin.read()


def read_now() -> datetime:
    """The present time."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Session:
    """The outside world of a command."""

    connect: Callable[[Target], Client] = connect_cluster
    open_endpoint: Callable[[str, str], Endpoint] = open_endpoint
    read_line: Callable[[str], str] = ask_line
    read_pipe: Callable[[], str | None] = read_pipe
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], datetime] = read_now
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
