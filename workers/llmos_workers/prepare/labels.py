"""The labels of a classifier: all that occur in its dataset, numbered in their order.

They are looked for before anything is encoded: numbers by the order in which labels come would depend on the files'
names, and a label that only a suite has could never be learned. Whole numbers come first, by size, then names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from llmos.api.finetunejob_dataset import DatasetFormat
from llmos_workers.prepare.errors import DatasetInvalidError, NothingToLearnError
from llmos_workers.prepare.examples import Example, LineError, parse_line
from llmos_workers.prepare.reading import Line

LABELLED: Final = frozenset({"tokens-labels", "text-label"})
MAX_LABELS: Final = 1000


def collect_labels(lines: Iterable[Line], form: DatasetFormat) -> tuple[str, ...]:
    """Return the labels of all lines that are not broken; none for formats without labels.

    Raises:
        DatasetInvalidError: there are too many for them to be labels.
        NothingToLearnError: there is only one.
    """
    if form.type not in LABELLED:
        return ()
    found: set[str] = set()
    for line in lines:
        found.update(_read_labels(line, form))
        if len(found) > MAX_LABELS:
            raise DatasetInvalidError(
                f"Up to line {line.label} there are more than {MAX_LABELS} different labels",
                "See that dataset.format.columns names the field with the labels, and not one with texts.",
            )
    if len(found) == 1:
        raise NothingToLearnError("All examples have the same label", "Add examples of what it is to be told from.")
    return tuple(sorted(found, key=_sort_key))


def number_labels(example: Example, labels: dict[str, int]) -> tuple[int, ...]:
    """Return the numbers of an example's labels.

    Raises:
        LineError: the dataset does not have one of them, which only a line of a suite can lack.
    """
    try:
        return tuple(labels[label] for label in example.labels)
    except KeyError:
        raise LineError("a label does not occur in the dataset") from None


def _read_labels(line: Line, form: DatasetFormat) -> tuple[str, ...]:
    try:
        return parse_line(line.data, form).labels
    except LineError:
        return ()


def _sort_key(label: str) -> tuple[bool, int, str]:
    is_number = label.removeprefix("-").isascii() and label.removeprefix("-").isdigit()
    return not is_number, int(label) if is_number else 0, label
