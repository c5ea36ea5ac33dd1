"""Exit codes that scripts can rely on, and the one place that turns an error into words and a code."""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from typing import Any

import typer
from typer.core import TyperCommand


class ExitCode(IntEnum):
    """What the exit code of every command means."""

    OK = 0
    PROBLEM = 1
    """Something is not as it should be: the message says what and what to do."""
    USAGE = 2
    """The command line is wrong."""
    NOT_FOUND = 3
    """The object does not exist."""
    NOT_READY = 4
    """The object is not ready, or did not become so in time."""
    UNREACHABLE = 5
    """The cluster or the server cannot be reached, or does not accept the login."""
    INTERRUPTED = 130
    """Ended by Ctrl-C."""


class Command(TyperCommand):
    """A command whose errors become a message and an exit code; with --json the message is JSON too."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except Exception as error:
            code = report(error, as_json=bool(ctx.params.get("as_json")))
            if code is None:
                raise
            raise typer.Exit(code) from error


def report(error: Exception, *, as_json: bool) -> ExitCode | None:
    """Tell about an error of the client and return its code; None if the error is none of ours."""
    from llmos.client.errors import LlmosError  # noqa: PLC0415  (only where something went wrong: start-up time)

    if not isinstance(error, LlmosError):
        return None
    if as_json:
        fields = {"type": type(error).__name__.removesuffix("Error"), "cause": error.cause, "remedy": error.remedy}
        print(json.dumps({"error": fields}, indent=2))
    else:
        print(f"error: {error.cause}", file=sys.stderr)
        if error.remedy:
            print(f"what to do: {error.remedy}", file=sys.stderr)
    return find_exit_code(error)


def find_exit_code(error: Exception) -> ExitCode:
    """The code of an error."""
    from llmos.client import errors  # noqa: PLC0415  (as above)

    if isinstance(error, errors.NotFoundError):
        return ExitCode.NOT_FOUND
    if isinstance(error, errors.NotReadyError):
        return ExitCode.NOT_READY
    if isinstance(error, errors.ConnectionFailedError):
        return ExitCode.UNREACHABLE
    return ExitCode.PROBLEM
