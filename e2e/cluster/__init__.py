"""A Kubernetes cluster for development and tests: `python -m e2e.cluster --help`.

The product needs only a cluster, any cluster. This tool gives one to whoever has none: with kind where a Docker engine
answers, otherwise from the real Kubernetes programs on this (Linux, root) machine. Tests use `open_cluster()` for the
cluster of a state folder, and `ControlPlane` where an API server is enough.
"""

from e2e.cluster.api import Cluster, open_cluster
from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import StateDir

__all__ = ["Cluster", "ClusterError", "ControlPlane", "StateDir", "open_cluster"]
