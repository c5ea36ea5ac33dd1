"""`llmos keys`: make, list, rotate and revoke API keys for the gateway.

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
    from llmos.api.apikeys import StoredKey
    from llmos.client import ListedKey

PARTS: Final = ("chat", "completions", "embeddings", "responses", "classify", "pooling")
"""Of the API, as in `llmos.api.apikeys.Part`, which would cost --help the import of all models."""
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_COLUMNS: Final = ("NAME", "ID", "LAST", "TENANT", "NAMESPACES", "MODELS", "ENDPOINTS", "EXPIRES")

_DEFAULT: Final = "llmos-system"

keys = typer.Typer(
    name="keys", no_args_is_help=True, rich_markup_mode=None, help="Make, list, rotate and revoke API keys."
)

SystemNamespace = Annotated[str, typer.Option("--system-namespace", help="Where the gateway runs and keys are stored.")]


@keys.command(cls=Command)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Option("--name", help="Name of the key's Secret; by default one is made up.")] = "",
    namespaces: Annotated[
        list[str] | None,
        typer.Option(
            "--namespace",
            "-n",
            help="Where it may call pools; by default the context's, or all that its tenant may call. Repeatable.",
        ),
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
    tenant: Annotated[str, typer.Option("--tenant", help="Tenant whose rights and limits it has.")] = "",
    system_namespace: SystemNamespace = _DEFAULT,
    as_json: AsJson = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Make an API key and print it, this once: only its hash is stored.

    You need the right to create Secrets in the gateway's namespace, and with --tenant to get Tenants.

    Examples:

        llmos keys create --namespace team --expires 30d

        export OPENAI_API_KEY=$(llmos keys create --name ci -n team --model 'smollm2*')

        llmos keys create --tenant search --endpoint chat --expires 90d
    """
    if all_namespaces and namespaces:
        raise typer.BadParameter("--all-namespaces already means every namespace", param_hint="--namespace")
    session = find_session(ctx)
    expires_at = session.now() + _parse_time(expires, "--expires") if expires else None
    from llmos.client import KeyRights  # noqa: PLC0415  (start-up time, here and below)

    with session.connect(Target(None, context, kubeconfig)) as client:
        rights = KeyRights(
            namespaces=frozenset(() if all_namespaces else namespaces or (() if tenant else (client.namespace,))),
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
    print(f"{_describe(made.stored)} It is shown this once: only its hash is stored.", file=sys.stderr)


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


@keys.command(cls=Command)
def rotate(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="KEY", help="Name or id of the key, not the key itself.")],
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="TIME", help="How long both keys are good: 30m, 24h, 7d.")
    ] = "24h",
    new_name: Annotated[
        str, typer.Option("--name", help="Name of the new key's Secret; by default made up from the old one's.")
    ] = "",
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="TIME", help="When the new key ends; by default it lives as long."),
    ] = None,
    system_namespace: SystemNamespace = _DEFAULT,
    as_json: AsJson = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Make a key of the same rights and print it, this once; the old one ends after the overlap.

    You need the right to list, create, patch and delete Secrets in the gateway's namespace.

    Examples:

        KEY=$(llmos keys rotate ci --overlap 24h)
    """
    session = find_session(ctx)
    now, both_s = session.now(), _parse_time(overlap, "--overlap")
    ends_at = now + _parse_time(expires, "--expires") if expires else None
    from llmos.client import Rotation  # noqa: PLC0415  (start-up time)

    with session.connect(Target(None, context, kubeconfig)) as client:
        rotation = Rotation(now, both_s, new_name, ends_at)
        rotated = client.keys.rotate(name, rotation, system_namespace=system_namespace)
    new, old = rotated.new, rotated.old
    if as_json:
        facts = {"key": new.key, **_as_json(new.stored.name, new.stored), "replaces": _as_json(old.name, old)}
        print(json.dumps(facts, indent=2))
        return
    print(new.key)
    print(f"{_describe(new.stored)} Key {old.name} (id {old.id}) is good until {_say_end(old)}.", file=sys.stderr)


def _describe(stored: StoredKey) -> str:
    where = ", ".join(sorted(stored.namespaces)) or ("all that it may call" if stored.tenant else "all namespaces")
    owner = f" of tenant {stored.tenant}" if stored.tenant else ""
    return f"Key {stored.name} (id {stored.id}){owner} for {where}."


def _parse_time(text: str, option: str) -> timedelta:
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no time such as 12h, 30d or 8w", param_hint=option)
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
        "tail": stored.tail,
        "namespaces": sorted(stored.namespaces) or ["*"],
        "models": list(stored.models),
        "endpoints": list(stored.endpoints),
        "expiresAt": stored.expires_at.isoformat() if stored.expires_at else None,
        "tenant": stored.tenant,
    }


def _say_end(stored: StoredKey) -> str:
    return stored.expires_at.strftime("%Y-%m-%d %H:%M UTC") if stored.expires_at else "never"


def _row(key: ListedKey, now: datetime) -> tuple[str, ...]:
    stored = key.stored
    if stored is None:
        return (key.name, *["-"] * (len(_COLUMNS) - 2), f"unusable: {key.problem}")
    expires = _say_end(stored)
    is_over = stored.expires_at is not None and stored.expires_at <= now
    return (
        key.name,
        stored.id,
        stored.tail or "-",
        stored.tenant or "-",
        ",".join(sorted(stored.namespaces)) or "all",
        ",".join(stored.models) or "all",
        ",".join(stored.endpoints) or "all",
        f"{expires} (over)" if is_over else expires,
    )
