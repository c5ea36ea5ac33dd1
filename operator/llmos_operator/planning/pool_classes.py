"""A replica of a pool on each of the accelerator classes that the pool names: its layout there, or why there is none.
Pure.

Each class has its own plan, so a replica is made for one class, like an attempt of a job (`finetune_classes`): for the
first that will do, and then for the one that the quota admits it to. A revision belongs to one class. Replicas of all
classes whose revision is that of now are up to date together, so none goes because another class became free.

A class on which a replica would have another number of pods is left out: what waits is admitted with the number of
pods that it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from llmos.api import AcceleratorClass, InferencePool, LLMModel, PoolClassStatus, Reason
from llmos_operator.planning.classes import join_refusals
from llmos_operator.planning.failures import Failure, build_failure
from llmos_operator.planning.layout import plan_layout
from llmos_operator.planning.pools import Layout
from llmos_operator.planning.replicas import HOLDING, Replica, ReplicaState

_LONGEST_MESSAGE = 1024


@dataclass(frozen=True)
class ClassLayout:
    """How a replica is made on one class."""

    name: str
    layout: Layout
    accelerator: AcceleratorClass | None = None


def plan_layouts(
    pool: InferencePool,
    model: LLMModel | None,
    known: Iterable[AcceleratorClass],
    unreadable: Mapping[str, Failure] | None = None,
) -> tuple[ClassLayout, ...]:
    """Return the layout on each class that the pool names, in its order.

    Args:
        pool: the pool.
        model: its model; None if there is none.
        known: those of the classes that exist.
        unreadable: why others cannot be used, by name.
    """
    found, refused = {each.metadata.name: each for each in known}, unreadable or {}
    names = pool.spec.accelerator.class_names
    planned = [
        ClassLayout(name, Layout(refusal=refused[name]))
        if name in refused
        else ClassLayout(name, plan_layout(_for_class(pool, name), model, found.get(name)), found.get(name))
        for name in names
    ]
    first = next((each for each in planned if each.layout.plan is not None), None)
    return tuple(_refuse_other_shape(each, first) for each in planned)


def choose_layout(layouts: Sequence[ClassLayout]) -> ClassLayout:
    """Return the first that will do; if none will, the first one with all reasons."""
    usable = find_usable(layouts)
    if usable:
        return usable[0]
    if layouts[0].layout.refusal is None:
        return layouts[0]
    refusals = {each.name: each.layout.refusal for each in layouts if each.layout.refusal is not None}
    return replace(layouts[0], layout=Layout(refusal=join_refusals(refusals)))


def find_usable(layouts: Iterable[ClassLayout]) -> tuple[ClassLayout, ...]:
    """Return those that will do, in their order."""
    return tuple(each for each in layouts if each.layout.plan is not None)


def unite_revisions(
    replicas: Iterable[Replica], revisions: Mapping[str, str], newest: str, usable: Collection[str] | None = None
) -> tuple[Replica, ...]:
    """Return the replicas such that all that are up to date, each on its class, have the newest revision.

    Args:
        replicas: as they were observed.
        revisions: the newest one of each class, by its name.
        newest: the revision of the class that is preferred now.
        usable: classes for which a replica can be made; on others only what has begun is up to date. None: all.
    """
    classes = find_classes(revisions)

    def is_current(replica: Replica) -> bool:
        name = classes.get(replica.revision)
        return name is not None and (usable is None or name in usable or _has_begun(replica))

    return tuple(
        replace(each, revision=newest, class_name=each.class_name or classes[each.revision])
        if is_current(each)
        else each
        for each in replicas
    )


def _has_begun(replica: Replica) -> bool:
    """Whether a replica holds its accelerators and lacks nothing."""
    return replica.state in HOLDING and not replica.is_gated and not replica.incomplete


def keep_revisions(pool: InferencePool, revisions: Mapping[str, str]) -> dict[str, str]:
    """Return the revisions and, in the order of the spec, those of classes that will do no more but that the spec still
    names: what runs there goes on.

    That the spec has not changed meanwhile is known from the revision of another class, which is what it was. If it has
    changed nobody knows how replicas would be made on such a class, and those there make room for others.
    """
    before = read_revisions(pool)
    if not any(before.get(name) == revision for name, revision in revisions.items()):
        return dict(revisions)
    names = pool.spec.accelerator.class_names
    known = before | dict(revisions)
    return {name: known[name] for name in names if name in known}


def find_classes(revisions: Mapping[str, str]) -> dict[str, str]:
    """Return the class of each revision, the preferred one where two are made alike."""
    return {revision: name for name, revision in reversed(list(revisions.items()))}


def read_revisions(pool: InferencePool) -> dict[str, str]:
    """Return the revision of each class that the status knows, by name of the class."""
    return {each.class_name: each.revision for each in pool.status.accelerator_classes if each.revision}


def build_class_statuses(
    pool: InferencePool,
    layouts: Sequence[ClassLayout],
    revisions: Mapping[str, str],
    replicas: Iterable[Replica],
    *,
    is_chosen_among: bool,
) -> tuple[PoolClassStatus, ...]:
    """Return what is true of each class of a pool that names several; nothing for another pool.

    Args:
        pool: the pool.
        layouts: of all its classes, in order.
        revisions: by name of the class.
        replicas: all observed replicas.
        is_chosen_among: whether somebody chooses among the classes.
    """
    if not pool.spec.accelerator.alternatives:
        return ()
    known = tuple(replicas)
    alive = Counter(r.class_name for r in known if r.state in {ReplicaState.STARTING, ReplicaState.READY})
    ready = Counter(r.class_name for r in known if r.state is ReplicaState.READY)
    holding = Counter(r.class_name for r in known if r.state in HOLDING and not r.is_gated)
    first = choose_layout(layouts).name
    return tuple(
        PoolClassStatus(
            class_name=each.name,
            replicas=alive[each.name],
            ready_replicas=ready[each.name],
            accelerators=holding[each.name] * pool.spec.accelerator.count,
            revision=revisions.get(each.name, ""),
            plan=each.layout.plan,
            message=_say(each, is_asked_for=is_chosen_among or each.name == first)[:_LONGEST_MESSAGE],
        )
        for each in layouts
    )


def _say(each: ClassLayout, *, is_asked_for: bool) -> str:
    if each.layout.refusal is not None:
        return f"Left out. {each.layout.refusal.message}"
    if not is_asked_for:
        return "Not asked for: only the quota chooses among classes, and here there is no Tenant, or Kueue admits."
    return ""


def _for_class(pool: InferencePool, name: str) -> InferencePool:
    accelerator = pool.spec.accelerator.model_copy(update={"class_name": name})
    return pool.model_copy(update={"spec": pool.spec.model_copy(update={"accelerator": accelerator})})


def _refuse_other_shape(each: ClassLayout, first: ClassLayout | None) -> ClassLayout:
    if first is None or each.layout.plan is None or first.layout.plan is None:
        return each
    pods, wanted = each.layout.plan.pods, first.layout.plan.pods
    if pods == wanted:
        return each
    detail = (
        f"A replica has {wanted} pods on {first.name} and would have {pods} on {each.name} (countPerNode): only "
        "classes on which it has the same number go together. Choose another spec.accelerator.count, or another class."
    )
    return replace(each, layout=Layout(refusal=build_failure(Reason.InvalidSpec, detail)))
