"""What the installation decides. Read once at start and passed to pure functions as an argument."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

INTERNAL_RANGES: Final = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
)
"""Private, shared, link-local (the metadata services of clouds among them) and special ranges (RFC 1918, 6598, 3927,
2544, 4193): pods, Services and nodes are in them unless a cluster was given public addresses."""


class Admitter(StrEnum):
    """Who admits replicas on accelerators."""

    LLMOS = "llmos"
    """The quota ledger."""
    KUEUE = "kueue"


@dataclass(frozen=True)
class Settings:
    """Images, environment of the fetch steps, and time limits in seconds."""

    namespace: str = "llmos-system"
    worker_image: str = "llmos-worker:dev"
    worker_lite_image: str = "llmos-worker-lite:dev"
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    fetch_env: tuple[tuple[str, str], ...] = ()
    """Environment of inspect and fetch steps, for example HTTPS_PROXY or HF_ENDPOINT."""
    ca_bundle_config_map: str = ""
    """ConfigMap (key ca.crt) with the authorities to trust instead of the image's; a namespace may lack it."""
    drain_settle_s: int = 3
    """Time for a Service to forget a replica before the replica is told to stop."""
    start_timeout_s: int = 1800
    """Longest time from a pod's start to its first readiness."""
    unschedulable_after_s: int = 10
    """A pod that cannot be scheduled for so long makes the pool say so."""
    withdraw_after_s: int = 60
    """An autoscaled pool whose replicas cannot start for so long after that stops asking for them."""
    admission: Admitter = Admitter.LLMOS
    """Who says which replicas may have their accelerators."""
    kueue_queue: str = "default"
    """LocalQueue of pools for which neither they nor their Tenant name one."""
    min_run_s: int = 0
    """Nobody is asked to go for others sooner than this after its admission."""
    untenanted: tuple[tuple[str, int], ...] = ()
    """Accelerators by class for namespaces of no Tenant, all together, once there is a Tenant."""
    image_pull_timeout_s: int = 60
    """A pod whose image cannot be pulled for so long is ended, so that it holds no accelerator."""
    chart_name: str = "llmos"
    """What the chart puts before the names of what it makes."""
    dns_addresses: tuple[str, ...] = ()
    """Address ranges of name servers outside of kube-system, such as a node-local cache, that tenants' pods may ask."""
    probes_ports: bool = False
    """Whether to try what policies close; only where the operator is a pod, for a node reaches the pods on it."""
    internal_ranges: tuple[str, ...] = INTERNAL_RANGES
    """Address ranges that are not the internet: the fetch steps of tenants reach none of them."""
