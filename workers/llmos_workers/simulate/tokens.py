"""Tokens and answers of the simulator: which text a request means, and how many tokens it counts.

The rule: a token is four characters of one piece of text, the last one may be shorter; each chat message adds one token
for its role and one for its end. Four characters is what English text costs in common vocabularies, so prompts have
about the size that a real tokenizer would give them. Each generated token is a three-letter word and a space, that is
four characters, so that an answer sent back in the next turn of a chat is cut into the very same tokens and finds its
KV blocks in the prefix cache, as with a real engine.

Everything here is a pure function of the seed and the request: equal requests get equal answers, in any process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

CHARACTERS_PER_TOKEN: Final = 4
BLOCK_TOKENS: Final = 16

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Answer:
    """Text that a sequence will produce, one piece per token. A piece is empty where a stop string is left out."""

    pieces: tuple[str, ...]
    finish_reason: FinishReason


def split_tokens(text: str) -> list[str]:
    """Cut one piece of text into tokens."""
    return [text[start : start + CHARACTERS_PER_TOKEN] for start in range(0, len(text), CHARACTERS_PER_TOKEN)]


_WORDS: Final = tuple(
    split_tokens(
        "ant art bay bee box boy bus cab cap car cat cow cup day dog ear egg elm eye fan far fig fin fly fox fur "
        "gem hat hay hen hut ice ink ivy jar jet joy key kid kit lab leg lid map mug nut oak oar owl pan pen pie "
        "pot ram red rye sea sky sun tea tin toe toy van "
    )
)
"""64 words, so that the low six bits of a random byte pick each of them equally often."""


def build_chat_tokens(messages: Iterable[tuple[str, str]]) -> list[str]:
    """Tokens of a conversation of (role, text), ready for the assistant's turn."""
    tokens: list[str] = []
    for role, text in messages:
        tokens += [f"<{role}>", *split_tokens(text), "<end>"]
    return [*tokens, "<assistant>"]


def compute_digest(tokens: Sequence[str], *salt: object) -> bytes:
    """Digest that stands for a request's content in the seed of its answer."""
    text = "\x1f".join([*map(str, salt), *tokens])
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def compute_answer_tokens(digest: bytes, mean_tokens: int) -> int:
    """Length at which an answer ends by itself: uniform in [mean / 2, 3 mean / 2]."""
    low = max(1, mean_tokens // 2)
    spread = max(1, 2 * (mean_tokens - low) + 1)
    return low + int.from_bytes(hashlib.blake2b(digest, digest_size=8).digest()) % spread


def build_answer(digest: bytes, length: int, *, limit: int, stop: Sequence[str] = ()) -> Answer:
    """The answer that wants to be `length` tokens long and may be `limit` tokens long.

    It ends with reason "stop" by itself, or where one of the `stop` strings first appears (which is left out, though
    its tokens are generated and counted), and with "length" where the limit cuts it.
    """
    tokens = min(length, limit)
    pieces = [_WORDS[byte & 63] for byte in hashlib.shake_128(digest).digest(tokens)]
    text = "".join(pieces)
    found = [(text.index(word), word) for word in stop if word and word in text]
    if not found:
        return Answer(tuple(pieces), "stop" if length <= limit else "length")
    cut, word = min(found)
    needed = -(-(cut + len(word)) // CHARACTERS_PER_TOKEN)
    kept = split_tokens(text[:cut])
    return Answer((*kept, *[""] * (needed - len(kept))), "stop")


def compute_block_keys(tokens: Sequence[str], salt: str = "") -> tuple[bytes, ...]:
    """One key for each full block of tokens; equal keys mean equal tokens in this and all earlier blocks."""
    keys: list[bytes] = []
    parent = salt.encode(errors="surrogatepass")
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        block = "\x1f".join(tokens[start : start + BLOCK_TOKENS])
        parent = hashlib.blake2b(parent + b"\x1e" + block.encode(errors="surrogatepass"), digest_size=16).digest()
        keys.append(parent)
    return tuple(keys)
