"""Replicas whose pool is gone, or cannot be read: they hold what they hold until their pods have ended. Pure.

Garbage collection ends the pods of a deleted pool one by one, and each drains first. Were they left out meanwhile, a
tenant could fill what they still hold, and would have more than its quota allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from llmos.api import AcceleratorClass, InferencePool

MOST_REPLICAS: Final = 1000
"""A pool may have no more; the pods of its gangs may be more than that."""


def build_stand_in(
    namespace: str, name: str, pods: Sequence[Mapping[str, Any]], classes: Iterable[AcceleratorClass]
) -> InferencePool | None:
    """Return a pool that says of these pods what the ledger has to know: all of them are its minimum, so that nobody
    asks them to go.

    None if no class selects the nodes that they ask for: then they count on their nodes, for nobody.
    """
    wanted = next((pod["spec"].get("nodeSelector") or {} for pod in pods), {})
    made_for = [each for each in classes if _is_made_for(each.spec.node_selector, wanted)]
    if not made_for:
        return None
    accelerator = max(made_for, key=lambda each: len(each.spec.node_selector))
    return InferencePool.model_validate(
        {
            "metadata": {"namespace": namespace, "name": name},
            "spec": {
                "modelRef": {"name": "unknown"},
                "accelerator": {"class": accelerator.metadata.name},
                "replicas": min(max(1, len(pods)), MOST_REPLICAS),
            },
        }
    )


def _is_made_for(selector: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    # Others may have added to what a class selects: a namespace's own node selector, or a flavor of Kueue's.
    return selector == wanted or (bool(selector) and selector.items() <= wanted.items())
