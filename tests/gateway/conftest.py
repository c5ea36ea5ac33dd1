"""A server for shared budgets, for whoever asks for one."""

from __future__ import annotations

from tests.gateway.redis_server import running_server, server

__all__ = ["running_server", "server"]
