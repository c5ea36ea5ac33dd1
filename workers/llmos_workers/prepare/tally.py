"""Counts what is found, remembers the first lines of each kind, and judges in the end. Pure.

The report names up to 20 lines: of each kind of problem the first ones, in turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final, Literal

from llmos.api import DatasetReport
from llmos.api.finetunejob_dataset import Dataset
from llmos.api.finetunejob_status import DatasetExample, LengthBucket
from llmos_workers.prepare.errors import (
    DatasetInvalidError,
    ExamplesTooLongError,
    NothingToLearnError,
    PersonalDataFoundError,
    PrepareError,
)

Kind = Literal["broken", "duplicates", "near_duplicates", "personal", "contaminated", "overlong"]
_KINDS: Final[tuple[Kind, ...]] = (
    "broken",
    "personal",
    "overlong",
    "contaminated",
    "duplicates",
    "near_duplicates",
)
MAX_EXAMPLES: Final = 20
_MAX_PROBLEM_CHARS: Final = 300
_NAMED: Final = 5
_SHORTEST_BUCKET: Final = 16


@dataclass
class Tally:
    """What was found so far."""

    lines: int = 0
    counts: Counter[Kind] = field(default_factory=Counter)
    found: dict[Kind, list[DatasetExample]] = field(default_factory=lambda: {kind: [] for kind in _KINDS})
    lengths: Counter[int] = field(default_factory=Counter)

    def add(self, kind: Kind, label: str, problem: str) -> None:
        """Count a line, and remember it if it is one of the first of its kind."""
        self.counts[kind] += 1
        if len(self.found[kind]) < MAX_EXAMPLES:
            self.found[kind].append(DatasetExample(line=label, problem=problem[:_MAX_PROBLEM_CHARS]))

    def build_report(self, **more: Any) -> DatasetReport:
        """Return the report; `more` are its fields that are counted elsewhere."""
        turns = zip_longest(*(self.found[kind] for kind in _KINDS))
        examples = tuple(one for turn in turns for one in turn if one is not None)[:MAX_EXAMPLES]
        return DatasetReport(
            lines=self.lines,
            **{kind: self.counts[kind] for kind in _KINDS},
            length_p50=compute_percentile(self.lengths, 0.50),
            length_p99=compute_percentile(self.lengths, 0.99),
            length_max=max(self.lengths, default=0),
            lengths=build_histogram(self.lengths),
            examples=examples,
            **more,
        )

    def find_problem(self, dataset: Dataset, report: DatasetReport) -> PrepareError | None:
        """Return why the job cannot go on with these examples, if it cannot."""
        allowed = dataset.validation.max_error_rate
        if self.counts["broken"] > allowed * self.lines:
            said = (
                f"{self.counts['broken']} of {self.lines} lines cannot be learned from, more than maxErrorRate allows"
            )
            return DatasetInvalidError(f"{said} ({allowed:.2%}): {self._name('broken')}", report=report)
        if dataset.clean.pii == "fail" and self.counts["personal"]:
            said = f"{self.counts['personal']} of {self.lines} lines hold personal data"
            return PersonalDataFoundError(f"{said}: {self._name('personal')}", report=report)
        if dataset.validation.overlong == "fail" and self.counts["overlong"]:
            said = f"{self.counts['overlong']} examples are longer than maxLength"
            return ExamplesTooLongError(f"{said}: {self._name('overlong')}", report=report)
        if not report.train_examples:
            return NothingToLearnError(f"None of {self.lines} lines is left to learn", report=report)
        if dataset.split.eval_fraction and not report.eval_examples:
            return NothingToLearnError("No example is left to hold out", report=report)
        return None

    def _name(self, kind: Kind) -> str:
        named = [f"{one.line} ({one.problem})" for one in self.found[kind][:_NAMED]]
        more = self.counts[kind] - len(named)
        return ", ".join(named) + (f" and {more} more" if more else "")


def compute_percentile(lengths: Counter[int], share: float) -> int:
    """Return the smallest length that `share` of the examples do not exceed."""
    wanted, seen = share * lengths.total(), 0
    for length, count in _sort(lengths):
        seen += count
        if seen >= wanted:
            return length
    return 0


def build_histogram(lengths: Counter[int]) -> tuple[LengthBucket, ...]:
    """Return how many examples have at most 16, 32, 64 ... tokens, each counted once, in the smallest bucket."""
    buckets: Counter[int] = Counter()
    for length, count in lengths.items():
        buckets[max(_SHORTEST_BUCKET, 1 << (length - 1).bit_length())] += count
    return tuple(LengthBucket(up_to=up_to, examples=count) for up_to, count in _sort(buckets))


def _sort(lengths: Counter[int]) -> Iterator[tuple[int, int]]:
    return iter(sorted(lengths.items()))


def shorten_report(report: DatasetReport, fits: int) -> DatasetReport:
    """Return the report with as many examples as fit into so many bytes of JSON."""
    while report.examples and len(report.model_dump_json(by_alias=True).encode()) > fits:
        report = report.model_copy(update={"examples": report.examples[:-1]})
    return report
