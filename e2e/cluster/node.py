"""The programs of the real node and of what runs beside it: pure functions from a layout to components.

The node is this machine. It gets an address of its own on the loopback device, so that nothing depends on the
machine's real interfaces and nothing is reachable from outside.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from e2e.cluster.components import build_flags
from e2e.cluster.paths import StateDir, repository_dir
from e2e.cluster.processes import Component

NODE_NAME = "llmos-node"
NODE_ADDRESS = "10.88.0.1"
API_PORT = 6443
POD_CIDR = "10.244.0.0/24"
KWOK_POD_CIDR = "10.245.0.0/16"
DNS_ADDRESS = "10.96.0.10"
CLUSTER_DOMAIN = "cluster.local"
BRIDGE = "llmos0"
CNI_NETWORK = "llmos"
CNI_PLUGINS = "/usr/lib/cni"
CGROUP_ROOT = "llmos"
MAX_PODS = 200
COREDNS_READY_PORT = 8181
ENFORCER = "network-policies"
KUBELET_HEALTHZ_URL = "http://127.0.0.1:10248/healthz"

PRETEND_GPUS = 4
# The labels that NVIDIA's GPU feature discovery would set.
NODE_LABELS = {
    "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.product": "LLMOS-Pretend-80GB",
    "nvidia.com/gpu.memory": "81920",
    "nvidia.com/gpu.count": str(PRETEND_GPUS),
}


def build_containerd(binary: Path, state: StateDir, pause_image: str) -> Component:
    config = state.config / "containerd.toml"
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE (machines that are containers themselves) runc cannot lower the
    # score of a sandbox and every pod fails with "can't get final child's PID from pipe: EOF".
    text = f"""\
version = 2
root = {_toml(state.containerd)}
state = {_toml(state.containerd_state)}
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = {_toml(state.containerd_socket)}
[{cri}]
sandbox_image = {_toml(pause_image)}
restrict_oom_score_adj = true
[{cri}.cni]
bin_dir = {_toml(CNI_PLUGINS)}
conf_dir = {_toml(state.cni / "conf")}
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
SystemdCgroup = false
"""
    files = {config: text, state.cni / "conf" / "10-llmos.conflist": build_cni_config(state)}
    return Component("containerd", (str(binary), "--config", str(config)), files)


def build_cni_config(state: StateDir) -> str:
    """A bridge with addresses from a local file. Masquerading is done by our own nftables table (`network.py`), which
    can be removed as a whole; the bridge plugin would leave iptables chains behind."""
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(state.cni / "ipam"),
            "ranges": [[{"subnet": POD_CIDR}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return json.dumps({"cniVersion": "0.4.0", "name": CNI_NETWORK, "plugins": [bridge]}, indent=1)


def build_kubelet(binary: Path, state: StateDir) -> Component:
    config_file = state.config / "kubelet.json"
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(state.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(state.pki / "kubelet.crt"),
        "tlsPrivateKeyFile": str(state.pki / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{state.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP_ROOT}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "podLogsDir": str(state.pod_logs),
        "maxPods": MAX_PODS,
        "makeIPTablesUtilChains": False,
        "localStorageCapacityIsolation": True,
        # A development disk is often fuller than a server's. Removing images (the pause image among them) or evicting
        # pods for that would fail tests in ways that nobody could explain; `up` warns about the disk instead.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "nodeStatusUpdateFrequency": "4s",
        "syncFrequency": "10s",
    }
    flags = {
        "config": config_file,
        "kubeconfig": state.root / "kubelet.kubeconfig",
        "root_dir": state.kubelet,
        "hostname_override": NODE_NAME,
        "node_ip": NODE_ADDRESS,
        "node_labels": ",".join(f"{key}={value}" for key, value in NODE_LABELS.items()),
    }
    return Component("kubelet", (str(binary), *build_flags(flags)), {config_file: json.dumps(config, indent=1)})


def build_kube_proxy(binary: Path, state: StateDir) -> Component:
    flags = {
        "kubeconfig": state.root / "kube-proxy.kubeconfig",
        "proxy_mode": "nftables",
        "cluster_cidr": POD_CIDR,
        "hostname_override": NODE_NAME,
        "conntrack_max_per_core": 0,
        "healthz_bind_address": "127.0.0.1:10256",
        "metrics_bind_address": "127.0.0.1:10249",
    }
    return Component("kube-proxy", (str(binary), *build_flags(flags)))


def build_coredns(binary: Path, state: StateDir) -> Component:
    """CoreDNS as a program of the host. The Service kube-dns leads to it; what is not ours goes to the host's own
    name servers."""
    corefile = state.config / "Corefile"
    text = f"""\
. {{
    bind {NODE_ADDRESS}
    errors
    ready {NODE_ADDRESS}:{COREDNS_READY_PORT}
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {state.root / "coredns.kubeconfig"} {CNI_NETWORK}
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }}
    forward . /etc/resolv.conf
    cache 5
}}
"""
    return Component("coredns", (str(binary), "-conf", str(corefile)), {corefile: text})


def build_local_volumes(binary: Path, state: StateDir) -> Component:
    kubeconfig = state.root / "local-volumes.kubeconfig"
    return Component("local-volumes", (str(binary), f"-kubeconfig={kubeconfig}", f"-root={state.volumes}"))


def build_enforcer(state: StateDir) -> Component:
    """The program that enforces NetworkPolicies, which the bridge plugin does not."""
    argv = (sys.executable, "-m", "e2e.cluster.enforcer", str(state.kubeconfig))
    return Component(ENFORCER, argv, env={"PYTHONPATH": str(repository_dir()), "PYTHONUNBUFFERED": "1"})


def build_kwok(binary: Path, kubeconfig: Path, port: int, node_address: str = NODE_ADDRESS) -> Component:
    config = kubeconfig.with_name("kwok-config.json")
    flags = {
        "kubeconfig": kubeconfig,
        "manage_all_nodes": "false",
        "manage_nodes_with_annotation_selector": "kwok.x-k8s.io/node=fake",
        "node_ip": node_address,
        "cidr": KWOK_POD_CIDR,
        "server_address": f"127.0.0.1:{port}",
        "node_lease_duration_seconds": 40,
        "config": config,
    }
    return Component("kwok", (str(binary), *build_flags(flags)), files={config: json.dumps(_KWOK_CONFIGURATION)})


_KWOK_CONFIGURATION = {
    "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
    "kind": "KwokConfiguration",
    # By default 4 pods at a time start or end, and a busy API server takes a second for each.
    "options": {"podPlayStageParallelism": 16},
}


def _toml(value: Path | str) -> str:
    return json.dumps(str(value))
