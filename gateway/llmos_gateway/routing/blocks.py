"""Turns a prompt into a chain of block hashes, so that a common beginning of two prompts is found without their text.

An engine caches the KV of a prompt in blocks and may reuse them as long as everything before is equal, too. So the hash
of each block covers all blocks before it:

    h[0] = xxh3(block 0, seed = xxh3(salt)),  h[i] = xxh3(block i, seed = h[i - 1])

and two prompts share their first i + 1 blocks exactly when h[i] is equal (but for a chance of 2^-64). The gateway has
no tokenizer: a block is 512 bytes of UTF-8, about 128 tokens of English at 4 bytes each; only full blocks count, as in
vLLM. Only where a request is sent depends on these hashes, never whose cache it reads. The salt is the one that keeps
tenants apart in the engine (`llmos_gateway.salts`): equal prompts of two tenants, which share nothing there, do not
attract each other here.

The chain is bounded at 2048 blocks (1 MiB of text, about 262,000 tokens): what comes after changes the choice no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from xxhash import xxh3_64, xxh3_64_intdigest, xxh3_128_hexdigest

__all__ = ["BLOCK_BYTES", "BLOCK_TOKENS", "MAX_BLOCKS", "PromptBlocks", "hash_blocks", "hash_chat"]

BYTES_PER_TOKEN: Final = 4
BLOCK_TOKENS: Final = 128
BLOCK_BYTES: Final = BLOCK_TOKENS * BYTES_PER_TOKEN
MAX_BLOCKS: Final = 2048
_MAX_BYTES: Final = MAX_BLOCKS * BLOCK_BYTES
_ANCHOR_BYTES: Final = 1024
# A longer string is an inline file rather than a text; its digest tells it from others and costs no blocks.
_LONGEST_ATTACHMENT_CHARS: Final = 512


@dataclass(frozen=True, slots=True)
class PromptBlocks:
    """A prompt as the router sees it."""

    hashes: tuple[int, ...]
    """Chain of hashes of its full blocks, at most MAX_BLOCKS."""
    tokens: int
    """Estimated length of the whole prompt."""
    block_tokens: int = BLOCK_TOKENS
    """Tokens that one block stands for."""
    anchor: int = 0
    """Hash of what stays the same over the turns of a conversation and differs between conversations: everything up to
    the beginning of the first user message, or the first KiB of a text."""


def hash_blocks(text: bytes | str, salt: bytes) -> PromptBlocks:
    """Return the blocks of a prompt that is one text. `salt` is what keeps prompts of different callers apart."""
    seed = xxh3_64_intdigest(salt)
    return _hash_pieces((text,), seed, anchor=_hash_anchor((), text, seed))


def hash_chat(messages: Sequence[Any], salt: bytes, tools: object = None) -> PromptBlocks:
    """Return the blocks of a chat: tools first, as most chat templates have it, then role and content of each message.

    Takes what a client sent without trusting its shape: what is not text counts by its JSON, so equal conversations
    give equal blocks, and each further turn only adds to the end.
    """
    seed = xxh3_64_intdigest(salt)
    pieces = [_to_json(tools)] if tools else []
    anchor = None
    for message in messages:
        parts = _list_pieces(message)
        if anchor is None and isinstance(message, Mapping) and message.get("role") == "user":
            anchor = _hash_anchor(pieces, "".join(parts), seed)
        pieces += parts
    return _hash_pieces(pieces, seed, anchor=_hash_anchor((), "".join(pieces), seed) if anchor is None else anchor)


def _hash_anchor(before: Iterable[str], text: bytes | str, seed: int) -> int:
    hasher = xxh3_64(_encode(text[:_ANCHOR_BYTES])[:_ANCHOR_BYTES], seed=seed)
    for piece in before:
        hasher.update(_encode(piece))
    return hasher.intdigest()


def _encode(text: bytes | str) -> bytes:
    # JSON may hold half a surrogate pair, which strict UTF-8 refuses.
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def _hash_pieces(pieces: Iterable[bytes | str], seed: int, *, anchor: int) -> PromptBlocks:
    kept: list[bytes] = []
    kept_bytes = total = 0
    for piece in pieces:
        room = _MAX_BYTES - kept_bytes
        total += len(piece)
        if room <= 0:
            continue
        encoded = _encode(piece[:room])
        total += len(encoded) - min(len(piece), room)
        kept.append(encoded)
        kept_bytes += len(encoded)
    data = kept[0] if len(kept) == 1 else b"".join(kept)
    return PromptBlocks(_chain(data, seed), max(1, total // BYTES_PER_TOKEN), anchor=anchor)


def _chain(data: bytes, digest: int) -> tuple[int, ...]:
    hashes = []
    for start in range(0, min(len(data), _MAX_BYTES) - BLOCK_BYTES + 1, BLOCK_BYTES):
        digest = xxh3_64_intdigest(data[start : start + BLOCK_BYTES], digest)
        hashes.append(digest)
    return tuple(hashes)


def _list_pieces(message: object) -> list[str]:
    if not isinstance(message, Mapping):
        return [_to_json(message)]
    pieces = [f"\n{message.get('role')}\n"]
    content = message.get("content")
    if isinstance(content, str):
        pieces.append(content)
    elif isinstance(content, list):
        pieces += map(_describe_part, content)
    if calls := message.get("tool_calls"):
        pieces.append(_to_json(calls))
    return pieces


def _describe_part(part: object) -> str:
    if isinstance(part, Mapping) and isinstance(text := part.get("text"), str):
        return text
    described = _to_json(part)
    return described if len(described) <= _LONGEST_ATTACHMENT_CHARS else xxh3_128_hexdigest(described.encode())


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), default=str)
