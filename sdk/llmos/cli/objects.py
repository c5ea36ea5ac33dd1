"""The commands `get` and `logs`: names, options, help. What they do stands in getting.py and reading_logs.py."""

from __future__ import annotations

import re
from typing import Annotated, Final

import typer

from llmos.cli.options import AsJson, Context, Kubeconfig, Namespace, find_session
from llmos.cli.session import Target

_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def get(
    ctx: typer.Context,
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="jobs, models, pools or accelerators; KIND/NAME is one of them.")
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the object.", show_default=False)] = "",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Look at all namespaces.")] = False,
    as_json: AsJson = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show objects of one kind, or everything about one of them.

    Of a FineTuneJob: its conditions, what was found in the dataset, base and result side by side, and the gates.

    Examples:

        llmos get jobs -A

        llmos get job/support
    """
    from llmos.cli.getting import run_get  # noqa: PLC0415  (start-up time, here and below)
    from llmos.cli.kinds import Kind, parse_kind  # noqa: PLC0415

    if not name:
        kind, _, name = kind.partition("/")
    found = parse_kind(kind)
    if found is None:
        raise typer.BadParameter(f"{kind!r} is none of {', '.join(Kind)}", param_hint="KIND")
    session = find_session(ctx)
    with session.connect(Target(namespace, context, kubeconfig)) as client:
        run_get(session, client, found, name, all_namespaces=all_namespaces, as_json=as_json)


def logs(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="KIND/NAME", help="job/NAME, pool/NAME or model/NAME.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as lines come, over attempts and replicas.")
    ] = False,
    tail: Annotated[int | None, typer.Option("--tail", min=1, help="Only the last lines of each container.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only what is younger: 30s, 5m, 2h.")
    ] = None,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="The attempt before the last, if its pod is still there.")
    ] = False,
    container: Annotated[
        str | None, typer.Option("--container", "-c", help="By default the one that runs or ran last.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print a trainer's lines of progress as the JSON they are.")
    ] = False,
    as_json: AsJson = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print the logs of the pods of a job, pool or model, whichever pods these are.

    With -f it waits for pods that do not exist yet, goes on with the next attempt or replica, connects again when the
    connection is lost, and ends when a job has ended or a model is fetched. Needs the rights to list pods and to get
    pods/log.

    Examples:

        llmos logs -f job/support

        llmos logs pool/chat --since 10m

        llmos logs job/support --previous --tail 50
    """
    from llmos.cli.kinds import BadReferenceError, Kind, parse_reference  # noqa: PLC0415
    from llmos.cli.reading_logs import run_logs  # noqa: PLC0415
    from llmos.client import LogOptions  # noqa: PLC0415

    if follow and previous:
        raise typer.BadParameter("an attempt that has ended says nothing more: leave -f out", param_hint="--previous")
    try:
        kind, name = parse_reference(target, [Kind.JOB, Kind.POOL, Kind.MODEL])
    except BadReferenceError as error:
        raise typer.BadParameter(str(error), param_hint="KIND/NAME") from error
    options = LogOptions(follow, tail, _parse_since(since), previous, container)
    with find_session(ctx).connect(Target(namespace, context, kubeconfig)) as client:
        run_logs(client, kind, name, options, raw=raw, as_json=as_json)


def _parse_since(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no time such as 30s, 5m or 2h", param_hint="--since")
    return int(match[1]) * _UNIT_S[match[2]]
