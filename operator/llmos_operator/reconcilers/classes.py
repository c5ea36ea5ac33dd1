"""Reads the accelerator classes and models that a pool or a job names; tells the quota which classes will do for what
already waits, when that has changed since it was made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from pydantic import ValidationError

from llmos.api import Reason
from llmos.api.meta import ApiModel
from llmos.api.names import ANNOTATION_ACCELERATOR_CLASS, ANNOTATION_ACCELERATOR_CLASSES, LABEL_REVISION
from llmos_operator.kube.client import Object
from llmos_operator.kube.errors import NotFound
from llmos_operator.kube.resources import PODS
from llmos_operator.planning.failures import Failure, build_failure, describe_fields
from llmos_operator.planning.quota_pods import is_gated, read_class, read_classes
from llmos_operator.planning.quota_record import read_record
from llmos_operator.reconcilers.base import Context

T = TypeVar("T", bound=ApiModel)


def parse_named(
    context: Context, kind: type[T], bodies: Iterable[Object | None]
) -> tuple[dict[str, T], dict[str, Failure]]:
    """Return the objects that are there, and why others cannot be used, by name and in their order."""
    known: dict[str, T] = {}
    unreadable: dict[str, Failure] = {}
    for body in bodies:
        if body is None:
            continue
        name = body["metadata"]["name"]
        try:
            known[name] = context.shared.parse(kind, body)
        except ValidationError as error:
            unreadable[name] = refuse_unreadable(name, error)
    return known, unreadable


def refuse_unreadable(name: str, error: ValidationError) -> Failure:
    """Return that an object that is referred to holds a value that cannot be used."""
    return build_failure(Reason.InvalidSpec, f"{error.title} {name}: {describe_fields(error)}.")


async def tend_classes(
    context: Context, pods: Iterable[Object], names: Sequence[str], by_revision: Mapping[str, str] | None = None
) -> None:
    """Write the classes that will do now into pods that wait for their accelerators.

    Args:
        context: how to reach the cluster.
        pods: pods of one pool or job.
        names: the classes, the preferred one first.
        by_revision: the class of each revision, for pods that do not say what they were made for.
    """
    for pod in pods:
        metadata = pod["metadata"]
        waits = is_gated(pod) and "deletionTimestamp" not in metadata and read_record(metadata).placement is None
        revision = metadata["labels"].get(LABEL_REVISION, "")
        made_for = read_class(pod) or (by_revision or {}).get(revision, "")
        if not waits or made_for not in names or (read_class(pod) and read_classes(pod) == tuple(names)):
            continue
        told = {ANNOTATION_ACCELERATOR_CLASS: made_for, ANNOTATION_ACCELERATOR_CLASSES: ",".join(names)}
        try:
            await context.kube.patch_metadata(PODS, metadata["name"], metadata["namespace"], annotations=told)
        except NotFound:
            continue
