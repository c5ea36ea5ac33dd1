"""`llmos-gateway`: the command line of the gateway. Every option can be given by an environment variable too."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
import uvloop

from llmos.kubeconfig import NoClusterError, load_configuration
from llmos.logs import LogLevel, configure_logs
from llmos_gateway.catalog import Catalog
from llmos_gateway.cluster import AioSource, ClusterWatch, StaticError, StaticWatch
from llmos_gateway.http.connections import ConnectionLimits
from llmos_gateway.proxy.limits import Limits
from llmos_gateway.runtime.app import Gateway, Options
from llmos_gateway.salts import CacheSalts

_OPTIONS, _LIMITS, _CONNECTIONS = Options(), Limits(), ConnectionLimits()
_MIB = 1024 * 1024
_CHATTY = ("asyncio", "aiohttp", "opentelemetry")

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class Auth(StrEnum):
    """Who may call."""

    REQUIRED = "required"
    NONE = "none"


@app.callback()
def _describe() -> None:
    """The entrance to LLMOS: one OpenAI-compatible URL for all pools of a cluster."""


@app.command()
def run(
    *,
    namespace: Annotated[
        str, typer.Option(envvar="LLMOS_NAMESPACE", help="Where the gateway runs; its API keys are Secrets there.")
    ] = "llmos-system",
    name: Annotated[str, typer.Option(envvar="HOSTNAME", help="Name of this gateway's pod.")] = _OPTIONS.name,
    host: Annotated[str, typer.Option(envvar="LLMOS_HOST", help="Address to listen on; empty: all of them.")] = "",
    port: Annotated[
        int, typer.Option(envvar="LLMOS_PORT", min=0, max=65535, help="Port for callers; 0 picks one.")
    ] = _OPTIONS.port,
    admin_port: Annotated[
        int,
        typer.Option(
            envvar="LLMOS_ADMIN_PORT",
            min=0,
            max=65535,
            help="Port of /healthz, /readyz, /metrics and /load, never exposed to callers; 0 picks one.",
        ),
    ] = _OPTIONS.admin_port,
    auth: Annotated[
        Auth, typer.Option(envvar="LLMOS_AUTH", help="none: everybody may call every pool, without a key.")
    ] = Auth.REQUIRED,
    tls_certificate: Annotated[
        Path | None, typer.Option(envvar="LLMOS_TLS_CERTIFICATE", help="PEM file; read again when it changes.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(envvar="LLMOS_TLS_KEY", help="PEM file of its private key.")] = None,
    cache_salt_secret_file: Annotated[
        Path | None,
        typer.Option(
            envvar="LLMOS_CACHE_SALT_SECRET_FILE",
            help="At least 32 random bytes, the same for all gateways: keeps cached prompts of tenants apart.",
        ),
    ] = None,
    budget_journal: Annotated[
        Path | None,
        typer.Option(
            envvar="LLMOS_BUDGET_JOURNAL",
            help="File of this gateway alone that keeps used tokens of tenants over a restart. Empty: it forgets them.",
        ),
    ] = None,
    budget_store: Annotated[
        str,
        typer.Option(
            envvar="LLMOS_BUDGET_STORE",
            help="URL of a Valkey or Redis in which all gateways count tokens of tenants, redis:// or rediss://.",
        ),
    ] = "",
    budget_away_s: Annotated[
        float,
        typer.Option(
            envvar="LLMOS_BUDGET_AWAY_S",
            min=0,
            help="How long requests of tenants with a budget go on while that store is away, before they get 503.",
        ),
    ] = _OPTIONS.budget_away_s,
    catalog_file: Annotated[
        Path | None,
        typer.Option(
            "--catalog",
            envvar="LLMOS_CATALOG",
            help="YAML file with pools, endpoints and keys, instead of watching a cluster.",
        ),
    ] = None,
    kubeconfig: Annotated[
        str, typer.Option(envvar="KUBECONFIG", help="Empty: the service account of the pod, or ~/.kube/config.")
    ] = "",
    max_body_mib: Annotated[
        int, typer.Option(envvar="LLMOS_MAX_BODY_MIB", min=1, max=1024, help="Largest body of a request.")
    ] = _LIMITS.max_body_bytes // _MIB,
    max_bodies_mib: Annotated[
        int, typer.Option(envvar="LLMOS_MAX_BODIES_MIB", min=1, help="All bodies together that wait for their answer.")
    ] = _LIMITS.max_bodies_bytes // _MIB,
    max_in_flight: Annotated[
        int, typer.Option(envvar="LLMOS_MAX_IN_FLIGHT", min=1, help="Requests at the same time, held ones included.")
    ] = _LIMITS.max_in_flight,
    max_connections: Annotated[
        int, typer.Option(envvar="LLMOS_MAX_CONNECTIONS", min=1, help="Open connections of callers.")
    ] = _CONNECTIONS.max_connections,
    request_timeout_s: Annotated[
        float,
        typer.Option(envvar="LLMOS_REQUEST_TIMEOUT_S", min=1, help="Longest time from a request to its whole answer."),
    ] = _LIMITS.request_timeout_s,
    body_timeout_s: Annotated[
        float, typer.Option(envvar="LLMOS_BODY_TIMEOUT_S", min=1, help="Longest time for a body to arrive.")
    ] = _LIMITS.body_timeout_s,
    header_timeout_s: Annotated[
        float, typer.Option(envvar="LLMOS_HEADER_TIMEOUT_S", min=1, help="Longest time for a head to arrive.")
    ] = _CONNECTIONS.header_timeout_s,
    write_timeout_s: Annotated[
        float, typer.Option(envvar="LLMOS_WRITE_TIMEOUT_S", min=1, help="Longest time that a caller reads nothing.")
    ] = _CONNECTIONS.write_timeout_s,
    keepalive_timeout_s: Annotated[
        float,
        typer.Option(envvar="LLMOS_KEEPALIVE_TIMEOUT_S", min=1, help="An idle connection is closed after this."),
    ] = _CONNECTIONS.keepalive_timeout_s,
    settle_s: Annotated[
        float,
        typer.Option(envvar="LLMOS_SETTLE_S", min=0, help="Time for Services to forget this gateway at SIGTERM."),
    ] = _OPTIONS.settle_s,
    drain_s: Annotated[
        float, typer.Option(envvar="LLMOS_DRAIN_S", min=0, help="Time for requests in flight to finish after that.")
    ] = _OPTIONS.drain_s,
    access_log: Annotated[
        bool,
        typer.Option(envvar="LLMOS_ACCESS_LOG", help="One JSON line on stdout for each request, without its text."),
    ] = True,
    log_level: Annotated[LogLevel, typer.Option(envvar="LLMOS_LOG_LEVEL")] = LogLevel.INFO,
) -> None:
    """Run the gateway until SIGTERM."""
    if (tls_certificate is None) != (tls_key is None):
        raise typer.BadParameter("Give both --tls-certificate and --tls-key, or neither.")
    configure_logs(log_level, sys.stderr, chatty=_CHATTY)
    options = Options(
        host=host or None,
        port=port,
        admin_port=admin_port,
        name=name,
        asks_for_key=auth is Auth.REQUIRED,
        certificate=tls_certificate,
        key=tls_key,
        access_log=sys.stdout.buffer if access_log else None,
        cache_salt_secret=_read_secret(cache_salt_secret_file) if cache_salt_secret_file else None,
        budget_journal=budget_journal,
        budget_store=_check_store(budget_store),
        budget_away_s=budget_away_s,
        settle_s=settle_s,
        drain_s=drain_s,
        limits=replace(
            _LIMITS,
            max_body_bytes=max_body_mib * _MIB,
            max_bodies_bytes=max(max_bodies_mib, max_body_mib) * _MIB,
            max_in_flight=max_in_flight,
            request_timeout_s=request_timeout_s,
            body_timeout_s=body_timeout_s,
        ),
        connections=replace(
            _CONNECTIONS,
            max_connections=max_connections,
            header_timeout_s=header_timeout_s,
            write_timeout_s=write_timeout_s,
            keepalive_timeout_s=keepalive_timeout_s,
        ),
    )
    try:
        uvloop.run(_serve(options, catalog_file, kubeconfig, namespace))
    except (NoClusterError, StaticError) as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from None


def _check_store(url: str) -> str:
    # It holds a password: the message does not show it.
    if url and not url.startswith(("redis://", "rediss://", "unix://")):
        raise typer.BadParameter(
            "Give a URL that begins with redis://, rediss:// or unix://.", param_hint="--budget-store"
        )
    try:
        _ = urlsplit(url).port
    except ValueError:
        message = "The URL cannot be read. Write special characters of the password as in URLs: / is %2F, @ is %40."
        raise typer.BadParameter(message, param_hint="--budget-store") from None
    return url


def _read_secret(path: Path) -> bytes:
    try:
        secret = path.read_bytes()
        CacheSalts(secret)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path} cannot be used: {error}.", param_hint="--cache-salt-secret-file") from None
    return secret


async def _serve(options: Options, catalog_file: Path | None, kubeconfig: str, namespace: str) -> None:
    catalog = Catalog()
    if catalog_file is not None:
        watch = StaticWatch(catalog, catalog_file)
        watch.load()
        await Gateway(options, catalog, watch).run()
        return
    configuration = await load_configuration(kubeconfig)
    async with AioSource(configuration) as source:
        following = ClusterWatch(catalog, source, namespace=namespace, gateway=options.name)
        await Gateway(options, catalog, following).run()


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
