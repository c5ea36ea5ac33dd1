"""A Kubernetes cluster for development and tests: `python -m e2e.cluster --help`.

The product needs only a cluster, any cluster. This tool gives one to whoever has none: with kind where a Docker engine
answers, otherwise from the real Kubernetes programs on this (Linux, root) machine. Tests use it as a library:
"""

from e2e.cluster.controlplane import ControlPlane
from e2e.cluster.errors import ClusterError
from e2e.cluster.paths import StateDir

__all__ = ["ClusterError", "ControlPlane", "StateDir"]
