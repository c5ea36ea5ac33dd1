"""`llmos logs`: prints what `client.logs` reads; the progress of trainers in words."""

from __future__ import annotations

import json
import sys
from typing import Final

from llmos.api import TrainingProgress
from llmos.cli.job_progress import describe_progress
from llmos.cli.kinds import Kind, find_resources
from llmos.client import Client, LogLine, LogNotice, LogOptions
from llmos.client.flow import parse_object

PROGRESS: Final = "progress"
"""Value of `event` in the lines that trainers write for programs."""


def run_logs(client: Client, kind: Kind, name: str, options: LogOptions, *, raw: bool, as_json: bool) -> None:
    """Print the lines as they come; notices go to standard error."""
    printer = Printer(raw=raw, as_json=as_json)
    lines = find_resources(client, kind).logs(name, options)
    try:
        for item in lines:
            printer.print(item)
    finally:
        lines.close()


class Printer:
    """Prints lines; where they come from is said when it changes, as tail does."""

    def __init__(self, *, raw: bool, as_json: bool) -> None:
        self._raw = raw
        self._as_json = as_json
        self._source: tuple[str, str] | None = None

    def print(self, item: LogLine | LogNotice) -> None:
        """Print a line or a notice."""
        if isinstance(item, LogNotice):
            print(f"-- {item.text}", file=sys.stderr, flush=True)
        elif self._as_json:
            line = {"pod": item.pod, "container": item.container, "time": item.time, "text": item.text}
            print(json.dumps(line), flush=True)
        else:
            self._head(item)
            print(item.text if self._raw else render_text(item.text), flush=True)

    def _head(self, line: LogLine) -> None:
        source = line.pod, line.container
        if self._source not in (None, source):
            print(f"==> {line.pod} {line.container} <==", flush=True)
        self._source = source


def render_text(text: str) -> str:
    """A trainer's line of progress in words; any other line as it is."""
    if not text.startswith("{"):
        return text
    said = parse_object(text)
    if said.get("event") != PROGRESS:
        return text
    if "activeAt" in said and not isinstance(said.get("progress"), dict):
        return f"{said.get('phase', PROGRESS)}: goes on"
    try:
        progress = TrainingProgress.model_validate(said["progress"])
        checkpoint = said.get("lastCheckpoint")
        saved = f", checkpoint at step {checkpoint['step']}" if checkpoint else ""
    except (KeyError, TypeError, ValueError):
        return text
    return f"{said.get('phase', PROGRESS)}: {describe_progress(progress)}{saved}"
