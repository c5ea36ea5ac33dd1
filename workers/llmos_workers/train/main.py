"""The command line of the trainer.

    python -m llmos_workers.train --job FILE --model /model --work /job --base-digest D --attempt N --accelerators 1

    ... --nodes 2 --rank 1 --leader NAME      one of the pods that train together (`gang.py`)
    ... --processes 8                         one process for each accelerator of the pod (`launch.py`)

Standard output carries progress as JSON lines, standard error the log, the termination log the outcome:

    complete   exit 0     the result is in WORK/output; run again, it is reported at once
    finished   exit 0     all steps are done, and rank 0 makes the result
    stopped    exit 143   after SIGTERM, everything is saved; run again, it goes on
    a reason   exit 1     with the cause and the remedy

SIGTERM before training begins (while the model is loaded) ends the process at once, with 143 and no message: there is
nothing new to save.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic import ValidationError

from llmos.api import FineTuneJob
from llmos.api.search import apply_parameters
from llmos_workers.certificates import build_ca_environment
from llmos_workers.pulse import Pulse
from llmos_workers.train.arguments import build_parser
from llmos_workers.train.attempt import Attempt
from llmos_workers.train.errors import (
    EXIT_FAILED,
    EXIT_STOPPED,
    OutOfMemoryError,
    Stopped,
    TrainError,
    is_disk_full,
)
from llmos_workers.train.gang import build_peer_lost, is_loss_of_peer
from llmos_workers.train.meeting import Loss, Place
from llmos_workers.train.options import Options
from llmos_workers.train.step import is_out_of_memory
from llmos_workers.train.termination import build_message, write_message
from llmos_workers.train.writer import build_write_error

log = logging.getLogger(__name__)

END_S: Final = 15.0
"""A rank that lost another one ends by itself within this time, or is ended: it may wait for an accelerator."""


@dataclass
class _Ending:
    """Ends this process for the loss of another rank, where it does not end by itself."""

    attempt: Attempt | None = None
    has_come: threading.Event = field(default_factory=threading.Event)

    def on_loss(self, loss: Loss) -> None:
        """Wait, and end."""
        if self.has_come.wait(END_S):
            return
        facts = self.attempt.facts if self.attempt else {}
        write_message(build_message({"reason": str(loss.reason), "message": loss.message, **facts}))
        os._exit(EXIT_FAILED)


def main(arguments: Sequence[str] | None = None, pulse: Pulse | None = None) -> int:
    """Run one attempt and return its exit code. `pulse` tells meanwhile that it is alive."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    os.environ.update(build_ca_environment(os.environ))
    options = build_options(build_parser().parse_args(arguments))
    log.info("attempt %d begins", options.attempt)
    ending = _Ending()
    attempt = ending.attempt = Attempt(options, pulse, ending.on_loss)
    gated = [gate.metric for gate in options.job.spec.evaluate.gates]
    try:
        facts, code = {"outcome": "complete", **attempt.run()}, 0
    except Stopped:
        facts, code = {"outcome": "stopped", **attempt.facts}, EXIT_STOPPED
    except Exception as error:  # whatever happens, the operator must learn it from the termination log
        failure = attempt.explain(_classify(error))
        log.error("%s: %s", failure.reason, failure, exc_info=None if isinstance(error, TrainError) else error)
        facts, code = {"reason": str(failure.reason), "message": str(failure), **attempt.facts}, EXIT_FAILED
    finally:
        ending.has_come.set()
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
    if is_loss_of_peer(error):
        # Shares of a model are put together deep in its layers.
        return build_peer_lost(error)
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
        job=_find_trial(job, parsed.trial, parsed.parameters),
        trial=parsed.trial,
        base=parsed.model,
        work=parsed.work,
        base_digest=parsed.base_digest,
        teacher=parsed.teacher,
        teacher_digest=parsed.teacher_digest,
        attempt=parsed.attempt,
        accelerators=parsed.accelerators,
        metrics_port=parsed.metrics_port,
        store_uri=parsed.store_uri,
        place=_build_place(parsed),
        local_rank=parsed.local_rank,
        processes=parsed.processes,
        is_sharded=parsed.sharded,
    )


def _build_place(parsed: argparse.Namespace) -> Place:
    return Place(
        size=parsed.nodes * parsed.processes,
        rank=parsed.rank * parsed.processes + parsed.local_rank,
        leader=parsed.leader,
        port=parsed.gang_port,
        timeout_s=parsed.meet_timeout,
        silence_s=parsed.silence,
    )


def _find_trial(job: FineTuneJob, number: int, parameters: str) -> FineTuneJob:
    """Return the job with the values of a trial: those that the operator wrote down for it."""
    if not number:
        return job
    if job.spec.search is None:
        raise SystemExit(f"There is no trial {number}: the job has no search.")
    try:
        spec = apply_parameters(job.spec, json.loads(parameters))
    except (ValueError, AttributeError) as error:
        raise SystemExit(f"The values of trial {number} cannot be used: {error}") from error
    return job.model_copy(update={"spec": spec})
