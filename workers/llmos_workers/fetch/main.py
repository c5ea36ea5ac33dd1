"""The command line of the inspect, fetch and dataset steps; see docs/how-to/model-sources.md.

    python -m llmos_workers.fetch inspect --source URI [--format auto]
    python -m llmos_workers.fetch fetch --source URI --revision REV --dest /model
    python -m llmos_workers.fetch dataset --source URI --dest /job/source/dataset

Standard output carries JSON lines (progress; the facts at the end of inspect), standard error the log. The termination
log gets the facts of a successful inspect, or {"reason", "message", "detail"} of a failure. Exit codes: 0, 1 (somebody
must change something), 75 (try again later); fetch/errors.py has the list. No output holds a credential.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from llmos.api import ResolvedModel
from llmos_workers.certificates import build_ca_environment
from llmos_workers.fetch.dataset import DATA_LINK, fetch_dataset
from llmos_workers.fetch.errors import FetchError
from llmos_workers.fetch.fetching import FetchRequest, fetch_model
from llmos_workers.fetch.inspection import inspect_model
from llmos_workers.fetch.redaction import redact
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.fetch.sources import open_source
from llmos_workers.fetch.volume import Volume

log = logging.getLogger("llmos_workers.fetch")

TERMINATION_LOG: Final = Path("/dev/termination-log")
_MAX_TERMINATION_BYTES: Final = 4096
_MAX_DETAIL_BYTES: Final = 1500
_LAST_LINES: Final = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step and return its exit code."""
    options = _build_parser().parse_args(arguments)
    os.environ.update(build_ca_environment(os.environ))
    termination = Path(os.environ.get("LLMOS_TERMINATION_LOG", TERMINATION_LOG))
    with _logging() as last_lines:
        try:
            _run(options, termination)
        except FetchError as error:
            return _report(error, last_lines, termination, options.step)
        except Exception as error:  # whatever happens, the operator must learn it from the termination log
            log.exception("unexpected error")
            return _report(FetchError(f"{type(error).__name__}: {error}"), last_lines, termination, options.step)
    return 0


def _run(options: argparse.Namespace, termination: Path) -> None:
    if options.step != "inspect":
        (_fetch if options.step == "fetch" else _fetch_dataset)(options)
        return
    facts = build_facts_json(_inspect(options))
    print(facts, flush=True)
    _write_termination(termination, facts)


def _inspect(options: argparse.Namespace) -> ResolvedModel:
    with open_source(options.source, revision=options.revision, pvc_mount=options.pvc_mount) as source:
        return inspect_model(
            source,
            options.format,
            trusted_revision=options.trust_remote_code_revision,
            is_adapter=options.adapter,
            retry=_build_retry(options),
        )


def _fetch(options: argparse.Namespace) -> None:
    request = FetchRequest(
        uri=options.source,
        revision=options.revision,
        wanted_format=options.format,
        trusted_revision=options.trust_remote_code_revision,
        is_adapter=options.adapter,
        parallel=options.parallel,
        lock_timeout_s=options.lock_timeout_s,
        retry=_build_retry(options),
    )
    with open_source(options.source, revision=options.revision, pvc_mount=options.pvc_mount) as source:
        fetch_model(request, source, Volume(options.dest, options.capacity_bytes), sys.stdout)


def _fetch_dataset(options: argparse.Namespace) -> None:
    request = FetchRequest(
        options.source, parallel=options.parallel, lock_timeout_s=options.lock_timeout_s, retry=_build_retry(options)
    )
    volume = Volume(
        options.dest,
        options.capacity_bytes,
        link_name=DATA_LINK,
        content="dataset",
        size_field="spec.checkpoint.storage.size",
    )
    with open_source(options.source, pvc_mount=options.pvc_mount, content="dataset") as source:
        fetch_dataset(request, source, volume, sys.stdout)


