"""Which texts are almost the same: MinHash over sets of word 5-grams, with datasketch.

    J(A, B) = |A and B| / |A or B|      estimated by the share of equal values of 128 permutations (sigma <= 0.045)

An LSH index proposes candidates (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, ch. 3); which of them is
near is then decided by the estimate of J, from signatures in a file beside the dataset. The first of two near texts is
kept. A text with fewer than five words counts as one 5-gram.

The index grows with the texts that are kept, about 4 KB for each: beyond `MAX_TEXTS` nothing more is remembered.
"""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import xxhash
from datasketch import MinHash, MinHashLSH

from llmos_workers.prepare.canonical import find_words

log = logging.getLogger(__name__)

WORDS: Final = 5
PERMUTATIONS: Final = 128
MAX_TEXTS: Final = 1_000_000
_MISS_WEIGHT: Final = 0.8
"""Candidates are checked, so that missing one is worse than proposing one too many."""

_MAX_INDEX_THRESHOLD: Final = 0.95
"""Above it, datasketch finds no way to cut a signature into bands; candidates are checked with the real threshold."""


class NearDuplicates:
    """Remembers texts, and says of each new one whether it is near to one of them."""

    def __init__(self, threshold: float, folder: Path) -> None:
        """Start empty; signatures lie in a file in `folder`, which the caller removes."""
        self._threshold = threshold
        self._lsh = MinHashLSH(
            min(threshold, _MAX_INDEX_THRESHOLD),
            PERMUTATIONS,
            weights=(1 - _MISS_WEIGHT, _MISS_WEIGHT),
            hashfunc=xxhash.xxh3_64_digest,
        )
        self._empty = MinHash(PERMUTATIONS, hashfunc=xxhash.xxh32_intdigest)
        self._file = (folder / "signatures").open("w+b")
        self.count = 0

    def add(self, text: str) -> bool:
        """Remember a text; return whether it is new, and not near to one before."""
        signature = self._compute_signature(text)
        if any(self._is_near(signature, key) for key in self._lsh.query(signature)):
            return False
        if self.count < MAX_TEXTS:
            self._lsh.insert(self.count, signature, check_duplication=False)
            self._file.seek(self.count * PERMUTATIONS * 4)
            self._file.write(signature.hashvalues.tobytes())
            self.count += 1
            if self.count == MAX_TEXTS:
                log.warning("%d texts are remembered: of later ones no near duplicates are found", MAX_TEXTS)
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _compute_signature(self, text: str) -> MinHash:
        words = find_words(text)
        grams = {" ".join(gram).encode() for gram in zip(*(islice(words, n, None) for n in range(WORDS)), strict=False)}
        signature = self._empty.copy()
        signature.update_batch(grams or {" ".join(words).encode()})
        return signature

    def _is_near(self, signature: MinHash, key: int) -> bool:
        self._file.seek(key * PERMUTATIONS * 4)
        other: npt.NDArray[np.uint32] = np.frombuffer(self._file.read(PERMUTATIONS * 4), dtype=np.uint32)
        return float(np.mean(signature.hashvalues == other)) >= self._threshold
