"""The command line of what comes and goes before and after the pods of a job; see docs/concepts/fine-tuning.md.

    python -m llmos_workers.offsite restore --uri URI --work /job --attempt N [--trial N] [--has-claim]
                                                [--without-best]
    python -m llmos_workers.offsite put --uri URI --folder /job/dataset
    python -m llmos_workers.offsite remove --uri URI [--keep output]

Errors go to the termination log as {"reason", "message"}, with exit code 1; never a credential. With `--has-claim`
an object store that cannot be reached is only said: the claim has all that the attempt needs.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from llmos_workers.certificates import build_ca_environment
from llmos_workers.fetch.errors import DiskFullError, FetchError
from llmos_workers.fetch.main import TERMINATION_LOG
from llmos_workers.fetch.redaction import redact
from llmos_workers.offsite.folders import RETRY, publish_folder
from llmos_workers.offsite.remote import RemoteFolder
from llmos_workers.offsite.removing import REMOVAL_RETRY, remove_job
from llmos_workers.offsite.restore import Restoring, restore
from llmos_workers.offsite.words import explain
from llmos_workers.train.errors import is_disk_full

log = logging.getLogger("llmos_workers.offsite")

_MAX_MESSAGE: Final = 1500


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step and return its exit code."""
    options = _build_parser().parse_args(arguments)
    os.environ.update(build_ca_environment(os.environ))
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("llmos_workers").setLevel(logging.INFO)
    try:
        _run(options)
    except FetchError as error:
        # Of what is removed no attempt goes on: there is no next one that a remedy would be for.
        is_last = options.step == "remove"
        words = f"The object store {options.uri}: {error.cause}" if is_last else explain(error, options.uri)
        return _fail(options, error.reason, words)
    except OSError as error:
        told = "Raise checkpoint.storage.size in a new FineTuneJob." if is_disk_full(error) else "See the pod's log."
        return _fail(options, DiskFullError.reason if is_disk_full(error) else FetchError.reason, f"{error}. {told}")
    return 0


def _run(options: argparse.Namespace) -> None:
    remote = RemoteFolder(options.uri)
    if options.step == "put":
        RETRY.call(lambda: publish_folder(remote, options.folder))
        log.info("%s is in %s", options.folder, remote.uri)
        return
    if options.step == "remove":
        count = REMOVAL_RETRY.call(lambda: remove_job(remote, options.keep))
        log.info("removed %d objects from %s", count, remote.uri)
        return
    restore(
        Restoring(
            remote,
            options.work,
            options.attempt,
            options.trial,
            brings_dataset=not options.has_claim,
            brings_best=not options.without_best,
        )
    )


def _fail(options: argparse.Namespace, reason: str, message: str) -> int:
    message = redact(message)
    if getattr(options, "has_claim", False):
        log.warning("the attempt goes on from its claim alone: %s", message)
        return 0
    log.error("%s: %s", reason, message)
    path = Path(os.environ.get("LLMOS_TERMINATION_LOG", TERMINATION_LOG))
    # Outside a pod the default does not exist, and creating a file in /dev would help nobody.
    if path != TERMINATION_LOG or path.exists():
        path.write_text(json.dumps({"reason": str(reason), "message": message[:_MAX_MESSAGE]}))
    return 1


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llmos_workers.offsite", description="Keep a job's files apart.")
    steps = parser.add_subparsers(dest="step", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--uri", required=True, help="folder of the job, for example s3://bucket/path/team/job")
    bring = steps.add_parser("restore", parents=[common], help="bring what an attempt needs")
    bring.add_argument("--work", type=Path, required=True, help="the job's volume")
    bring.add_argument("--attempt", type=int, required=True, help="number of the attempt")
    bring.add_argument("--trial", type=int, default=0, help="number of the trial of a search; 0 = the job has none")
    bring.add_argument("--has-claim", action="store_true", help="the volume is a claim, which holds the dataset")
    bring.add_argument("--without-best", action="store_true", help="the result is made from the newest checkpoint")
    remove = steps.add_parser("remove", parents=[common], help="remove what the job put")
    remove.add_argument("--keep", action="append", default=[], help="a folder or an object of it that stays")
    put = steps.add_parser("put", parents=[common], help="put a complete folder")
    put.add_argument("--folder", type=Path, required=True, help="a folder with a manifest.json")
    return parser
