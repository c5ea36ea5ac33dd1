"""nftables rules from NetworkPolicies: the bridge plugin of this cluster enforces none by itself.

Pure: the live pods, namespaces and policies in, one table out, which `enforcer.py` puts in place of the last one. What
a network plugin of a production cluster decides is decided here in the same way (Kubernetes, "Network Policies"):

- A pod that no policy selects for a direction is open in that direction; all policies that select it add up.
- A connection needs the consent of both ends: egress of the one pod, ingress of the other.
- What comes from the node itself (the kubelet's probes, and programs of this machine) reaches every pod: it never
  passes the hooks that are used here. What a pod sends to the node is judged like everything else.
- Packets of a connection that was allowed once are not judged again, so answers need no rule.
- Services are translated before (kube-proxy, hook prerouting): rules see pods, never Services.
- A new pod of which nobody knows yet which policies select it has no network until that is known.

    hook forward, input:  saddr -> chain of the sender's egress -> daddr -> chain of the receiver's ingress

A chain holds one line for each thing that is allowed, which returns to the hook, and ends with a drop. Pods with the
same rules share a chain. IPv4 only, as the cluster is. For development and tests only.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from e2e.cluster.node import POD_CIDR

Object = Mapping[str, Any]
Direction = Literal["ingress", "egress"]

TABLE = "llmos-network-policies"
_PEERS = {"ingress": "from", "egress": "to"}
_PEER_ADDRESS = {"ingress": "ip saddr", "egress": "ip daddr"}
_EVERYWHERE = "0.0.0.0/0"


@dataclass(frozen=True)
class _World:
    """What selectors look at."""

    pods: Sequence[Object]
    namespaces: Mapping[str, Mapping[str, str]]
    """Labels by name."""


def build_table(pods: Iterable[Object], namespaces: Iterable[Object], policies: Sequence[Object]) -> str:
    """Return a script for `nft -f` that replaces the table in one transaction. Without policies everything is open."""
    replace = f"table ip {TABLE}\ndelete table ip {TABLE}\n"
    if not policies:
        return replace
    labels = {each["metadata"]["name"]: each["metadata"].get("labels") or {} for each in namespaces}
    world = _World([pod for pod in pods if _has_address(pod)], labels)
    chains: dict[str, tuple[str, ...]] = {}
    maps = {direction: _build_map(direction, world, policies, chains) for direction in ("egress", "ingress")}
    parts = [*map(_draw_chain, sorted(chains), (chains[name] for name in sorted(chains))), *_draw_hooks(maps, world)]
    return f"{replace}table ip {TABLE} {{\n{''.join(parts)}}}\n"


def _build_map(
    direction: Direction, world: _World, policies: Sequence[Object], chains: dict[str, tuple[str, ...]]
) -> dict[str, str]:
    """Return the chain of each isolated pod by its address; chains that are not there yet are added."""
    found: dict[str, str] = {}
    for pod in world.pods:
        selecting = [policy for policy in policies if _selects(policy, pod, direction)]
        if not selecting:
            continue
        lines = [
            line
            for policy in selecting
            for rule in policy["spec"].get(direction) or ()
            for line in _build_lines(rule, direction, policy["metadata"]["namespace"], pod, world)
        ]
        unique = tuple(dict.fromkeys(lines))
        name = f"{direction}-{hashlib.sha256(repr(unique).encode()).hexdigest()[:12]}"
        chains[name] = unique
        found[_address(pod)] = name
    return found


def _selects(policy: Object, pod: Object, direction: Direction) -> bool:
    spec = policy["spec"]
    # As the API server fills it in: ingress always, egress where the policy speaks of it.
    kinds = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    is_here = pod["metadata"]["namespace"] == policy["metadata"]["namespace"]
    return is_here and direction.title() in kinds and is_selected(spec.get("podSelector") or {}, _labels(pod))


def _build_lines(rule: Object, direction: Direction, namespace: str, pod: Object, world: _World) -> list[str]:
    """Return the matches of one rule of a policy; each of them allows a connection."""
    peers = rule.get(_PEERS[direction]) or [None]
    ports = rule.get("ports") or [None]
    lines = []
    for peer in peers:
        for port in ports:
            if peer is None or "ipBlock" in peer:
                addresses = "" if peer is None else _match_block(peer["ipBlock"], direction)
                # A name of a port is the container's: what it means elsewhere than in a pod nobody knows.
                matched = [(addresses, number) for number in _numbers(port, [pod] if direction == "ingress" else [])]
            else:
                matched = _match_pods(peer, port, direction, namespace, pod, world)
            lines += [" ".join(filter(None, (*match, "return"))) for match in matched if match[0] is not None]
    return lines


def _match_block(block: Object, direction: Direction) -> str | None:
    """Return the match of an address range; None for one of IPv6."""
    network = ipaddress.ip_network(block["cidr"], strict=False)
    if network.version == 6:
        return None
    address = _PEER_ADDRESS[direction]
    words = [] if str(network) == _EVERYWHERE else [f"{address} {network}"]
    words += [f"{address} != {ipaddress.ip_network(each, strict=False)}" for each in block.get("except") or ()]
    return " ".join(words)


def _match_pods(
    peer: Object, port: Object | None, direction: Direction, namespace: str, pod: Object, world: _World
) -> list[tuple[str | None, str]]:
    """Return the matches of the pods that a peer selects, together where the port is the same for all of them."""
    by_number: dict[str, list[str]] = {}
    for other in world.pods:
        if _is_peer(peer, other, namespace, world):
            for number in _numbers(port, [pod if direction == "ingress" else other]):
                by_number.setdefault(number, []).append(_address(other))
    return [
        (f"{_PEER_ADDRESS[direction]} {{ {', '.join(sorted(addresses))} }}", number)
        for number, addresses in by_number.items()
    ]


def _is_peer(peer: Object, pod: Object, namespace: str, world: _World) -> bool:
    where = pod["metadata"]["namespace"]
    if (selector := peer.get("namespaceSelector")) is not None:
        if not is_selected(selector, world.namespaces.get(where, {})):
            return False
    elif where != namespace:
        return False
    return is_selected(peer.get("podSelector") or {}, _labels(pod))


def _numbers(port: Object | None, receivers: Sequence[Object]) -> list[str]:
    """Return the match of a port; several if its name means different numbers, none if it means nothing."""
    if port is None:
        return [""]
    protocol, number = str(port.get("protocol") or "TCP").lower(), port.get("port")
    if number is None:
        return [f"meta l4proto {protocol}"]
    if isinstance(number, str):
        return [f"{protocol} dport {n}" for n in dict.fromkeys(_named(number, protocol, receivers))]
    last = port.get("endPort")
    return [f"{protocol} dport {number}-{last}" if last else f"{protocol} dport {number}"]


def _named(name: str, protocol: str, receivers: Sequence[Object]) -> Iterable[int]:
    for pod in receivers:
        for container in pod["spec"]["containers"]:
            for port in container.get("ports") or ():
                if port.get("name") == name and str(port.get("protocol") or "TCP").lower() == protocol:
                    yield port["containerPort"]


def is_selected(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything."""
    equal = all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return equal and all(_is_expressed(each, labels) for each in selector.get("matchExpressions") or ())


