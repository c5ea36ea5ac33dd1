"""What the gateway sees of the cluster: pools, endpoints, keys and other gateways, by watching or from a file."""

from llmos_gateway.cluster.follow import ClusterWatch
from llmos_gateway.cluster.source import AioSource
from llmos_gateway.cluster.static import StaticError, StaticWatch

__all__ = ["AioSource", "ClusterWatch", "StaticError", "StaticWatch"]
