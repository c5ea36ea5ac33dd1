"""From texts to tokens and labels, a batch at a time, in arrays.

An example comes as pieces of text that are learned or not. Where the tokenizer allows it (`_is_piecewise`), the pieces
are encoded one by one: an answer's tokens then begin exactly where an engine's do, which encodes the prompt alone and
adds token after token. Tokenizers that put a space before every text (Llama 2, Mistral) do not allow it: there the
whole is encoded, and so is every beginning of it, and a piece ends where the two part.

fastokens encodes about ten times faster than the library that transformers uses, and promises the same tokens. The
promise is checked: on probes at the start, and on one example of every batch. Where it does not hold, or fastokens does
not know the tokenizer, the slow one is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from fastokens import Tokenizer as FastTokenizer
from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]
IGNORED: Final = -100
"""The label of what is not learned, as torch's cross entropy has it."""

_PROBES: Final = (
    "Hello, world! It's 12,345.67 o'clock.\n\n\n  Tabs\tand   spaces  \r\n",
    "def f(x):\n    return {x: [1, 2, 3]}  # naïve café, Straße, ŒUVRE, ﬁne\n",
    "日本語のテキスト。中文文本、한국어 텍스트. Привет, мир! مرحبا بالعالم नमस्ते दुनिया",
    "👩‍👩‍👧‍👦 🇩🇪 e\u0301 \u200b\u00a0\ufeff\x00\x07 \U0001d54f <|user|> </s> <s> [INST] $$\\frac{1}{2}$$",
    " leading", "trailing ", "", " ", "\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
)  # fmt: skip


class EncodersDisagreeError(Exception):
    """The fast encoder gave other tokens than the slow one."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of an example's text."""

    text: str
    is_learned: bool
    label: int | None = None
    """The class of the piece, which its first token is to tell, instead of the token after it."""


@dataclass(frozen=True)
class Rows:
    """Tokens of examples, one behind the other: row i is at `bounds[i]` to `bounds[i + 1]` of `ids` and `labels`."""

    ids: Ints
    labels: Ints
    bounds: Places
    prompts: Places
    """Tokens of each row before what it learns last."""
    other: Rows | None = None
    """As many rows, with the second ones of pairs."""

    @property
    def lengths(self) -> Places:
        """Tokens of each row."""
        return np.diff(self.bounds)

    @property
    def longest(self) -> Places:
        """Tokens of each row, or of the longer one of a pair."""
        return np.maximum(self.lengths, self.other.lengths) if self.other else self.lengths


class Encoder(Protocol):
    """Encodes texts without special tokens around them."""

    def encode(self, texts: Sequence[str]) -> tuple[Ints, Places]:
        """Return the tokens of all texts, one behind the other, and where each begins, with the end as the last."""
        ...


class SlowEncoder:
    """The model's own tokenizer, in whatever library it comes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take the tokenizer."""
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> tuple[Ints, Places]:
        """Encode texts."""
        options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        ids = self._tokenizer(list(texts), **options)["input_ids"] if texts else []
        bounds = np.fromiter(accumulate(map(len, ids), initial=0), dtype=np.int64, count=len(ids) + 1)
        return np.fromiter((one for row in ids for one in row), dtype=np.int32, count=int(bounds[-1])), bounds


class FastEncoder:
    """fastokens."""

    def __init__(self, definition: str) -> None:
        """Read tokenizer.json; raises whatever fastokens raises where it does not know the tokenizer."""
        self._tokenizer = FastTokenizer.from_json_str(definition)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> tuple[Ints, Places]:
        """Encode texts."""
        ids, bounds = self._tokenizer.encode_batch_flat(list(texts), add_special_tokens=False)
        return np.frombuffer(ids, dtype=np.int32), np.frombuffer(bounds, dtype=np.uint64).astype(np.int64)


