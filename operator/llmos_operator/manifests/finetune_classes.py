"""What the pods of a job say about accelerator classes, and where one goes that may be followed by pods of several."""

from __future__ import annotations

from collections.abc import Sequence

from llmos.api import AcceleratorClass
from llmos.api.names import ANNOTATION_ACCELERATOR_CLASS, ANNOTATION_ACCELERATOR_CLASSES
from llmos_operator.manifests.common import Manifest
from llmos_operator.manifests.replica import build_placement
from llmos_operator.planning.finetune_classes import Target
from llmos_operator.planning.quota_record import build_record_annotation


def build_class_annotations(target: Target, *, is_leader: bool) -> dict[str, str]:
    """Return what the ledger reads of a train pod."""
    told = {ANNOTATION_ACCELERATOR_CLASS: target.class_name}
    if target.classes:
        told[ANNOTATION_ACCELERATOR_CLASSES] = ",".join(target.classes)
    if target.record is not None and is_leader:
        told |= build_record_annotation(target.record)
    return told


def build_shared_placement(classes: Sequence[AcceleratorClass]) -> Manifest:
    """Return which nodes a pod goes to whose volume pods of any of these classes are to reach: those of all of them."""
    if not classes:
        return {}
    if len(classes) == 1:
        return build_placement(classes[0])
    tolerations = [each for one in classes for each in build_placement(one).get("tolerations", ())]
    placement: Manifest = {"tolerations": tolerations} if tolerations else {}
    if not all(each.spec.node_selector for each in classes):
        return placement
    terms = [_build_term(each) for each in classes]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {**placement, "affinity": {"nodeAffinity": required}}


def _build_term(accelerator: AcceleratorClass) -> Manifest:
    selector = sorted(accelerator.spec.node_selector.items())
    return {"matchExpressions": [{"key": key, "operator": "In", "values": [value]} for key, value in selector]}
