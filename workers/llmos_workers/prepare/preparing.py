"""The preparation of a job's dataset, whole: suites first, for what stands in them must not be learned.

    WORK/source/dataset, WORK/source/suite-NAME    what the fetch steps brought; removed at the end
    WORK/.prepare                                  scratch
    WORK/dataset/{train,eval,suite-NAME}           folders of examples
    WORK/dataset/manifest.json                     written last

A run that was cut off is begun anew; one that was completed is only reported.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llmos.api import DatasetReport, FineTuneJob
from llmos.api.finetunejob import FineTuneJobSpec
from llmos.api.finetunejob_evaluation import EvaluationSuite
from llmos_workers.prepare.contamination import Suites
from llmos_workers.prepare.encoding import Formatter
from llmos_workers.prepare.errors import BaseModelChangedError, ClaimFullError, DatasetInvalidError, SourceGoneError
from llmos_workers.prepare.gate import Gate, SuiteReader
from llmos_workers.prepare.labels import collect_labels
from llmos_workers.prepare.manifest import DatasetManifest, compute_inputs, read_dataset_manifest
from llmos_workers.prepare.progress import Progress
from llmos_workers.prepare.reading import LineReader, list_files
from llmos_workers.prepare.storing import Store
from llmos_workers.prepare.teacher import check_vocabularies
from llmos_workers.prepare.templates import ChatTemplate
from llmos_workers.prepare.tokenizing import EncodersDisagreeError, Tokens

log = logging.getLogger(__name__)

PREPARED_NAME: Final = ".prepared"
"""Tells the fetch step that there is nothing to fetch any more; the same name stands in fetch/dataset.py."""

_LINES_BETWEEN_LOOKS: Final = 128


@dataclass(frozen=True)
class Places:
    """Where things are: the base model, the claim, and the teacher, if there is one."""

    model: Path
    work: Path
    teacher: Path | None = None

    @property
    def dataset(self) -> Path:
        """The prepared dataset."""
        return self.work / "dataset"

    @property
    def scratch(self) -> Path:
        """Files that are needed only meanwhile."""
        return self.work / ".prepare"

    def source(self, name: str) -> Path:
        """What a fetch step brought."""
        return self.work / "source" / name


def prepare(job: FineTuneJob, places: Places, base_digest: str, out: TextIO) -> DatasetManifest:
    """Prepare the dataset, or find that it is; progress lines go to `out`.

    Raises:
        PrepareError: one of its subclasses.
    """
    if places.teacher is not None:
        check_vocabularies(places.model, places.teacher)
    inputs = compute_inputs(job.spec)
    done = read_dataset_manifest(places.dataset)
    if done is not None and done.base_digest != base_digest:
        raise BaseModelChangedError("The dataset was prepared for another state of the base model")
    if done is None or done.inputs != inputs:
        with translate_disk_errors():
            done = _prepare(job.spec, places, base_digest, inputs, out)
    else:
        log.info("the dataset was prepared before")
    _remove_sources(places)
    return done


def _prepare(spec: FineTuneJobSpec, places: Places, base_digest: str, inputs: str, out: TextIO) -> DatasetManifest:
    _check_sources(spec, places)
    tokenizer = _load_tokenizer(places.model)
    for use_fast in (True, False):
        tokens = Tokens(tokenizer, use_fast=use_fast)
        try:
            with _folders(places):
                labels = collect_labels(LineReader(list_files(places.source("dataset"))), spec.dataset.format)
                report, files = _Run(spec, places, tokenizer, tokens, labels, out).run()
                manifest = DatasetManifest(
                    digest=report.digest,
                    base_digest=base_digest,
                    inputs=inputs,
                    report=report,
                    labels=labels,
                    files=files,
                )
                manifest.write(places.dataset)
                return manifest
        except EncodersDisagreeError:
            log.warning("fastokens gave other tokens than the model's tokenizer: all is encoded again by the slow one")
    raise AssertionError  # the slow encoder has nobody to disagree with


@dataclass(frozen=True)
class _Run:
    spec: FineTuneJobSpec
    places: Places
    tokenizer: PreTrainedTokenizerBase
    tokens: Tokens
    labels: tuple[str, ...]
    out: TextIO

    def run(self) -> tuple[DatasetReport, dict[str, str]]:
        formatter = Formatter(self.tokens, self._build_template(), self.labels)
        suites = Suites()
        files: dict[str, str] = {}
        for suite in self.spec.evaluate.suites:
            if suite.source is not None:
                files |= self._run_suite(suite, formatter, suites)
        report, more = self._run_dataset(formatter, suites)
        return report, files | more

    @property
    def _is_paired(self) -> bool:
        return self.spec.dataset.format.type in {"preference", "pairs"}

    def _build_template(self) -> ChatTemplate | None:
        form = self.spec.dataset.format.type
        is_needed = "chat" in {form, *(suite.format.type for suite in self.spec.evaluate.suites if suite.format)}
        # Prompts that are texts need none; a line with messages then says that there is none.
        is_useful = form == "preference" and isinstance(self.tokenizer.chat_template, str)
        return ChatTemplate(self.tokenizer) if is_needed or is_useful else None

    def _run_suite(self, suite: EvaluationSuite, formatter: Formatter, suites: Suites) -> dict[str, str]:
        name = f"suite-{suite.name}"
        reader = LineReader(list_files(self.places.source(name)), prefix=f"{name}/")
        with closing(Store(self.places.dataset / name, is_asked=True, is_paired=self._is_paired)) as store:
            count = SuiteReader(self.spec, suite, formatter, suites, store).read(reader)
            log.info("suite %s: %d examples", suite.name, count)
            return store.finish()[1]

    def _run_dataset(self, formatter: Formatter, suites: Suites) -> tuple[DatasetReport, dict[str, str]]:
        train = Store(self.places.dataset / "train", is_asked=False, is_paired=self._is_paired)
        held_out = Store(self.places.dataset / "eval", is_asked=True, is_paired=self._is_paired)
        reader = LineReader(list_files(self.places.source("dataset")))
        progress = Progress(self.out)
        with closing(train), closing(held_out):
            with closing(Gate(self.spec, formatter, suites, train, held_out, self.places.scratch)) as gate:
                for line in reader:
                    gate.take(line)
                    if gate.tally.lines % _LINES_BETWEEN_LOOKS == 0:
                        progress.show(reader.done_bytes, reader.total_bytes, gate.tally.lines)
                report = gate.finish()
            progress.show(reader.total_bytes, reader.total_bytes, report.lines, is_last=True)
            (learned, files), (asked, more) = train.finish(), held_out.finish()
        digest = hashlib.sha256(f"{compute_inputs(self.spec)} {self.tokens.digest} {learned} {asked}".encode())
        digest.update("\0".join(self.labels).encode())
        found = {"digest": f"sha256:{digest.hexdigest()}", "labels": len(self.labels)}
        return report.model_copy(update=found), files | more


def _load_tokenizer(model: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DatasetInvalidError(
            f"The base model's tokenizer cannot be read ({type(error).__name__})",
            "Add tokenizer.json or tokenizer.model to the model's files, or use another base model.",
        ) from error


def _check_sources(spec: FineTuneJobSpec, places: Places) -> None:
    names = ["dataset", *(f"suite-{suite.name}" for suite in spec.evaluate.suites if suite.source is not None)]
    missing = [name for name in names if not list_files(places.source(name))]
    if missing:
        for name in names:
            (places.source(name) / PREPARED_NAME).unlink(missing_ok=True)
        raise SourceGoneError(
            f"There are no files in source/{missing[0]}", "Nothing to do: the next attempt fetches them again."
        )


@contextmanager
def _folders(places: Places) -> Iterator[None]:
    """Begin with empty folders, and leave none behind but a complete one."""
    for folder in (places.scratch, places.dataset):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(places.dataset, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(places.scratch, ignore_errors=True)


def _remove_sources(places: Places) -> None:
    """Remove what was fetched: the claim has better use for the room."""
    root = places.work / "source"
    for folder in root.iterdir() if root.is_dir() else ():
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != PREPARED_NAME:
                path.unlink()
        if folder.is_dir():
            (folder / PREPARED_NAME).touch()


@contextmanager
def translate_disk_errors() -> Iterator[None]:
    """Turn a full disk inside the block into `ClaimFullError`."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ClaimFullError(
                "The claim became full while the dataset was prepared",
                "Raise spec.checkpoint.storage.size in a new FineTuneJob: the prepared dataset takes about twice the "
                "room of its unpacked lines.",
            ) from error
        raise
