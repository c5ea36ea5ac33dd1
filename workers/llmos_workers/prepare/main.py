"""The command line of the dataset gate; see docs/concepts/dataset-gate.md.

    python -m llmos_workers.prepare --job JOB_FILE --model /model --work /job --base-digest DIGEST

Standard output has progress, standard error the log. The termination log gets {"outcome": "prepared", "report"} or
{"reason", "message", "report"}. Exit codes: 0, or 1. Neither log nor messages hold text of the dataset: of an
unexpected error only the type is told, and the places in the code.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from llmos.api import DatasetReport, FineTuneJob, Reason
from llmos_workers.prepare.errors import PrepareError
from llmos_workers.prepare.tally import shorten_report

log = logging.getLogger("llmos_workers.prepare")

TERMINATION_LOG: Final = Path("/dev/termination-log")
_MAX_TERMINATION_BYTES: Final = 4096
_MAX_MESSAGE_BYTES: Final = 2000


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the dataset and return the exit code."""
    options = _build_parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    log.setLevel(logging.INFO)
    try:
        report = _run(options)
    except PrepareError as error:
        log.error("%s: %s", error.reason, error)
        return _write(build_failure_json(error))
    except Exception as error:  # noqa: BLE001 - whatever happens, the operator must learn it from the termination log
        told = _describe(error)
        log.error("unexpected error: %s", told)
        return _write(build_failure_json(PrepareError(f"The dataset could not be prepared: {told}")))
    log.info("%d examples to learn, %d held out, %s", report.train_examples, report.eval_examples, report.digest)
    _write(build_result_json(report))
    return 0


def _run(options: argparse.Namespace) -> DatasetReport:
    from llmos_workers.prepare.preparing import Places, prepare  # noqa: PLC0415 - transformers takes seconds to import

    job = read_job(options.job)
    places = Places(options.model, options.work, options.teacher)
    return prepare(job, places, options.base_digest, sys.stdout).report


def read_job(path: Path) -> FineTuneJob:
    """Read the job's file.

    Raises:
        PrepareError: it is not one.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        return FineTuneJob.model_validate({"apiVersion": "llmos.dev/v1alpha1", "kind": "FineTuneJob", **document})
    except (OSError, ValueError, TypeError) as error:
        fields = _name_fields(error) if isinstance(error, ValidationError) else type(error).__name__
        raise PrepareError(f"The job's file cannot be read: {fields}", "Report this as an error of LLMOS.") from error


def _name_fields(error: ValidationError) -> str:
    return ", ".join(".".join(map(str, one["loc"])) for one in error.errors()[:5])


def _describe(error: Exception) -> str:
    """Return type and places of an error, without its text, which may hold lines of the dataset."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-4:]))
    said = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    return f"{type(error).__name__}{said} at {places}"


def build_result_json(report: DatasetReport) -> str:
    """JSON of a success, within what a termination log holds."""
    room = _MAX_TERMINATION_BYTES - len(_dump({"outcome": "prepared", "report": None}).encode())
    return _dump({"outcome": "prepared", "report": _to_json(shorten_report(report, room))})


def build_failure_json(error: PrepareError) -> str:
    """JSON of a failure, within what a termination log holds."""
    message = str(error).encode()
    if len(message) > _MAX_MESSAGE_BYTES:
        # The remedy is what matters most.
        tail = f"... {error.remedy}".encode()
        message = message[: max(0, _MAX_MESSAGE_BYTES - len(tail))] + tail
    failure: dict[str, Any] = {"reason": error.reason.value, "message": message.decode(errors="ignore")}
    if error.reason == Reason.PreparationFailed or error.report is None:
        return _dump(failure)
    room = _MAX_TERMINATION_BYTES - len(_dump({**failure, "report": None}).encode())
    return _dump({**failure, "report": _to_json(shorten_report(error.report, room))})


def _to_json(report: DatasetReport) -> Any:
    return json.loads(report.model_dump_json(by_alias=True))


def _dump(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _write(text: str) -> int:
    path = Path(os.environ.get("LLMOS_TERMINATION_LOG", TERMINATION_LOG))
    # Outside a pod the default does not exist, and creating a file in /dev would help nobody.
    if path != TERMINATION_LOG or path.exists():
        path.write_text(text)
    return 1


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llmos_workers.prepare", description="Prepare a job's dataset.")
    parser.add_argument("--job", type=Path, required=True, help="file with the FineTuneJob's metadata and spec")
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--teacher", type=Path, help="folder of the model that teaches, for task distill")
    parser.add_argument("--work", type=Path, required=True, help="the job's claim")
    parser.add_argument("--base-digest", required=True, help="digest of the base model")
    return parser
