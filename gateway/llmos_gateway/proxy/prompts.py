"""The prompt of a request as the router and the queues see it: block hashes, and tokens as an estimate.

The estimate (UTF-8 bytes / 4, see `routing.blocks`) serves queues and load only; what is counted for the caller is the
engine's own number. Token ids need no estimate.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from llmos_gateway.protocol.requests import ApiPart, ModelRequest
from llmos_gateway.routing import PromptBlocks, hash_blocks, hash_chat


def build_prompt(request: ModelRequest, cache_salt: str) -> PromptBlocks:
    """Return the prompt's blocks, salted as in the engine: what it will not find in a cache attracts nothing here."""
    salt, prompt = cache_salt.encode(), request.prompt
    if request.part is ApiPart.CHAT:
        return hash_chat(prompt, salt, request.fields.get("tools"))
    if isinstance(prompt, str):
        return hash_blocks(prompt, salt)
    if not isinstance(prompt, list) or not prompt:
        return hash_blocks(b"", salt)
    if isinstance(prompt[0], dict):
        return hash_chat(prompt, salt, request.fields.get("tools"))
    blocks = hash_blocks(orjson.dumps(prompt), salt)
    ids = _count_ids(prompt)
    return replace(blocks, tokens=ids) if ids else blocks


def _count_ids(prompt: list[Any]) -> int:
    if isinstance(prompt[0], int):
        return len(prompt)
    return sum(len(ids) for ids in prompt if isinstance(ids, list))
