"""Lines that a tokenizer has work with: words that follow Zipf's law, with endings, numbers, names and punctuation.

A real corpus cannot lie in this repository. What matters for the speed is that words repeat as they do in one, that
there are rare ones, and that lines have the sizes of real datasets.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

_SYLLABLES = "ka re mi to nal sen ver di plo stra gun ta li os an er ing tion con pro de un ly est ment able".split()  # noqa: SIM905
_WORDS = 60_000


class Corpus:
    """Texts from a seed."""

    def __init__(self, seed: int = 7) -> None:
        """Make the words."""
        self._random = random.Random(seed)
        parts = (self._random.choices(_SYLLABLES, k=self._random.choice((1, 2, 2, 3, 3, 4))) for _ in range(_WORDS))
        self._words = ["".join(one) for one in parts]
        self._weights = list(accumulate(1 / rank for rank in range(1, _WORDS + 1)))

    def build_text(self, chars: int) -> str:
        """About so many characters of sentences."""
        sentences, length = [], 0
        while length < chars:
            words = self._random.choices(self._words, cum_weights=self._weights, k=self._random.randint(6, 24))
            if self._random.random() < 0.2:
                words[-1] = str(self._random.randint(0, 99_999))
            sentence = " ".join(words).capitalize() + self._random.choice([".", ".", ".", "?", ",\n", ": "])
            sentences.append(sentence)
            length += len(sentence) + 1
        return " ".join(sentences)[:chars]

    def build_lines(self, kind: str, line_bytes: int) -> Iterator[str]:
        """Lines of a format without end; a fifth of a conversation's or an instruction's text is the question."""
        while True:
            size = max(40, line_bytes - 100)
            if kind == "text":
                yield json.dumps({"text": self.build_text(size)})
                continue
            question, answer = self.build_text(size // 5), self.build_text(size - size // 5)
            if kind == "instruction":
                yield json.dumps({"prompt": question, "completion": answer})
            else:
                messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                yield json.dumps({"messages": messages})


def write_corpus(path: Path, kind: str, line_bytes: int, total_bytes: int) -> int:
    """Write a file of about so many bytes; return how many lines it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written, count = 0, 0
    with path.open("w") as out:
        for line in Corpus().build_lines(kind, line_bytes):
            written += out.write(line + "\n")
            count += 1
            if written >= total_bytes:
                break
    return count
