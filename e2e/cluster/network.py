"""What a node changes in the machine's network, and how it is taken back.

`up` records what it is about to add before it adds it, and only what stands in that record is ever removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.node import BRIDGE, NODE_ADDRESS, POD_CIDR
from e2e.cluster.policies import TABLE as POLICY_TABLE
from e2e.cluster.shell import run

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_BRIDGE_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
MASQUERADE_TABLE = "llmos-masquerade"
# kube-proxy keeps all it does in these (`nft list tables`), and does not remove them when it ends.
KUBE_PROXY_TABLES = (("ip", "kube-proxy"), ("ip6", "kube-proxy"))


@dataclass(frozen=True)
class NetworkBefore:
    """Kernel settings as they were before `up`. Empty: the setting did not exist."""

    forwarding: str
    bridge_netfilter: str


def observe_network() -> NetworkBefore:
    return NetworkBefore(_read(_FORWARDING), _read(_BRIDGE_NETFILTER))


def ensure_address_is_free() -> None:
    """Refuse to start a second cluster of this kind on the machine.

    Raises:
        ClusterError: the node address or the bridge exists, and our record does not say that it is ours.
    """
    if f" {NODE_ADDRESS}/" in run("ip", "-4", "-o", "addr").stdout or _link_exists(BRIDGE):
        raise ClusterError(
            f"The address {NODE_ADDRESS} or the bridge {BRIDGE} exists already: another cluster of this tool (with "
            "another state folder) runs here. End it first: `python -m e2e.cluster down --state FOLDER`."
        )


def build_masquerade_rules() -> str:
    """Traffic of pods to the outside leaves with the machine's address. The table is replaced in one transaction."""
    return f"""\
table ip {MASQUERADE_TABLE}
delete table ip {MASQUERADE_TABLE}
table ip {MASQUERADE_TABLE} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {POD_CIDR} ip daddr != {POD_CIDR} ip daddr != 224.0.0.0/4 masquerade
    }}
}}
"""


def apply_network() -> None:
    """Address, forwarding, masquerading. Repeatable."""
    run("ip", "addr", "replace", f"{NODE_ADDRESS}/32", "dev", "lo")
    if not _BRIDGE_NETFILTER.exists():
        run("modprobe", "br_netfilter", check=False)
    _write(_FORWARDING, "1")
    # Without it, a pod that calls a Service whose pod is on the same bridge gets its answer from the wrong address.
    if _BRIDGE_NETFILTER.exists():
        _write(_BRIDGE_NETFILTER, "1")
    run("nft", "-f", "-", stdin=build_masquerade_rules())


def remove_network(before: NetworkBefore) -> None:
    """Take back what `apply_network`, CNI, kube-proxy and the enforcer of policies did. Repeatable."""
    for family, table in (("ip", MASQUERADE_TABLE), ("ip", POLICY_TABLE), *KUBE_PROXY_TABLES):
        run("nft", "delete", "table", family, table, check=False)
    run("ip", "link", "delete", BRIDGE, check=False)
    run("ip", "addr", "del", f"{NODE_ADDRESS}/32", "dev", "lo", check=False)
    if before.forwarding:
        _write(_FORWARDING, before.forwarding)
    if before.bridge_netfilter and _BRIDGE_NETFILTER.exists():
        _write(_BRIDGE_NETFILTER, before.bridge_netfilter)


def _link_exists(name: str) -> bool:
    return Path("/sys/class/net", name).exists()


def _read(setting: Path) -> str:
    return setting.read_text().strip() if setting.exists() else ""


def _write(setting: Path, value: str) -> None:
    if _read(setting) != value:
        setting.write_text(value)
