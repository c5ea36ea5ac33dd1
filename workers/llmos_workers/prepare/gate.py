"""The road of a line: read, cleaned, looked up, shown by the template, encoded in batches, split, written.

What is left out is counted and named by `Tally`. Batches are bounded by text, not by lines, so that memory is, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from llmos.api import DatasetReport
from llmos.api.finetunejob import FineTuneJobSpec
from llmos.api.finetunejob_evaluation import EvaluationSuite
from llmos_workers.prepare.batching import Batches, Waiting
from llmos_workers.prepare.canonical import compute_digest, get_whole
from llmos_workers.prepare.contamination import Suites
from llmos_workers.prepare.digests import DigestSet
from llmos_workers.prepare.encoding import Formatter, select
from llmos_workers.prepare.errors import DatasetInvalidError
from llmos_workers.prepare.examples import Example, LineError, parse_line
from llmos_workers.prepare.reading import Line, LineReader
from llmos_workers.prepare.sides import Sides
from llmos_workers.prepare.splitting import compute_place
from llmos_workers.prepare.storing import Store
from llmos_workers.prepare.tally import Tally

MAX_SUITE_LINES: Final = 100_000


class Gate:
    """Takes the lines of the dataset."""

    def __init__(
        self, spec: FineTuneJobSpec, formatter: Formatter, suites: Suites, train: Store, held_out: Store, scratch: Path
    ) -> None:
        """Take the job, what lines are turned into, what must not be learned, and where examples go."""
        self.tally = Tally()
        self._spec, self._dataset, self._formatter = spec, spec.dataset, formatter
        self._train, self._held_out = train, held_out
        self._sides = Sides(spec.dataset.split.eval_fraction, train, held_out)
        self._batches = Batches(spec, formatter, self.tally)
        clean = spec.dataset.clean
        self._suites = suites if clean.decontaminate else Suites()
        self._seen = DigestSet()
        self._near, self._personal = None, None
        # Presidio and datasketch take seconds to import, and most jobs want neither.
        if clean.near_dedup is not None:
            from llmos_workers.prepare.near import NearDuplicates  # noqa: PLC0415

            self._near = NearDuplicates(clean.near_dedup.threshold, scratch)
        if clean.pii != "keep":
            from llmos_workers.prepare.personal import PersonalData  # noqa: PLC0415

            self._personal = PersonalData()

    def take(self, line: Line) -> None:
        """Take a line; a broken one is counted."""
        self.tally.lines += 1
        try:
            example = self._clean(parse_line(line.data, self._dataset.format), line.label)
            if example is None:
                return
            digest = compute_digest(example)
            if self._is_left_out(example, digest, line.label):
                return
            text = self._formatter.build_text(example)
        except LineError as error:
            self.tally.add("broken", line.label, str(error))
            return
        if self._batches.add(Waiting(line.label, compute_place(digest, self._dataset.split.seed), text)):
            self._flush()

    def finish(self) -> DatasetReport:
        """Write what waits, and return the report.

        Raises:
            PrepareError: the job cannot go on with what was found.
        """
        self._flush()
        self._sides.finish()
        report = self.tally.build_report(
            train_examples=self._train.count, eval_examples=self._held_out.count, train_tokens=self._train.tokens
        )
        if (problem := self.tally.find_problem(self._dataset, report)) is not None:
            raise problem
        return report

    def close(self) -> None:
        """Give files back."""
        if self._near is not None:
            self._near.close()

    def _clean(self, example: Example, label: str) -> Example | None:
        """Deal with personal data; None where the example is left out."""
        if self._personal is None:
            return example
        cleaned, kinds = self._personal.clean(example)
        if not kinds:
            return example
        self.tally.add("personal", label, f"personal data: {', '.join(sorted(kinds))}")
        return cleaned if self._dataset.clean.pii == "redact" else None

    def _is_left_out(self, example: Example, digest: bytes, label: str) -> bool:
        if self._dataset.clean.exact_dedup and not self._seen.add(digest):
            self.tally.add("duplicates", label, "the same as a line before")
            return True
        if self._suites and self._suites.contain(example):
            self.tally.add("contaminated", label, "also stands in an evaluation suite")
            return True
        if self._near is not None and not self._near.add(get_whole(example)):
            self.tally.add("near_duplicates", label, "almost the same as a line before")
            return True
        return False

    def _flush(self) -> None:
        rows, kept = self._batches.encode()
        places = np.array([one.place for one in kept], dtype=np.float64)
        self._sides.write(rows, [one.text.answer for one in kept], places)


class SuiteReader:
    """Reads a suite: all its questions into the index, and the first ones into its folder."""

    def __init__(
        self, spec: FineTuneJobSpec, suite: EvaluationSuite, formatter: Formatter, suites: Suites, store: Store
    ) -> None:
        """Take the job, the suite, the index, and the folder of its examples."""
        self._dataset, self._formatter = spec.dataset, formatter
        self._format = suite.format or spec.dataset.format
        self._suites, self._store, self._limit = suites, store, suite.limit
        self._tally = Tally()
        self._batches = Batches(spec, formatter, self._tally)

    def read(self, reader: LineReader) -> int:
        """Read all lines and return how many examples were kept.

        Raises:
            PrepareError: too many lines are broken, or none can be asked.
        """
        for line in reader:
            self._tally.lines += 1
            if self._tally.lines > MAX_SUITE_LINES:
                raise DatasetInvalidError(
                    f"{line.file} has more than {MAX_SUITE_LINES} lines", "Shorten the suite; a few hundred suffice."
                )
            try:
                self._take(line)
            except LineError as error:
                self._tally.add("broken", line.label, str(error))
        self._flush()
        self._suites.finish_suite()
        report = self._tally.build_report(train_examples=self._store.count, eval_examples=self._store.count)
        if (problem := self._tally.find_problem(self._dataset, report)) is not None:
            problem.report = None  # it tells of the suite, not of the dataset
            raise problem
        return self._store.count

    def _take(self, line: Line) -> None:
        example = parse_line(line.data, self._format)
        text = self._formatter.build_text(example)
        self._suites.add(example)
        if self._store.count < self._limit and self._batches.add(Waiting(line.label, 0.0, text)):
            self._flush()

    def _flush(self) -> None:
        rows, kept = self._batches.encode()
        chosen = np.arange(len(kept)) < self._limit - self._store.count
        answers = [one.text.answer for one in kept]
        self._store.write(select(rows, chosen), answers[: int(chosen.sum())])
