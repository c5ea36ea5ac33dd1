"""NetworkPolicies: everything is closed, and each opening has its own policy that says what it is for.

    default-deny   all pods: nothing in, nothing out
    dns            all pods: name servers in kube-system and `Settings.dns_addresses`, port 53
    engines        gateway -> the engine's port; operator -> the control port, where the engine's figures are
    fetch          steps that inspect and fetch models, and pods of replicas and jobs that fetch for themselves: out by
                   TCP
    adapters       share pods <- replicas, the port where an adapter's files are
    gangs          pods of replicas of several pods <-> each other (NCCL and torch.distributed neither authenticate
                   nor encrypt, so that a tenant's gangs have to trust each other, and nobody else is let near)
    training       pods of attempts that train on several nodes <-> each other, for the same reason

An engine has no way out but to name servers and peers. NetworkPolicies cannot tell an init container from the engine
beside it: a replica that fetches for itself (`storage.mode: ephemeral`) keeps the way out of a fetch step, and the
checklist says so. The same holds for the pod that prepares a dataset; a train pod whose base model is in a claim has no
way out.

With the profile `standard` fetch steps reach the internet, which is every address outside of
`Settings.internal_ranges`, and the ranges of `egressAllow`; with `strict` only the latter. No range opens the metadata
services of clouds.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from llmos.api.names import (
    COMPONENT_FETCH,
    COMPONENT_GATEWAY,
    COMPONENT_INSPECT,
    COMPONENT_PREPARE,
    COMPONENT_REPLICA,
    COMPONENT_SHARE,
    COMPONENT_TIDY,
    COMPONENT_TRAIN,
    CONTROL_PORT,
    ENGINE_PORT,
    LABEL_COMPONENT,
    LABEL_FETCHES,
    LABEL_GANG_SIZE,
    SHARE_PORT,
)
from llmos_operator.manifests.common import Manifest
from llmos_operator.manifests.isolation.tenant_namespace import TenantNamespace, build_isolation_metadata

METADATA_SERVICES: Final = ("169.254.169.254/32", "fd00:ec2::254/128")
DNS_PORT: Final = 53
DNS_NAMESPACE: Final = "kube-system"
OPERATOR_LABELS: Final = {"app.kubernetes.io/name": "llmos", "app.kubernetes.io/component": "operator"}
"""Of the operator's pods, as the chart makes them."""


def build_network_policies(namespace: TenantNamespace) -> list[Manifest]:
    """Return the policies that every namespace of a tenant has."""
    fetches = {"matchExpressions": [_is_in(LABEL_COMPONENT, COMPONENT_INSPECT, COMPONENT_FETCH, COMPONENT_SHARE)]}
    fetching_jobs = {
        "matchLabels": {LABEL_FETCHES: "true"},
        "matchExpressions": [_is_in(LABEL_COMPONENT, COMPONENT_PREPARE, COMPONENT_TRAIN, COMPONENT_TIDY)],
    }
    fetching_replicas = {"matchLabels": {LABEL_COMPONENT: COMPONENT_REPLICA, LABEL_FETCHES: "true"}}
    replicas = {"matchLabels": {LABEL_COMPONENT: COMPONENT_REPLICA}}
    shares = {"matchLabels": {LABEL_COMPONENT: COMPONENT_SHARE}}
    gangs = {"matchLabels": {LABEL_COMPONENT: COMPONENT_REPLICA}, "matchExpressions": [_exists(LABEL_GANG_SIZE)]}
    peers = [{"podSelector": gangs}]
    training = {"matchLabels": {LABEL_COMPONENT: COMPONENT_TRAIN}, "matchExpressions": [_exists(LABEL_GANG_SIZE)]}
    ranks = [{"podSelector": training}]
    way_out = _build_way_out(namespace)
    return [
        _build_policy(namespace, "default-deny", {}, ingress=[], egress=[]),
        _build_policy(namespace, "dns", {}, egress=[_build_dns_opening(namespace)]),
        _build_policy(
            namespace,
            "engines",
            replicas,
            ingress=[
                {"from": [_build_gateway_peer(namespace)], "ports": [_port(ENGINE_PORT)]},
                {"from": [_build_operator_peer(namespace)], "ports": [_port(CONTROL_PORT)]},
            ],
        ),
        _build_policy(
            namespace,
            "adapters",
            replicas,
            egress=[{"to": [{"podSelector": shares}], "ports": [_port(SHARE_PORT)]}],
        ),
        _build_policy(
            namespace,
            "shares",
            shares,
            ingress=[{"from": [{"podSelector": replicas}], "ports": [_port(SHARE_PORT)]}],
        ),
        _build_policy(namespace, "gangs", gangs, ingress=[{"from": peers}], egress=[{"to": peers}]),
        _build_policy(namespace, "training", training, ingress=[{"from": ranks}], egress=[{"to": ranks}]),
        _build_policy(namespace, "fetch", fetches, egress=way_out),
        _build_policy(namespace, "fetch-by-replicas", fetching_replicas, egress=way_out),
        _build_policy(namespace, "fetch-by-jobs", fetching_jobs, egress=way_out),
    ]


