"""Examples of every format as pieces of text, and a batch of them as rows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmos.api.finetunejob import DatasetFormat
from llmos_workers.prepare.examples import Example
from llmos_workers.prepare.templates import ChatTemplate, Rendered
from llmos_workers.prepare.tokenizing import IGNORED, Piece, Rows, Tokens


@dataclass(frozen=True, slots=True)
class Text:
    """An example as the model reads it."""

    pieces: tuple[Piece, ...]
    needs_end: bool
    answer: str | None


class Formatter:
    """Turns examples of one format into texts, and texts into rows."""

    def __init__(self, form: DatasetFormat, tokens: Tokens, template: ChatTemplate | None) -> None:
        """Take the format; `template` is there for chat."""
        self._form, self._tokens, self._template = form, tokens, template

    def build_text(self, example: Example) -> Text:
        """Return the example as pieces that are learned or not.

        Raises:
            LineError: the chat template cannot show it.
        """
        if self._template is not None:
            return self._cut(self._template.render(example), example.answer)
        if self._form.type == "instruction":
            return Text((Piece(example.prompt, False), Piece(example.text, True)), True, example.text)
        return Text((Piece(example.text, True),), True, None)

    def encode(self, texts: Sequence[Text]) -> Rows:
        """Encode a batch."""
        # A chat template writes the beginning itself.
        begins = self._template is None
        return self._tokens.encode(
            [text.pieces for text in texts], begins=begins, ends=[one.needs_end for one in texts]
        )

    def _cut(self, rendered: Rendered, answer: str) -> Text:
        # What stands behind the last answer, such as a line break, teaches nothing.
        pieces, end = [], 0
        for start, stop in rendered.spans:
            if start > end:
                pieces.append(Piece(rendered.text[end:start], False))
            pieces.append(Piece(rendered.text[start:stop], True))
            end = stop
        return Text(tuple(pieces), not rendered.text[:end].endswith(self._tokens.end_texts), answer)


def truncate(rows: Rows, most: int) -> Rows:
    """Cut every row to at most so many tokens; a prompt that is cut has no answer left, and is as long as its row."""
    lengths = np.minimum(rows.lengths, most)
    within = np.arange(len(rows.ids)) - np.repeat(rows.bounds[:-1], rows.lengths)
    kept = within < most
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    return Rows(rows.ids[kept], rows.labels[kept], bounds, np.minimum(rows.prompts, lengths))


def select(rows: Rows, chosen: npt.NDArray[np.bool_]) -> Rows:
    """Return the chosen rows."""
    if chosen.all():
        return rows
    kept = np.repeat(chosen, rows.lengths)
    bounds = np.concatenate([[0], np.cumsum(rows.lengths[chosen])])
    return Rows(rows.ids[kept], rows.labels[kept], bounds, rows.prompts[chosen])


def count_learned(rows: Rows) -> npt.NDArray[np.int64]:
    """Return how many tokens of each row are learned."""
    sums: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(rows.labels != IGNORED)])
    counts: npt.NDArray[np.int64] = sums[rows.bounds[1:]] - sums[rows.bounds[:-1]]
    return counts
