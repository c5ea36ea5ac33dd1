"""Which examples also stand in an evaluation suite, so that learning them would make its numbers worthless.

An example is contaminated if
    - its prompt is, but for case, punctuation and space, that of a question of a suite, or
    - it shares 13 words in a row with one: the measure of GPT-3 (Brown et al., 2020, appendix C), which EleutherAI's
      lm-evaluation-harness uses as well.

System messages do not count, for whole datasets share them. Nor do word sequences that occur in more than 10 questions
of a suite, or in more than half of them: they are its form, such as an instruction, and GPT-3 left sequences that are
common in its data out, too. Word sequences are kept as 64-bit hashes; with the 20 million of the largest suites the
chance that a text of a thousand words is taken for contaminated by accident is below 1e-8.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Final

import numpy as np
import numpy.typing as npt

from llmos_workers.prepare.canonical import find_words, get_prompt, get_whole
from llmos_workers.prepare.examples import Example

WORDS: Final = 13
_COMMON: Final = 10
_COMMON_SHARE: Final = 0.5

Hashes = npt.NDArray[np.uint64]


class Suites:
    """The questions of all suites, to look examples up in."""

    def __init__(self) -> None:
        """Start empty."""
        self._prompts: set[bytes] = set()
        self._words: dict[str, int] = {}
        self._runs: Hashes = np.empty(0, dtype=np.uint64)
        self._counts: Counter[int] = Counter()
        self._examples = 0
        random = np.random.default_rng(13)
        # Odd, so that no word's number is lost when the product overflows.
        self._factors: Hashes = random.integers(0, 2**63, WORDS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)

    def __bool__(self) -> bool:
        """Whether there is anything to look up."""
        return bool(self._prompts)

    def add(self, example: Example) -> None:
        """Add a question of the suite that is being read."""
        self._examples += 1
        self._prompts.add(_digest(get_prompt(example)))
        numbers = [self._words.setdefault(word, _number(word)) for word in find_words(get_whole(example))]
        self._counts.update(set(self._hash(numbers).tolist()))

    def finish_suite(self) -> None:
        """Keep the word sequences of the suite that was read, without its form."""
        limit = min(_COMMON, max(1, int(self._examples * _COMMON_SHARE)))
        kept = np.array([run for run, count in self._counts.items() if count <= limit], dtype=np.uint64)
        self._runs = np.union1d(self._runs, kept)
        self._counts.clear()
        self._examples = 0

    def contain(self, example: Example) -> bool:
        """Whether the example also stands in a suite."""
        if _digest(get_prompt(example)) in self._prompts:
            return True
        if not len(self._runs):
            return False
        # A word that no suite has is 0, and breaks every sequence that it is in.
        numbers = [self._words.get(word, 0) for word in find_words(get_whole(example))]
        hashes = self._hash(numbers)
        if not len(hashes):
            return False
        known = np.lib.stride_tricks.sliding_window_view(np.array(numbers, dtype=np.uint64) != 0, WORDS).all(axis=1)
        wanted = hashes[known]
        if not len(wanted):
            return False
        places = np.searchsorted(self._runs, wanted)
        places[places == len(self._runs)] = 0
        return bool((self._runs[places] == wanted).any())

    def _hash(self, numbers: list[int]) -> Hashes:
        if len(numbers) < WORDS:
            return np.empty(0, dtype=np.uint64)
        runs = np.lib.stride_tricks.sliding_window_view(np.array(numbers, dtype=np.uint64), WORDS)
        hashes: Hashes = (runs * self._factors).sum(axis=1, dtype=np.uint64)
        return hashes


def _digest(text: str) -> bytes:
    return hashlib.blake2b(" ".join(find_words(text)).encode(), digest_size=16).digest()


def _number(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little") | 1