def _build_retry(options: argparse.Namespace) -> RetryPolicy:
    return RetryPolicy(attempts=options.attempts, first_wait_s=options.first_wait_s)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llmos_workers.fetch", description="Inspect or fetch a model.")
    steps = parser.add_subparsers(dest="step", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--source", required=True, help="URI, for example hf://org/name@revision")
    common.add_argument("--pvc-mount", type=Path, default=Path("/source"), help="where a pvc:// claim is mounted")
    common.add_argument("--attempts", type=_positive, default=8, help="attempts for each request without progress")
    common.add_argument("--first-wait-s", type=float, default=1.0, help="first pause between attempts, in seconds")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--revision", default="", help="what an earlier inspect resolved; wins over the URI's")
    model.add_argument("--format", default="auto", choices=("auto", "safetensors", "gguf"))
    model.add_argument("--trust-remote-code-revision", default="", help="commit whose code was reviewed and may run")
    model.add_argument("--adapter", action="store_true", help="the files are a LoRA adapter")
    volume = argparse.ArgumentParser(add_help=False)
    volume.add_argument("--dest", type=Path, required=True, help="the volume; what is fetched appears below it")
    volume.add_argument(
        "--capacity-bytes", type=_positive, help="declared size of the volume, if smaller than the disk"
    )
    volume.add_argument("--parallel", type=_positive, default=4, help="files fetched at the same time")
    volume.add_argument("--lock-timeout-s", type=float, default=60.0, help="how long to wait for another fetch")
    steps.add_parser("inspect", parents=[common, model], help="find out what the model is, without the weights")
    steps.add_parser("fetch", parents=[common, model, volume], help="bring the model to DEST/model")
    steps.add_parser("dataset", parents=[common, volume], help="bring a dataset's JSON lines to DEST/data")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def build_facts_json(model: ResolvedModel) -> str:
    """JSON of the facts, within what a termination log holds; the planner's extras go first if it is too long."""
    text = model.model_dump_json(by_alias=True, exclude_none=True)
    if len(text.encode()) <= _MAX_TERMINATION_BYTES:
        return text
    return model.model_copy(update={"config": None}).model_dump_json(by_alias=True, exclude_none=True)


def build_failure_json(error: FetchError, last_lines: Sequence[str], step: str = "fetch") -> str:
    """JSON of a failure, within what a termination log holds."""
    detail = redact("\n".join(last_lines)).encode()[-_MAX_DETAIL_BYTES:].decode(errors="ignore")
    message = redact(str(error))
    if step == "dataset":
        # Remedies name fields of an LLMModel; a FineTuneJob has its sources deeper, and several of them.
        message = message.replace("spec.source.", "source.").replace("spec.format", "source.uri")
    while True:
        text = json.dumps({"reason": error.reason.value, "message": message, "detail": detail}, ensure_ascii=False)
        if len(text.encode()) <= _MAX_TERMINATION_BYTES:
            return text
        # JSON escapes make the size hard to foretell, so both shrink until they fit.
        message, detail = message[: int(len(message) * 0.9)], detail[len(detail) // 2 :]


def _report(error: FetchError, last_lines: Sequence[str], termination: Path, step: str) -> int:
    log.error("%s: %s", error.reason, error)
    _write_termination(termination, build_failure_json(error, list(last_lines)[:-1], step))
    return error.exit_code


def _write_termination(path: Path, text: str) -> None:
    # Outside a pod the default does not exist, and creating a file in /dev would help nobody.
    if path != TERMINATION_LOG or path.exists():
        path.write_text(text)


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _Remembering(logging.Handler):
    def __init__(self, lines: deque[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


@contextmanager
def _logging() -> Iterator[deque[str]]:
    """Log to standard error, without credentials, and keep the last lines for the termination log."""
    lines: deque[str] = deque(maxlen=_LAST_LINES)
    handlers: tuple[logging.Handler, ...] = (logging.StreamHandler(sys.stderr), _Remembering(lines))
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(handler)
    # Only our own log: those of HTTP libraries name every URL.
    log.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        for handler in handlers:
            root.removeHandler(handler)
