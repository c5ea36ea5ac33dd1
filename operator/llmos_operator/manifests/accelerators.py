"""The AcceleratorClass that discovery makes for a GPU product."""

from __future__ import annotations

from llmos.api import AcceleratorClass
from llmos.api.names import API_VERSION, LABEL_MANAGED_BY, MANAGED_BY
from llmos_operator.manifests.common import Manifest
from llmos_operator.planning.accelerators import LABEL_PRODUCT, RESOURCE, DiscoveredClass


def build_accelerator_class(found: DiscoveredClass) -> Manifest:
    """Return the object to create; later edits by a person stay, since discovery never writes it again."""
    return {
        "apiVersion": API_VERSION,
        "kind": AcceleratorClass.info.kind,
        "metadata": {"name": found.name, "labels": {LABEL_MANAGED_BY: MANAGED_BY}},
        "spec": {
            "resourceName": RESOURCE,
            "nodeSelector": {LABEL_PRODUCT: found.product},
            "memory": f"{found.memory_mib}Mi",
            "countPerNode": found.count_per_node,
            "tolerations": [
                {"key": key, "operator": "Equal", "value": value, "effect": effect}
                for key, value, effect in found.tolerations
            ],
        },
    }