class Tokens:
    """The model's tokenizer as the dataset gate needs it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, use_fast: bool = True) -> None:
        """Find out what the tokenizer does around a text, and choose the encoder."""
        self._slow = SlowEncoder(tokenizer)
        self._encoder: Encoder = (_build_fast(tokenizer, self._slow) if use_fast else None) or self._slow
        self.bos: list[int] = _find_beginning(tokenizer)
        self.eos: int | None = tokenizer.eos_token_id
        self.ending: list[int] = _find_ending(tokenizer, len(self.bos))
        self.end_texts: tuple[str, ...] = tuple(str(token) for token in tokenizer.all_special_tokens)
        self._is_piecewise = _is_piecewise(self._slow)
        self.digest = _compute_digest(tokenizer)

    @property
    def is_fast(self) -> bool:
        """Whether fastokens encodes."""
        return self._encoder is not self._slow

    def encode(self, examples: Sequence[Sequence[Piece]], *, begins: Sequence[bool], ends: Sequence[bool]) -> Rows:
        """Encode examples; `begins` puts the tokenizer's beginning before some, `ends` its end behind some.

        Raises:
            EncodersDisagreeError: fastokens breaks its promise; make a new one with use_fast=False.
        """
        ids, bounds = self._encode_pieces(examples)
        is_learned = np.fromiter((piece.is_learned for pieces in examples for piece in pieces), dtype=bool)
        labels = np.where(np.repeat(is_learned, np.diff(bounds)), ids, np.int32(IGNORED))
        _label_pieces(labels, bounds, [piece.label for pieces in examples for piece in pieces])
        firsts = np.fromiter(accumulate(map(len, examples), initial=0), dtype=np.int64)
        lasts = np.fromiter((_find_last(pieces) for pieces in examples), dtype=np.int64)
        rows = Rows(ids, labels, bounds[firsts], bounds[firsts[:-1] + lasts] - bounds[firsts[:-1]])
        return self._close(self._open(rows, np.array(begins, dtype=bool)), np.array(ends, dtype=bool))

    def enclose(self, rows: Rows) -> Rows:
        """Put behind each row what the tokenizer itself puts behind every text, as BERT's does."""
        count, width = len(rows.prompts), len(self.ending)
        places = np.repeat(rows.bounds[1:], width)
        return Rows(
            np.insert(rows.ids, places, np.tile(np.array(self.ending, dtype=np.int32), count)),
            np.insert(rows.labels, places, np.int32(IGNORED)),
            rows.bounds + np.arange(count + 1) * width,
            rows.prompts,
        )

    def _open(self, rows: Rows, begins: npt.NDArray[np.bool_]) -> Rows:
        width = len(self.bos)
        if not width or not begins.any():
            return rows
        places = np.repeat(rows.bounds[:-1][begins], width)
        shift = np.concatenate([[0], np.cumsum(begins)]) * width
        return Rows(
            np.insert(rows.ids, places, np.tile(np.array(self.bos, dtype=np.int32), int(begins.sum()))),
            np.insert(rows.labels, places, np.int32(IGNORED)),
            rows.bounds + shift,
            rows.prompts + begins * width,
        )

    def _close(self, rows: Rows, ends: npt.NDArray[np.bool_]) -> Rows:
        if self.eos is None or not len(rows.ids):
            return rows
        # A text may hold its end already.
        ends = ends & (rows.ids[np.maximum(rows.bounds[1:] - 1, 0)] != self.eos)
        places = rows.bounds[1:][ends]
        shift = np.concatenate([[0], np.cumsum(ends)])
        return Rows(
            np.insert(rows.ids, places, np.int32(self.eos)),
            np.insert(rows.labels, places, np.int32(self.eos)),
            rows.bounds + shift,
            rows.prompts,
        )

    def _encode_pieces(self, examples: Sequence[Sequence[Piece]]) -> tuple[Ints, Places]:
        if self._is_piecewise:
            texts = [piece.text for pieces in examples for piece in pieces]
        else:
            texts = [text for pieces in examples for text in _build_beginnings(pieces)]
        ids, bounds = self._encoder.encode(texts)
        self._check(texts, ids, bounds)
        return (ids, bounds) if self._is_piecewise else _join_beginnings(examples, ids, bounds)

    def _check(self, texts: Sequence[str], ids: Ints, bounds: Places) -> None:
        if not self.is_fast or not texts:
            return
        index = len(texts) // 2
        expected, _ = self._slow.encode([texts[index]])
        if not np.array_equal(expected, ids[bounds[index] : bounds[index + 1]]):
            raise EncodersDisagreeError


