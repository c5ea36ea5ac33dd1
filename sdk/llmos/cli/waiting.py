"""Waits for an object to become ready, and shows what holds it up meanwhile."""

from __future__ import annotations

import json
import sys
from typing import Any

from llmos.api import FineTuneJob, LLMModel
from llmos.cli.job_progress import JobDisplay, describe_training
from llmos.cli.kinds import Kind, find_resources
from llmos.cli.screen import describe_progress
from llmos.cli.session import Session
from llmos.client import Client
from llmos.client.readiness import AnyKind, ready_condition


def run_wait(session: Session, client: Client, kind: Kind, name: str, *, timeout_s: float, as_json: bool) -> None:
    """Wait; progress goes to standard error, the object (with --json) to standard output."""
    resources: Any = find_resources(client, kind)
    if kind is Kind.JOB:
        with JobDisplay(session.now) as display:
            thing = resources.wait_ready(name, timeout_s, on_change=display)
    else:
        thing = resources.wait_ready(name, timeout_s, on_change=ProgressLines())
    ended = "has succeeded" if kind is Kind.JOB else "is ready"
    print(json.dumps(thing.to_manifest(), indent=2) if as_json else f"{thing.kind} {name} {ended}.")


class ProgressLines:
    """Tells on standard error how an object comes along; only when there is something new."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, thing: AnyKind) -> None:
        line = describe(thing)
        if line != self._last:
            print(line, file=sys.stderr)
            self._last = line


def describe(thing: AnyKind) -> str:
    """One line about an object's state."""
    condition = ready_condition(thing)
    if condition is None:
        return f"{thing.metadata.name}: waiting for the operator"
    message = _describe_progress(thing) or condition.message
    return f"{thing.metadata.name}: {condition.reason}{f': {message}' if message else ''}"


def _describe_progress(thing: AnyKind) -> str:
    if isinstance(thing, LLMModel):
        return describe_progress(thing.status.fetch)
    return describe_training(thing) if isinstance(thing, FineTuneJob) else ""