def _build_policy(
    namespace: TenantNamespace,
    name: str,
    selector: Manifest,
    *,
    ingress: list[Manifest] | None = None,
    egress: list[Manifest] | None = None,
) -> Manifest:
    """A direction that is None is not this policy's; an empty one allows nothing."""
    spec: Manifest = {"podSelector": selector, "policyTypes": []}
    for kind, rules in (("Ingress", ingress), ("Egress", egress)):
        if rules is not None:
            spec["policyTypes"].append(kind)
            # Written also when empty: server-side apply leaves alone what a manifest does not name.
            spec[kind.lower()] = rules
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": build_isolation_metadata(namespace, f"llmos-{name}"),
        "spec": spec,
    }


def _build_gateway_peer(namespace: TenantNamespace) -> Manifest:
    return _build_peer(namespace.settings.namespace, {LABEL_COMPONENT: COMPONENT_GATEWAY})


def _build_operator_peer(namespace: TenantNamespace) -> Manifest:
    return _build_peer(namespace.settings.namespace, OPERATOR_LABELS)


def _build_peer(namespace: str, labels: dict[str, str]) -> Manifest:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": labels},
    }


def _build_dns_opening(namespace: TenantNamespace) -> Manifest:
    servers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": DNS_NAMESPACE}}}]
    beside = [{"ipBlock": {"cidr": cidr}} for cidr in namespace.settings.dns_addresses]
    return {"to": [*servers, *beside], "ports": [_port(DNS_PORT, "UDP"), _port(DNS_PORT)]}


def _build_way_out(namespace: TenantNamespace) -> list[Manifest]:
    """Return where fetch steps may go, one rule for all ports of TCP; none if nothing is allowed."""
    isolation = namespace.tenant.spec.isolation
    everywhere = ("0.0.0.0/0", "::/0") if isolation.profile == "standard" else ()
    internal = namespace.settings.internal_ranges
    blocks = [_build_block(cidr, internal) for cidr in everywhere]
    blocks += [_build_block(cidr, METADATA_SERVICES) for cidr in isolation.egress_allow]
    return [{"to": [{"ipBlock": block} for block in blocks], "ports": [{"protocol": "TCP"}]}] if blocks else []


def _build_block(cidr: str, without: tuple[str, ...]) -> Manifest:
    network = ipaddress.ip_network(cidr, strict=False)
    inside = [each for each in without if _is_inside(each, network)]
    return {"cidr": str(network), "except": inside} if inside else {"cidr": str(network)}


def _is_inside(cidr: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    inner = ipaddress.ip_network(cidr)
    return inner.version == network.version and inner != network and inner.subnet_of(network)  # type: ignore[arg-type]


def _port(number: int, protocol: str = "TCP") -> Manifest:
    return {"protocol": protocol, "port": number}


def _is_in(key: str, *values: str) -> Manifest:
    return {"key": key, "operator": "In", "values": list(values)}


def _exists(key: str) -> Manifest:
    return {"key": key, "operator": "Exists"}
