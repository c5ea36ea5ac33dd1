"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from llmos.cli.session import Session

Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Namespace; by default the context's."),
]
Context = Annotated[
    str | None,
    typer.Option("--context", help="Context of the kubeconfig; by default the current."),
]
Kubeconfig = Annotated[
    str | None,
    typer.Option(
        "--kubeconfig",
        help="Path; by default KUBECONFIG, ~/.kube/config or the pod's service account.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs, errors too.")]
TimeoutS = Annotated[float, typer.Option("--timeout", min=0, help="Longest wait in seconds.")]


def find_session(ctx: typer.Context) -> Session:
    """The outside world of the command."""
    return ctx.obj if isinstance(ctx.obj, Session) else Session()
