"""What the pods of a gang have beside what every replica's pod has: how many they are, who is who, and where they meet.

The leader has a name in the cluster's DNS from the moment it has an address, before it is ready, by a headless Service
of the pool's: workers look it up and then stay with the address. Only the leader listens for requests. Where nodes tell
which of them a fast network connects, the pods would rather stand together; a pod that the quota ledger admits is
pinned to its node anyway.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmos.api import FineTuneJob, InferencePool
from llmos.api.names import (
    COMPONENT_LEADERS,
    COMPONENT_REPLICA,
    CONTROL_PORT,
    GANG_PORT,
    LABEL_COMPONENT,
    LABEL_POOL,
    LABEL_RANK,
    LABEL_REPLICA,
    POD_IP_VARIABLE,
)
from llmos_operator.manifests.common import Manifest, build_metadata, build_owner
from llmos_operator.planning.quota_nodes import DOMAIN_LABELS


def compute_leaders_name(pool: InferencePool) -> str:
    """Return the name of the Service that the leaders' names belong to."""
    return f"{pool.metadata.name}-leaders"


def build_leaders_service(pool: InferencePool) -> Manifest:
    """Return the headless Service of the leaders, draining and starting ones included."""
    ports = {"control": CONTROL_PORT, "gang": GANG_PORT}
    return build_meeting_service(pool, compute_leaders_name(pool), LABEL_POOL, COMPONENT_REPLICA, ports)


def build_meeting_service(
    owner: InferencePool | FineTuneJob, name: str, label: str, component: str, ports: Mapping[str, int]
) -> Manifest:
    """Return a headless Service by which the leaders of an owner's gangs are found, before they are ready.

    Args:
        owner: the pool or job whose gangs they are.
        name: of the Service.
        label: that names the owner on its pods.
        component: of the pods.
        ports: of a leader, by name.
    """
    metadata = owner.metadata
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": build_metadata(
            name,
            metadata.namespace or "",
            labels={label: metadata.name, LABEL_COMPONENT: COMPONENT_LEADERS},
            owner=build_owner(owner.kind, metadata),
        ),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {label: metadata.name, LABEL_COMPONENT: component, LABEL_RANK: "0"},
            "ports": [
                {"name": key, "port": port, "targetPort": port, "protocol": "TCP"} for key, port in ports.items()
            ],
        },
    }


def build_member_args(pool: InferencePool, replica: str, *, size: int, rank: int) -> tuple[str, ...]:
    """Return what a pod's worker is told about its gang; nothing where the replica is a single pod."""
    if size == 1:
        return ()
    leader = f"{replica}.{compute_leaders_name(pool)}.{pool.metadata.namespace}.svc"
    return ("--gang-size", str(size), "--rank", str(rank), "--leader", leader)


def build_member_env(size: int) -> list[Manifest]:
    """Return the environment that only pods of gangs have."""
    if size == 1:
        return []
    return [{"name": POD_IP_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]


def build_member_placement(pool: InferencePool, replica: str, *, size: int, rank: int) -> Manifest:
    """Return what the spec of a pod says about its place in the gang."""
    if size == 1:
        return {}
    peers = {"matchLabels": {LABEL_POOL: pool.metadata.name, LABEL_REPLICA: replica}}
    preferred = [
        {"weight": 100, "podAffinityTerm": {"topologyKey": key, "labelSelector": peers}} for key in DOMAIN_LABELS
    ]
    name: Manifest = {"hostname": replica, "subdomain": compute_leaders_name(pool)} if rank == 0 else {}
    return {
        **name,
        "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}},
    }