def _is_expressed(expression: Object, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case _:
            return value is None


def _has_address(pod: Object) -> bool:
    """Whether a pod holds an address of the bridge; those of finished pods may be another's by now."""
    status = pod.get("status") or {}
    if pod["spec"].get("hostNetwork") or status.get("phase") in {"Succeeded", "Failed"} or not status.get("podIP"):
        return False
    return ipaddress.ip_address(status["podIP"]) in ipaddress.ip_network(POD_CIDR)


def _address(pod: Object) -> str:
    return str(pod["status"]["podIP"])


def _labels(pod: Object) -> Mapping[str, str]:
    return pod["metadata"].get("labels") or {}


def _draw_chain(name: str, lines: Sequence[str]) -> str:
    allowed = "".join(f"        {line}\n" for line in lines)
    return f"    chain {name} {{\n{allowed}        drop\n    }}\n"


def _draw_hooks(maps: Mapping[str, Mapping[str, str]], world: _World) -> list[str]:
    bridge = str(next(ipaddress.ip_network(POD_CIDR).hosts()))
    known = ", ".join(sorted({bridge, *map(_address, world.pods)}))
    own = ", ".join(f"{address} . {address}" for address in sorted(map(_address, world.pods)))
    lines = ["ct state established,related accept"]
    if own:
        lines.append(f"ip saddr . ip daddr {{ {own} }} accept")
    lines += [f"ip saddr {POD_CIDR} ip saddr != {{ {known} }} drop"]
    sending = [*lines, *_draw_jump("ip saddr", maps["egress"])]
    receiving = [f"ip daddr {POD_CIDR} ip daddr != {{ {known} }} drop", *_draw_jump("ip daddr", maps["ingress"])]
    return [_draw_hook("forward", [*sending, *receiving]), _draw_hook("input", sending)]


def _draw_jump(address: str, chains: Mapping[str, str]) -> list[str]:
    jumps = ", ".join(f"{ip} : jump {name}" for ip, name in sorted(chains.items()))
    return [f"{address} vmap {{ {jumps} }}"] if jumps else []


def _draw_hook(hook: str, lines: Sequence[str]) -> str:
    body = "".join(f"        {line}\n" for line in lines)
    return f"    chain {hook} {{\n        type filter hook {hook} priority filter; policy accept;\n{body}    }}\n"
