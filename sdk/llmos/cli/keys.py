"""`llmos keys`: make, list and revoke API keys for the gateway.

A new key goes to the standard output alone, and what there is to know about it to the standard error, so that
`KEY=$(llmos keys create)` holds the key and nothing else.
"""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from llmos.cli.exits import Command
from llmos.cli.options import AsJson, Context, Kubeconfig, find_session
from llmos.cli.session import Target

if TYPE_CHECKING:
    from llmos.client import ListedKey

PARTS: Final = ("chat", "completions", "embeddings", "responses")
"""Of the API, as in `llmos.api.apikeys.Part`, which would cost --help the import of all models."""
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_COLUMNS: Final = ("NAME", "ID", "NAMESPACES", "MODELS", "ENDPOINTS", "EXPIRES")

_DEFAULT: Final = "llmos-system"

keys = typer.Typer(
    name="keys", no_args_is_help=True, rich_markup_mode=None, help="Make, list and revoke API keys for the gateway."
)

SystemNamespace = Annotated[str, typer.Option("--system-namespace", help="Where the gateway runs and keys are stored.")]


@keys.command(cls=Command)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Option("--name", help="Name of the key's Secret; by default one is made up.")] = "",
    namespaces: Annotated[
        list[str] | None,
        typer.Option("--namespace", "-n", help="Where it may call pools; by default the context's. Repeatable."),
    ] = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="It may call pools everywhere.")
    ] = False,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="PATTERN", help="Only these pools: NAME or NAMESPACE/NAME, * for any text. Repeatable."
        ),
    ] = None,
    endpoints: Annotated[
        list[str] | None,
        typer.Option("--endpoint", help=f"Only this part of the API: {', '.join(PARTS)}. Repeatable."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="After this time it is refused: 12h, 30d, 8w.")
    ] = None,
    tenant: Annotated[str, typer.Option("--tenant", help="Whom its use is counted to.")] = "",
    system_namespace: SystemNamespace = _DEFAULT,
    as_json: AsJson = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Make an API key and print it, this once: only its hash is stored.

    You need the right to create Secrets in the gateway's namespace.

    Examples:

        llmos keys create --namespace team --expires 30d

        export OPENAI_API_KEY=$(llmos keys create --name ci -n team --model 'smollm2*')
    """
    if all_namespaces and namespaces:
        raise typer.BadParameter("--all-namespaces already means every namespace", param_hint="--namespace")
    session = find_session(ctx)
    expires_at = session.now() + _parse_time(expires) if expires else None
    from llmos.client import KeyRights  # noqa: PLC0415  (start-up time, here and below)

    with session.connect(Target(None, context, kubeconfig)) as client:
        rights = KeyRights(
            namespaces=frozenset(() if all_namespaces else namespaces or (client.namespace,)),
            models=_check_patterns(models),
            endpoints=_check_endpoints(endpoints),
            expires_at=expires_at,
            tenant=tenant,
        )
        made = client.keys.create(rights, name=name, system_namespace=system_namespace)
    facts = _as_json(made.stored.name, made.stored)
    if as_json:
        print(json.dumps({"key": made.key, **facts}, indent=2))
        return
    print(made.key)
    where = ", ".join(sorted(made.stored.namespaces)) or "all namespaces"
    print(
        f"Key {made.stored.name} (id {made.stored.id}) for {where}. It is shown this once: only its hash is stored.",
        file=sys.stderr,
    )


@keys.command("list", cls=Command)
def list_keys(
    ctx: typer.Context,
    system_namespace: SystemNamespace = _DEFAULT,
    as_json: AsJson = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List the API keys and what they may do; the keys themselves are nowhere."""
    session = find_session(ctx)
    with session.connect(Target(None, context, kubeconfig)) as client:
        found = client.keys.list(system_namespace=system_namespace)
    if as_json:
        print(json.dumps([_as_json(key.name, key.stored, key.problem) for key in found], indent=2))
        return
    rows = [_COLUMNS, *(_row(key, session.now()) for key in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@keys.command(cls=Command)
def revoke(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="KEY", help="Name or id of the key, not the key itself.")],
    system_namespace: SystemNamespace = _DEFAULT,
    as_json: AsJson = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Delete an API key; gateways refuse it within a second.

    Examples:

        llmos keys revoke ci
    """
    with find_session(ctx).connect(Target(None, context, kubeconfig)) as client:
        gone = client.keys.revoke(name, system_namespace=system_namespace)
    print(json.dumps(_as_json(gone.name, gone.stored, gone.problem), indent=2) if as_json else f"Revoked {gone.name}.")


def _parse_time(text: str) -> timedelta:
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no time such as 12h, 30d or 8w", param_hint="--expires")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _check_patterns(patterns: list[str] | None) -> tuple[str, ...]:
    for pattern in patterns or ():
        if not re.fullmatch(r"[a-z0-9.*?\[\]!-]+(/[a-z0-9.*?\[\]!-]+)?", pattern):
            raise typer.BadParameter(
                f"{pattern!r} is no NAME or NAMESPACE/NAME with * for any text", param_hint="--model"
            )
    return tuple(patterns or ())


def _check_endpoints(endpoints: list[str] | None) -> tuple[str, ...]:
    for endpoint in endpoints or ():
        if endpoint not in PARTS:
            raise typer.BadParameter(f"{endpoint!r} is none of {', '.join(PARTS)}", param_hint="--endpoint")
    return tuple(endpoints or ())


def _as_json(name: str, stored: Any, problem: str = "") -> dict[str, Any]:
    if stored is None:
        return {"name": name, "problem": problem}
    return {
        "name": name,
        "id": stored.id,
        "namespaces": sorted(stored.namespaces) or ["*"],
        "models": list(stored.models),
        "endpoints": list(stored.endpoints),
        "expiresAt": stored.expires_at.isoformat() if stored.expires_at else None,
        "tenant": stored.tenant,
    }


def _row(key: ListedKey, now: datetime) -> tuple[str, ...]:
    stored = key.stored
    if stored is None:
        return (key.name, "-", "-", "-", "-", f"unusable: {key.problem}")
    expires = stored.expires_at.strftime("%Y-%m-%d %H:%M UTC") if stored.expires_at else "never"
    is_over = stored.expires_at is not None and stored.expires_at <= now
    return (
        key.name,
        stored.id,
        ",".join(sorted(stored.namespaces)) or "all",
        ",".join(stored.models) or "all",
        ",".join(stored.endpoints) or "all",
        f"{expires} (over)" if is_over else expires,
    )