def _find_last(pieces: Sequence[Piece]) -> int:
    return max((index for index, piece in enumerate(pieces) if piece.is_learned), default=0)


def _build_fast(tokenizer: PreTrainedTokenizerBase, slow: SlowEncoder) -> FastEncoder | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    try:
        fast = FastEncoder(backend.to_str())
        probes = [*_PROBES, "".join(_PROBES), "".join(f"{token} x " for token in tokenizer.all_special_tokens)]
        (ids, bounds), (slow_ids, slow_bounds) = fast.encode(probes), slow.encode(probes)
        is_same = np.array_equal(ids, slow_ids) and np.array_equal(bounds, slow_bounds)
    except Exception as error:  # noqa: BLE001 - it says in many ways that it does not know a tokenizer
        log.info("fastokens does not take this tokenizer (%s): the slow encoder is used", type(error).__name__)
        return None
    if not is_same:
        log.warning("fastokens gives other tokens for this tokenizer: the slow encoder is used")
    return fast if is_same else None


def _find_beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that the tokenizer puts before every text."""
    plain = tokenizer("x", add_special_tokens=False)["input_ids"]
    whole = tokenizer("x")["input_ids"]
    for width in range(len(whole) - len(plain) + 1):
        if whole[width : width + len(plain)] == plain:
            return list(whole[:width])
    return []


def _find_ending(tokenizer: PreTrainedTokenizerBase, beginning: int) -> list[int]:
    """Return the tokens that the tokenizer puts behind every text."""
    plain = tokenizer("x", add_special_tokens=False)["input_ids"]
    return list(tokenizer("x")["input_ids"][beginning + len(plain) :])


def _label_pieces(labels: Ints, bounds: Places, given: Sequence[int | None]) -> None:
    """Put the label of each piece at its first token; a piece without tokens has none to put it at."""
    values = np.array([IGNORED if label is None else label for label in given], dtype=np.int32)
    placed = (values != IGNORED) & (np.diff(bounds) > 0)
    labels[bounds[:-1][placed]] = values[placed]


def _is_piecewise(encoder: Encoder) -> bool:
    """Whether a text's tokens do not depend on whether it stands at the beginning."""
    (whole, _), (parts, _) = encoder.encode(["x y.\nz"]), encoder.encode(["x", " y.", "\nz"])
    return np.array_equal(whole, parts)


def _build_beginnings(pieces: Sequence[Piece]) -> list[str]:
    return list(accumulate(piece.text for piece in pieces))


def _join_beginnings(examples: Sequence[Sequence[Piece]], ids: Ints, bounds: Places) -> tuple[Ints, Places]:
    """Cut each whole text where its beginnings part from it."""
    wholes, cuts, index, offset = [], [0], 0, 0
    for pieces in examples:
        last = index + len(pieces) - 1
        whole = ids[bounds[last] : bounds[last + 1]]
        for number in range(index, last):
            beginning = ids[bounds[number] : bounds[number + 1]]
            width = min(len(beginning), len(whole))
            differs = np.flatnonzero(beginning[:width] != whole[:width])
            cuts.append(max(cuts[-1], offset + int(differs[0] if len(differs) else width)))
        index, offset = last + 1, offset + len(whole)
        cuts.append(offset)
        wholes.append(whole)
    return np.concatenate(wholes) if wholes else ids, np.array(cuts, dtype=np.int64)


def _compute_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    definition = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    specials = json.dumps({name: str(token) for name, token in tokenizer.special_tokens_map.items()}, sort_keys=True)
    return hashlib.sha256("\0".join((definition, template, specials)).encode()).hexdigest()
