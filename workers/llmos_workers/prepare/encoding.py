"""Examples of every format as pieces of text, and a batch of them as rows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from llmos_workers.prepare.examples import Example, LineError
from llmos_workers.prepare.labels import number_labels
from llmos_workers.prepare.templates import ChatTemplate
from llmos_workers.prepare.tokenizing import IGNORED, Piece, Rows, Tokens


@dataclass(frozen=True, slots=True)
class Text:
    """An example as the model reads it."""

    pieces: tuple[Piece, ...]
    needs_end: bool
    answer: str | None
    needs_beginning: bool = True
    other: Text | None = None
    """The second one of a pair: the same question with the worse answer, or what an anchor belongs to."""
    label: int | None = None
    """Of the whole text."""
    is_enclosed: bool = False
    """Encoded as the tokenizer does by itself, as whoever asks the result will."""

    @property
    def chars(self) -> int:
        """Length of everything."""
        return sum(len(piece.text) for piece in self.pieces) + (self.other.chars if self.other else 0)


class Formatter:
    """Turns examples into texts, and texts into rows."""

    def __init__(self, tokens: Tokens, template: ChatTemplate | None = None, labels: Sequence[str] = ()) -> None:
        """Take what encodes, the model's chat template, which conversations need, and the labels of a classifier."""
        self._tokens, self._template = tokens, template
        self._labels = {label: number for number, label in enumerate(labels)}

    def build_text(self, example: Example) -> Text:
        """Return the example as pieces that are learned or not.

        Raises:
            LineError: the chat template cannot show it.
        """
        text = self._build(example)
        if example.positive:
            return replace(text, other=_enclose(example.positive))
        if example.rejected:
            return replace(text, other=self._build(_take_rejected(example)))
        return text

    def encode(self, texts: Sequence[Text]) -> Rows:
        """Encode a batch, whose texts are all of one format."""
        rows = self._encode(texts)
        if self._labels:
            return label_rows(rows, [text.label for text in texts])
        others = [text.other for text in texts if text.other is not None]
        return replace(rows, other=self._encode(others)) if others else rows

    def _encode(self, texts: Sequence[Text]) -> Rows:
        rows = self._tokens.encode(
            [text.pieces for text in texts],
            begins=[text.needs_beginning for text in texts],
            ends=[text.needs_end for text in texts],
        )
        return self._tokens.enclose(rows) if any(text.is_enclosed for text in texts) else rows

    def _build(self, example: Example) -> Text:
        if example.labels:
            return self._build_labelled(example)
        if example.positive:
            return _enclose(example.text)
        if example.messages:
            if self._template is None:
                raise LineError("the base model has no chat template, which messages need")
            rendered = self._template.render(example)
            # Of a pair only the answers differ: what was said before them is the question.
            spans = rendered.spans[-1:] if example.rejected else rendered.spans
            return self._cut(rendered.text, spans, example.answer)
        if example.prompt:
            return Text((Piece(example.prompt, False), Piece(example.text, True)), True, example.text)
        return Text((Piece(example.text, True),), True, None)

    def _build_labelled(self, example: Example) -> Text:
        numbers = number_labels(example, self._labels)
        if not example.words:
            return Text((Piece(example.text, False),), False, None, label=numbers[0], is_enclosed=True)
        # As they stand in a text; of a word's tokens the first one has its label.
        spaced = (f" {word}" if place else word for place, word in enumerate(example.words))
        pieces = tuple(Piece(word, False, number) for word, number in zip(spaced, numbers, strict=True))
        return Text(pieces, False, None, is_enclosed=True)

    def _cut(self, text: str, spans: Sequence[tuple[int, int]], answer: str) -> Text:
        # What stands behind the last answer, such as a line break, teaches nothing.
        pieces, end = [], 0
        for start, stop in spans:
            if start > end:
                pieces.append(Piece(text[end:start], False))
            pieces.append(Piece(text[start:stop], True))
            end = stop
        # A chat template writes the beginning itself.
        return Text(tuple(pieces), not text[:end].endswith(self._tokens.end_texts), answer, needs_beginning=False)


def _enclose(text: str) -> Text:
    return Text((Piece(text, True),), False, None, is_enclosed=True)


def _take_rejected(example: Example) -> Example:
    """Return the example with the worse answer in the place of the better one."""
    if not example.messages:
        return replace(example, text=example.rejected)
    return replace(example, messages=(*example.messages[:-1], {**example.messages[-1], "content": example.rejected}))


def truncate(rows: Rows, most: int) -> Rows:
    """Cut every row to at most so many tokens; a prompt that is cut has no answer left, and is as long as its row."""
    lengths = np.minimum(rows.lengths, most)
    within = np.arange(len(rows.ids)) - np.repeat(rows.bounds[:-1], rows.lengths)
    kept = within < most
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    other = truncate(rows.other, most) if rows.other else None
    return Rows(rows.ids[kept], rows.labels[kept], bounds, np.minimum(rows.prompts, lengths), other)


def label_rows(rows: Rows, labels: Sequence[int | None]) -> Rows:
    """Put the label of a whole text at its first token, where no cut loses it."""
    given = np.array([IGNORED if label is None else label for label in labels], dtype=np.int32)
    placed = (given != IGNORED) & (rows.lengths > 0)
    values = rows.labels.copy()
    values[rows.bounds[:-1][placed]] = given[placed]
    return replace(rows, labels=values)


def select(rows: Rows, chosen: npt.NDArray[np.bool_]) -> Rows:
    """Return the chosen rows."""
    if chosen.all():
        return rows
    kept = np.repeat(chosen, rows.lengths)
    bounds = np.concatenate([[0], np.cumsum(rows.lengths[chosen])])
    other = select(rows.other, chosen) if rows.other else None
    return Rows(rows.ids[kept], rows.labels[kept], bounds, rows.prompts[chosen], other)


def count_learned(rows: Rows) -> npt.NDArray[np.int64]:
    """Return how many tokens of each row are learned; of a pair, those of the one with fewer."""
    sums: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(rows.labels != IGNORED)])
    counts: npt.NDArray[np.int64] = sums[rows.bounds[1:]] - sums[rows.bounds[:-1]]
    return np.minimum(counts, count_learned(rows.other)) if rows.other else counts
