"""Replicas whose pool is gone, or cannot be read: they hold what they hold until their pods have ended. Pure.

Garbage collection ends the pods of a deleted pool one by one, and each drains first. Were they left out meanwhile, a
tenant could fill what they still hold, and would have more than its quota allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmos.api import AcceleratorClass, InferencePool


def build_stand_in(
    namespace: str, name: str, pods: Sequence[Mapping[str, Any]], classes: Iterable[AcceleratorClass]
) -> InferencePool | None:
    """Return a pool that says of these pods what the ledger has to know: all of them are its minimum, so that nobody
    asks them to go.

    None if no class selects the nodes that they ask for: then they count on their nodes, for nobody.
    """
    wanted = next((pod["spec"].get("nodeSelector") or {} for pod in pods), {})
    class_name = next((each.metadata.name for each in classes if each.spec.node_selector == wanted), None)
    if class_name is None:
        return None
    return InferencePool.model_validate(
        {
            "metadata": {"namespace": namespace, "name": name},
            "spec": {
                "modelRef": {"name": "unknown"},
                "accelerator": {"class": class_name},
                "replicas": max(1, len(pods)),
            },
        }
    )
