"""One pass over accelerator classes: find new GPU products on the nodes, count what each class has."""

from __future__ import annotations

from llmos.api import AcceleratorClass
from llmos.api.names import DISCOVERY_FIELD_MANAGER
from llmos_operator.kube.resources import ACCELERATOR_CLASSES, NODES
from llmos_operator.manifests.accelerators import build_accelerator_class
from llmos_operator.planning.accelerators import build_class_status, plan_discovery
from llmos_operator.reconcilers.base import DONE, Context, Key, Result
from llmos_operator.reconcilers.writing import apply_status_if_changed


async def reconcile_accelerators(context: Context, _key: Key) -> Result:
    """Go over all classes and nodes at once: there are few classes, and every node change concerns one of them."""
    nodes = await context.kube.list(NODES)
    stored = await context.kube.list(ACCELERATOR_CLASSES)
    known = [AcceleratorClass.model_validate(item) for item in stored]
    for found in plan_discovery(nodes, known):
        stored.append(await context.kube.apply(build_accelerator_class(found), field_manager=DISCOVERY_FIELD_MANAGER))
    for item in stored:
        accelerator = AcceleratorClass.model_validate(item)
        if accelerator.metadata.deletion_timestamp is None:
            status = build_class_status(accelerator, nodes, context.now())
            await apply_status_if_changed(context.kube, item, status, context.now())
    return DONE
