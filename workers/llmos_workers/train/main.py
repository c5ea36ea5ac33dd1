"""The command line of the trainer.

    python -m llmos_workers.train --job FILE --model /model --work /job --base-digest D --attempt N --accelerators 1

Standard output carries progress as JSON lines, standard error the log, the termination log the outcome:

    complete   exit 0     the result is in WORK/output; run again, it is reported at once
    stopped    exit 143   after SIGTERM, everything is saved; run again, it goes on
    a reason   exit 1     with the cause and the remedy

SIGTERM before training begins (while the model is loaded) ends the process at once, with 143 and no message: there is
nothing new to save.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from llmos.api import FineTuneJob
from llmos.api.names import CONTROL_PORT, JOB_FILE, MODEL_DIR, WORK_DIR
from llmos.api.search import apply_parameters, propose_parameters
from llmos_workers.train.attempt import Attempt, Options
from llmos_workers.train.errors import (
    EXIT_FAILED,
    EXIT_STOPPED,
    OutOfMemoryError,
    Stopped,
    TrainError,
    is_disk_full,
)
from llmos_workers.train.step import is_out_of_memory
from llmos_workers.train.termination import build_message, write_message
from llmos_workers.train.writer import build_write_error

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one attempt and return its exit code."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    options = build_options(build_parser().parse_args(arguments))
    attempt = Attempt(options)
    gated = [gate.metric for gate in options.job.spec.evaluate.gates]
    try:
        facts, code = {"outcome": "complete", **attempt.run()}, 0
    except Stopped:
        facts, code = {"outcome": "stopped", **attempt.facts}, EXIT_STOPPED
    except Exception as error:  # whatever happens, the operator must learn it from the termination log
        failure = _classify(error)
        log.error("%s: %s", failure.reason, failure, exc_info=None if isinstance(error, TrainError) else error)
        facts, code = {"reason": str(failure.reason), "message": str(failure), **attempt.facts}, EXIT_FAILED
    finally:
        attempt.close()
    write_message(build_message(facts, gated))
    return code


def _classify(error: Exception) -> TrainError:
    if isinstance(error, TrainError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryError(
            f"The model does not fit: {str(error).strip()[:500] or 'MemoryError'}",
            "Give it more memory (trainer.memory, or another accelerator class), or take a smaller model.",
        )
    if isinstance(error, OSError) and is_disk_full(error):
        return build_write_error(error, "A file on the claim")
    return TrainError(f"{type(error).__name__}: {str(error).strip()[:1000]}", "The log of the pod has the traceback.")


def build_options(parsed: argparse.Namespace) -> Options:
    """Read the job and say what is to be done."""
    try:
        job = FineTuneJob.model_validate_json(parsed.job.read_bytes())
    except (OSError, ValidationError) as error:
        raise SystemExit(f"The job file {parsed.job} cannot be read: {error}") from error
    return Options(
        job=_find_trial(job, parsed.trial),
        trial=parsed.trial,
        base=parsed.model,
        work=parsed.work,
        base_digest=parsed.base_digest,
        attempt=parsed.attempt,
        accelerators=parsed.accelerators,
        metrics_port=parsed.metrics_port,
    )


def _find_trial(job: FineTuneJob, number: int) -> FineTuneJob:
    """Return the job with the values of a trial."""
    if not number:
        return job
    if job.spec.search is None:
        raise SystemExit(f"There is no trial {number}: the job has no search.")
    spec = apply_parameters(job.spec, propose_parameters(job.spec.search, number))
    return job.model_copy(update={"spec": spec})


def build_parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m llmos_workers.train", description="Train what a FineTuneJob says.")
    parser.add_argument(
        "--job", type=Path, default=Path(JOB_FILE), help="file with metadata and spec of the FineTuneJob"
    )
    parser.add_argument("--model", type=Path, default=Path(MODEL_DIR), help="folder of the base model")
    parser.add_argument("--work", type=Path, default=Path(WORK_DIR), help="the claim of the job")
    parser.add_argument("--base-digest", required=True, help="digest of the base model")
    parser.add_argument("--attempt", type=int, default=1, help="number of the attempt, from 1 on")
    parser.add_argument("--accelerators", type=int, default=1, help="accelerators that the attempt holds")
    parser.add_argument("--trial", type=int, default=0, help="number of the trial of a search; 0 = the job has none")
    parser.add_argument("--metrics-port", type=int, default=CONTROL_PORT, help="port of /metrics; 0 = none")
    return parser
