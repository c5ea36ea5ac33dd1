"""Which replica gets a request: pure and synchronous, time comes in as an argument."""

from __future__ import annotations

from llmos_gateway.routing.blocks import PromptBlocks, hash_blocks, hash_chat
from llmos_gateway.routing.conversations import Placement
from llmos_gateway.routing.prefix_index import IndexLimits
from llmos_gateway.routing.router import Decision, Routable, Router
from llmos_gateway.routing.routers import Routers

__all__ = [
    "Decision",
    "IndexLimits",
    "Placement",
    "PromptBlocks",
    "Routable",
    "Router",
    "Routers",
    "hash_blocks",
    "hash_chat",
]
