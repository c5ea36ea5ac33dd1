"""One pass over accelerator classes: find new GPU products on the nodes, count what each class has."""

from __future__ import annotations

from pydantic import ValidationError

from llmos.api import AcceleratorClass
from llmos.api.names import DISCOVERY_FIELD_MANAGER
from llmos_operator.kube.client import Object
from llmos_operator.kube.resources import ACCELERATOR_CLASSES, NODES
from llmos_operator.manifests.accelerators import build_accelerator_class
from llmos_operator.planning.accelerators import build_class_status, plan_discovery
from llmos_operator.reconcilers.base import DONE, Context, Key, Result
from llmos_operator.reconcilers.invalid import apply_invalid_status
from llmos_operator.reconcilers.writing import apply_status_if_changed


async def reconcile_accelerators(context: Context, _key: Key) -> Result:
    """Go over all classes and nodes at once: there are few classes, and every node change concerns one of them.

    A class that cannot be read says so, and keeps its name from what is found.
    """
    nodes = await context.kube.list(NODES)
    known: dict[str, tuple[Object, AcceleratorClass]] = {}
    unreadable: set[str] = set()
    for item in await context.kube.list(ACCELERATOR_CLASSES):
        name = item["metadata"]["name"]
        try:
            known[name] = item, AcceleratorClass.model_validate(item)
        except ValidationError as error:
            unreadable.add(name)
            await apply_invalid_status(context, item, error)
    for found in plan_discovery(nodes, [accelerator for _, accelerator in known.values()]):
        if found.name not in unreadable:
            made = await context.kube.apply(build_accelerator_class(found), field_manager=DISCOVERY_FIELD_MANAGER)
            known[found.name] = made, AcceleratorClass.model_validate(made)
    for item, accelerator in known.values():
        if accelerator.metadata.deletion_timestamp is None:
            status = build_class_status(accelerator, nodes, context.now())
            await apply_status_if_changed(context.kube, item, status, context.now())
    return DONE
