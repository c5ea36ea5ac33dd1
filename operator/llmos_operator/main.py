"""`llmos-operator`: the command line of the operator. Every option can be given by an environment variable too."""

from __future__ import annotations

import gc
import ipaddress
import sys
from typing import Annotated
from urllib.parse import urlsplit

import typer
import uvloop

from llmos.logs import LogLevel, configure_logs
from llmos_operator.kube.config import NoClusterError
from llmos_operator.planning.settings import Admitter, Settings
from llmos_operator.reconcilers.registry import RECONCILERS
from llmos_operator.runtime.app import Operator, Options
from llmos_operator.runtime.logs import CHATTY, read_key_fields

_SETTINGS, _OPTIONS = Settings(), Options()
_COLLECT_AFTER = (50_000, 20, 20)
"""Objects that stay, and younger collections, after which the collector looks for cycles. Bodies that are read from
memory have none, but by Python's own 700 reading 3,000 pods made it look through all of them again and again: 0.4 s
instead of 0.08."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _describe() -> None:
    """The control plane of LLMOS: serves language models on a Kubernetes cluster."""


def _check_ranges(texts: list[str] | None) -> list[str] | None:
    for text in texts or ():
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise typer.BadParameter(f"{error}; write it like 10.0.0.0/8.") from None
    return texts


@app.command()
def run(
    *,
    namespace: Annotated[
        str, typer.Option(envvar="LLMOS_NAMESPACE", help="Where the operator runs and keeps its Lease.")
    ] = _SETTINGS.namespace,
    worker_image: Annotated[
        str, typer.Option(envvar="LLMOS_WORKER_IMAGE", help="Image with the engine.")
    ] = _SETTINGS.worker_image,
    worker_lite_image: Annotated[
        str, typer.Option(envvar="LLMOS_WORKER_LITE_IMAGE", help="Image of inspect, fetch and the simulator.")
    ] = _SETTINGS.worker_lite_image,
    image_pull_policy: Annotated[
        str, typer.Option(envvar="LLMOS_IMAGE_PULL_POLICY", help="Of all pods that the operator makes.")
    ] = _SETTINGS.image_pull_policy,
    image_pull_secret: Annotated[
        list[str] | None, typer.Option(envvar="LLMOS_IMAGE_PULL_SECRETS", help="Name of a Secret; may be repeated.")
    ] = None,
    fetch_env: Annotated[
        list[str] | None,
        typer.Option(envvar="LLMOS_FETCH_ENV", help="NAME=VALUE for inspect and fetch steps; may be repeated."),
    ] = None,
    ca_bundle_config_map: Annotated[
        str,
        typer.Option(
            envvar="LLMOS_CA_BUNDLE_CONFIG_MAP",
            help="ConfigMap (key ca.crt) in a model's namespace with the authorities to trust instead of the image's.",
        ),
    ] = _SETTINGS.ca_bundle_config_map,
    drain_settle_s: Annotated[
        int,
        typer.Option(envvar="LLMOS_DRAIN_SETTLE_S", min=0, help="Time for a Service to forget a replica, in seconds."),
    ] = _SETTINGS.drain_settle_s,
    start_timeout_s: Annotated[
        int,
        typer.Option(envvar="LLMOS_START_TIMEOUT_S", min=1, help="Longest time from a pod's start to readiness."),
    ] = _SETTINGS.start_timeout_s,
    unschedulable_after_s: Annotated[
        int,
        typer.Option(envvar="LLMOS_UNSCHEDULABLE_AFTER_S", min=0, help="When a pool says that its pods find no node."),
    ] = _SETTINGS.unschedulable_after_s,
    image_pull_timeout_s: Annotated[
        int,
        typer.Option(
            envvar="LLMOS_IMAGE_PULL_TIMEOUT_S", min=1, help="When a pod whose image cannot be pulled is ended."
        ),
    ] = _SETTINGS.image_pull_timeout_s,
    withdraw_after_s: Annotated[
        int,
        typer.Option(
            envvar="LLMOS_WITHDRAW_AFTER_S",
            min=0,
            help="When an autoscaled pool stops asking for replicas that cannot start, in seconds after it says so.",
        ),
    ] = _SETTINGS.withdraw_after_s,
    admission: Annotated[
        Admitter,
        typer.Option(envvar="LLMOS_ADMISSION", help="Who admits replicas on accelerators: the quota ledger, or Kueue."),
    ] = _SETTINGS.admission,
    kueue_queue: Annotated[
        str,
        typer.Option(
            envvar="LLMOS_KUEUE_QUEUE",
            help="With Kueue: the LocalQueue of pools for which neither they nor their Tenant name one.",
        ),
    ] = _SETTINGS.kueue_queue,
    min_run_s: Annotated[
        int,
        typer.Option(
            envvar="LLMOS_MIN_RUN_S",
            min=0,
            help="How long a replica or a job runs at least before it may be asked to go for others, in seconds.",
        ),
    ] = _SETTINGS.min_run_s,
    untenanted: Annotated[
        list[str] | None,
        typer.Option(
            envvar="LLMOS_UNTENANTED",
            help="CLASS=NUMBER: accelerators for namespaces of no Tenant, all together; may be repeated.",
        ),
    ] = None,
    chart_name: Annotated[
        str, typer.Option(envvar="LLMOS_CHART_NAME", help="What the chart puts before the names of what it makes.")
    ] = _SETTINGS.chart_name,
    dns_address: Annotated[
        list[str] | None,
        typer.Option(
            envvar="LLMOS_DNS_ADDRESSES",
            callback=_check_ranges,
            help="Address range of name servers outside of kube-system that tenants' pods may ask; may be repeated.",
        ),
    ] = None,
    probe_ports: Annotated[
        bool,
        typer.Option(
            envvar="LLMOS_PROBE_PORTS",
            help="Try whether ports of tenants' replicas are closed to the operator, which must be a pod for that.",
        ),
    ] = _SETTINGS.probes_ports,
    internal_range: Annotated[
        list[str] | None,
        typer.Option(
            envvar="LLMOS_INTERNAL_RANGES",
            callback=_check_ranges,
            help="Address range that is not the internet, instead of the private ones; may be repeated.",
        ),
    ] = None,
    gateway_url: Annotated[
        list[str] | None,
        typer.Option(
            envvar="LLMOS_GATEWAY_URLS",
            help="Admin address of a gateway outside of the operator's namespace, http://HOST:PORT; may be repeated.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(envvar="LLMOS_WORKERS", min=1, max=256, help="How many objects are reconciled at a time.")
    ] = _OPTIONS.workers,
    resync_s: Annotated[
        float, typer.Option(envvar="LLMOS_RESYNC_S", min=1, help="Every object is looked at so often, in seconds.")
    ] = _OPTIONS.resync_s,
    metrics_port: Annotated[
        int,
        typer.Option(
            envvar="LLMOS_METRICS_PORT", min=0, max=65535, help="Port of /healthz, /readyz and /metrics; 0 picks one."
        ),
    ] = _OPTIONS.port,
    leader_election: Annotated[
        bool, typer.Option(envvar="LLMOS_LEADER_ELECTION", help="Only one of several replicas writes.")
    ] = _OPTIONS.leader_election,
    kubeconfig: Annotated[
        str, typer.Option(envvar="KUBECONFIG", help="Empty: the service account of the pod, or ~/.kube/config.")
    ] = _OPTIONS.kubeconfig,
    log_level: Annotated[LogLevel, typer.Option(envvar="LLMOS_LOG_LEVEL")] = LogLevel.INFO,
) -> None:
    """Run the operator until SIGTERM."""
    configure_logs(log_level, sys.stderr, chatty=CHATTY, read_context=read_key_fields)
    settings = Settings(
        namespace=namespace,
        worker_image=worker_image,
        worker_lite_image=worker_lite_image,
        image_pull_policy=image_pull_policy,
        image_pull_secrets=tuple(image_pull_secret or ()),
        fetch_env=tuple(map(_parse_variable, fetch_env or ())),
        ca_bundle_config_map=ca_bundle_config_map,
        drain_settle_s=drain_settle_s,
        start_timeout_s=start_timeout_s,
        unschedulable_after_s=unschedulable_after_s,
        image_pull_timeout_s=image_pull_timeout_s,
        withdraw_after_s=withdraw_after_s,
        admission=admission,
        kueue_queue=kueue_queue,
        min_run_s=min_run_s,
        untenanted=tuple(map(_parse_share, untenanted or ())),
        chart_name=chart_name,
        dns_addresses=tuple(dns_address or ()),
        probes_ports=probe_ports,
        internal_ranges=tuple(internal_range or _SETTINGS.internal_ranges),
    )
    options = Options(
        kubeconfig=kubeconfig,
        workers=workers,
        resync_s=resync_s,
        port=metrics_port,
        leader_election=leader_election,
        gateway_urls=tuple(map(_parse_url, gateway_url or ())),
    )
    # What was imported stays for ever: to look through all of it for garbage would stop everything for 70 ms each time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    try:
        uvloop.run(Operator(settings, options, RECONCILERS).run())
    except NoClusterError as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from None


def _parse_variable(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE.", param_hint="--fetch-env")
    return name, value


def _parse_share(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not name or not number.isdecimal():
        raise typer.BadParameter(f"{text!r} is not CLASS=NUMBER.", param_hint="--untenanted")
    return name, int(number)


def _parse_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise typer.BadParameter(f"{text!r} is not http://HOST:PORT.", param_hint="--gateway-url")
    return text


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
