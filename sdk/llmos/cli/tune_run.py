"""`llmos tune`, `suspend` and `resume`: makes a job, watches it, and says how to go on however the watching ends."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import typer
import yaml

from llmos.api import FineTuneJob
from llmos.cli.exits import ExitCode
from llmos.cli.job_progress import JobDisplay
from llmos.cli.job_screen import draw_findings
from llmos.cli.session import Session
from llmos.cli.status import build_console
from llmos.cli.tuning import check_job
from llmos.client import Client, ConflictError, InvalidError, LlmosError, Verdict, judge
from llmos.client.readiness import PHASE_FAILED, PHASE_SUCCEEDED
from llmos.client.resources import build_apply_manifest


@dataclass(frozen=True)
class Watching:
    """How long to watch; None for not at all."""

    timeout_s: float | None
    as_json: bool


def print_manifest(job: FineTuneJob, *, as_json: bool) -> None:
    """Print the job as it would be applied."""
    manifest = build_apply_manifest(job)
    print(json.dumps(manifest, indent=2) if as_json else yaml.safe_dump(manifest, sort_keys=False).rstrip())


def run_tune(session: Session, client: Client, job: FineTuneJob, watching: Watching) -> None:
    """Check, make and watch the job.

    Raises:
        LlmosError: it was not made; or it was, and failed or did not end in time.
    """
    for note in check_job(client, job):
        print(f"note: {note}", file=sys.stderr)
    made = _create(client, job)
    where = f"-n {made.metadata.namespace}" if made.metadata.namespace else ""
    if watching.timeout_s is None:
        _print_made(made, where, as_json=watching.as_json)
        return
    print(f"FineTuneJob {made.metadata.name} was made. Ctrl-C leaves it running.", file=sys.stderr)
    done = _watch(session, client, made, watching, where)
    _print_done(done, where, as_json=watching.as_json)


def _create(client: Client, job: FineTuneJob) -> FineTuneJob:
    try:
        return client.jobs.create(job)
    except ConflictError as error:
        name = job.metadata.name
        raise ConflictError(
            error.cause,
            f"Look at it with: llmos get job/{name}; watch it with: llmos wait job/{name}; or choose another --name; "
            f"or delete it: kubectl delete finetunejobs.llmos.dev {name}",
        ) from error


def _watch(session: Session, client: Client, made: FineTuneJob, watching: Watching, where: str) -> FineTuneJob:
    name = made.metadata.name
    display = JobDisplay(session.now)
    try:
        with display:
            return client.jobs.wait_ready(name, watching.timeout_s or 0.0, on_change=display)
    except KeyboardInterrupt:
        _say_how_to_go_on(name, where)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except LlmosError:
        if display.last is not None and judge(display.last) is Verdict.FAILED:
            if not watching.as_json:
                build_console().print(*draw_findings(display.last), sep="\n", soft_wrap=True)
        else:
            _say_how_to_go_on(name, where)
        raise


def _say_how_to_go_on(name: str, where: str) -> None:
    def write(what: str, command: str) -> None:
        print(f"  {what:<20}{command} {where}".rstrip(), file=sys.stderr)

    print(f"\nFineTuneJob {name} goes on in the cluster.", file=sys.stderr)
    write("watch it again:", f"llmos wait job/{name} --timeout 86400")
    write("read its log:", f"llmos logs -f job/{name}")
    write("pause it:", f"llmos suspend job/{name}")
    write("give it up:", f"kubectl delete finetunejobs.llmos.dev {name}")


def _print_made(job: FineTuneJob, where: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(job.to_manifest(), indent=2))
        return
    name = job.metadata.name
    print(f"FineTuneJob {name} was made. Watch it with: llmos wait job/{name} {where}".rstrip())


def _print_done(job: FineTuneJob, where: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(job.to_manifest(), indent=2))
        return
    build_console().print(*draw_findings(job), sep="\n", soft_wrap=True)
    print(f"FineTuneJob {job.metadata.name} has succeeded. The result is LLMModel {job.spec.output.name}.")
    for target in job.spec.output.attach_to:
        print(f'Ask it with: llmos chat {target.pool} --model {job.spec.output.name} "..." {where}'.rstrip())


def run_suspend(client: Client, name: str, *, suspend: bool, as_json: bool) -> None:
    """Set spec.suspend.

    Raises:
        InvalidError: the job has ended.
    """
    job = client.jobs.get(name)
    if job.status.phase in (PHASE_SUCCEEDED, PHASE_FAILED):
        raise InvalidError(
            f"FineTuneJob {name} has ended ({job.status.phase}).",
            "There is nothing to suspend or resume; see how it ended with: llmos get job/" + name,
        )
    was = job.spec.suspend
    job = client.jobs.suspend(name) if suspend else client.jobs.resume(name)
    if as_json:
        print(json.dumps(job.to_manifest(), indent=2))
    else:
        print(_say_suspended(name, job.metadata.namespace, suspend=suspend, changed=was is not suspend))


def _say_suspended(name: str, namespace: str | None, *, suspend: bool, changed: bool) -> str:
    if not changed:
        return f"FineTuneJob {name} {'is suspended' if suspend else 'is not suspended'} already."
    where = f" -n {namespace}" if namespace else ""
    if suspend:
        return (
            f"FineTuneJob {name} saves a checkpoint and gives its accelerators back. "
            f"Let it go on with: llmos resume job/{name}{where}"
        )
    return f"FineTuneJob {name} goes on from its last checkpoint as soon as there is room."
