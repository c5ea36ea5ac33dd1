"""The command lines of a control plane: pure functions from a specification to components.

`controlplane.py` (loopback, for tests) and `host.py` (a whole cluster) start the same programs from here. The
programs of the node stand in `node.py`.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from e2e.cluster.processes import Component

SERVICE_CIDR = "10.96.0.0/16"
_ISSUER = "https://kubernetes.default.svc.cluster.local"


@dataclass(frozen=True)
class Audit:
    """Whose requests the API server writes down: who asked for what and how it ended, never the content."""

    policy: Path
    log: Path
    users: tuple[str, ...]


@dataclass(frozen=True)
class ControlPlaneSpec:
    """Where a control plane keeps its files and on which address and ports it listens."""

    pki: Path
    etcd_data: Path
    address: str
    api_port: int
    etcd_client_port: int
    etcd_peer_port: int
    audit: Audit | None = None

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.api_port}"

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.address).is_loopback


def build_etcd(binary: Path, spec: ControlPlaneSpec) -> Component:
    """A single etcd on loopback, without fsync: a cluster for tests need not outlive a power cut."""
    client = f"http://127.0.0.1:{spec.etcd_client_port}"
    peer = f"http://127.0.0.1:{spec.etcd_peer_port}"
    return _component(
        "etcd",
        binary,
        name="default",
        data_dir=spec.etcd_data,
        listen_client_urls=client,
        advertise_client_urls=client,
        listen_peer_urls=peer,
        initial_advertise_peer_urls=peer,
        initial_cluster=f"default={peer}",
        unsafe_no_fsync="true",
        quota_backend_bytes=2 * 1024**3,
        log_level="warn",
    )


def build_apiserver(binary: Path, spec: ControlPlaneSpec) -> Component:
    """kube-apiserver as a real cluster runs it: default admission plugins (Pod Security among them), NodeRestriction,
    and RBAC."""
    pki = spec.pki
    component = _component(
        "kube-apiserver",
        binary,
        bind_address=spec.address,
        advertise_address=spec.address,
        secure_port=spec.api_port,
        # Kubernetes refuses a loopback address as an endpoint of its own Service, and logs that for ever.
        endpoint_reconciler_type="none" if spec.is_loopback else "lease",
        etcd_servers=f"http://127.0.0.1:{spec.etcd_client_port}",
        service_cluster_ip_range=SERVICE_CIDR,
        authorization_mode="Node,RBAC",
        enable_admission_plugins="NodeRestriction",
        allow_privileged="true",
        client_ca_file=pki / "ca.crt",
        tls_cert_file=pki / "apiserver.crt",
        tls_private_key_file=pki / "apiserver.key",
        service_account_issuer=_ISSUER,
        service_account_key_file=pki / "sa.pub",
        service_account_signing_key_file=pki / "sa.key",
        kubelet_certificate_authority=pki / "ca.crt",
        kubelet_client_certificate=pki / "apiserver-kubelet-client.crt",
        kubelet_client_key=pki / "apiserver-kubelet-client.key",
        kubelet_preferred_address_types="InternalIP",
    )
    return _with_audit(component, spec.audit) if spec.audit else component


def _with_audit(apiserver: Component, audit: Audit) -> Component:
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "users": audit.users}, {"level": "None"}],
    }
    flags = build_flags({"audit_policy_file": audit.policy, "audit_log_path": audit.log})
    return replace(apiserver, argv=(*apiserver.argv, *flags), files={audit.policy: json.dumps(policy)})


def build_controller_manager(binary: Path, spec: ControlPlaneSpec, kubeconfig: Path) -> Component:
    return _component(
        "kube-controller-manager",
        binary,
        kubeconfig=kubeconfig,
        secure_port=0,
        use_service_account_credentials="true",
        root_ca_file=spec.pki / "ca.crt",
        service_account_private_key_file=spec.pki / "sa.key",
        allocate_node_cidrs="false",
        leader_elect="false",
        controllers="*,-nodeipam,-cloud-node-lifecycle",
    )


def build_scheduler(binary: Path, kubeconfig: Path) -> Component:
    return _component("kube-scheduler", binary, kubeconfig=kubeconfig, secure_port=0, leader_elect="false")


def _component(name: str, binary: Path, /, **flags: object) -> Component:
    return Component(name, (str(binary), *build_flags(flags)))


def build_flags(flags: Mapping[str, object]) -> tuple[str, ...]:
    """`{"secure_port": 0}` becomes `--secure-port=0`."""
    return tuple(f"--{name.replace('_', '-')}={value}" for name, value in flags.items())
