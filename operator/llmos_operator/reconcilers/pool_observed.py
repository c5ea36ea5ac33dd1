"""What one pass over an InferencePool sees: the pool, its pods, and how its replicas are made on each class."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from llmos.api import AcceleratorClass, InferencePool, LLMModel
from llmos.api.names import CPU_CLASS, LABEL_REVISION
from llmos_operator.kube.client import Object
from llmos_operator.kube.resources import ACCELERATOR_CLASSES, LLM_MODELS, PODS, TENANTS
from llmos_operator.manifests.replica import ReplicaTemplate, build_pool_selector, compute_revision
from llmos_operator.planning.claims import Tenants
from llmos_operator.planning.failures import Failure
from llmos_operator.planning.kueue import choose_queue
from llmos_operator.planning.pool_classes import (
    ClassLayout,
    choose_layout,
    find_usable,
    keep_revisions,
    plan_layouts,
    read_revisions,
)
from llmos_operator.planning.pools import Layout
from llmos_operator.planning.quota_view import needs_gate
from llmos_operator.reconcilers.adapter_key import KeyUnreadableError
from llmos_operator.reconcilers.adapters import read_token_hash
from llmos_operator.reconcilers.base import Context
from llmos_operator.reconcilers.classes import parse_named, refuse_unreadable


@dataclass(frozen=True)
class Observed:
    """What one pass knows of a pool."""

    current: Object
    pool: InferencePool
    templates: Mapping[str, ReplicaTemplate]
    """How replicas are made, by the class that they are made for, the preferred one first; none while none can be."""
    layout: Layout
    revision: str
    pods: list[Object]
    has_quota: bool = False
    """Whether its replicas wait until the quota, or Kueue, admits them."""
    withheld: Failure | None = None
    """Why nothing new can be made, though it is known how."""
    queue: str = ""
    """The LocalQueue in which they wait; empty if it is not Kueue that admits them."""
    layouts: tuple[ClassLayout, ...] = ()
    """On each class that the pool names."""
    revisions: Mapping[str, str] = field(default_factory=dict)
    """By class; those on which nothing can be planned, as the status knows them."""

    @property
    def template(self) -> ReplicaTemplate | None:
        """How a replica is made that nothing else is known of."""
        return next(iter(self.templates.values()), None)

    @property
    def is_chosen_among(self) -> bool:
        """Whether the quota chooses among classes."""
        return self.has_quota and not self.queue


def build_selector(pool: InferencePool) -> str:
    """Return the label selector of the pods of a pool."""
    return ",".join(f"{key}={value}" for key, value in sorted(build_pool_selector(pool).items()))


async def observe_pool(context: Context, current: Object, pool: InferencePool) -> Observed:
    """Look at what a pool refers to, and see how its replicas are made; what cannot be read refuses them."""
    namespace = pool.metadata.namespace or ""
    # All at once: nobody should wait for their sum.
    model, accelerators, pods, tenants = await asyncio.gather(
        context.kube.get(LLM_MODELS, pool.spec.model_ref.name, namespace),
        _observe_classes(context, pool),
        context.kube.list(PODS, namespace=namespace, label_selector=build_selector(pool)),
        _observe_tenants(context, pool),
    )
    has_quota = needs_gate(pool.spec.accelerator.class_name, tenants)
    parsed_model = None
    known, unreadable = parse_named(context, AcceleratorClass, accelerators)
    try:
        parsed_model = context.shared.parse(LLMModel, model) if model else None
        layouts = plan_layouts(pool, parsed_model, tuple(known.values()), unreadable)
    except ValidationError as error:
        layouts = _build_unreadable(pool, error)
    layout = choose_layout(layouts).layout
    without_plan = Observed(
        current,
        pool,
        {},
        layout,
        pool.status.revision or _newest_revision(pods),
        pods,
        has_quota,
        layouts=layouts,
        revisions=read_revisions(pool),
    )
    if layout.plan is None:
        # Without a plan nothing new is made, but what runs goes on, and may still shrink.
        return without_plan
    try:
        token_hash = await read_token_hash(context, pool)
    except KeyUnreadableError as error:
        return replace(without_plan, withheld=error.failure)
    usable = find_usable(layouts)
    names = tuple(each.name for each in usable) if pool.spec.accelerator.alternatives else ()
    templates = {
        each.name: ReplicaTemplate(
            pool, parsed_model, each.accelerator, each.layout.plan, context.settings, token_hash, names
        )
        for each in usable
        if each.layout.plan is not None
    }
    revisions = {name: compute_revision(template) for name, template in templates.items()}
    return replace(
        without_plan,
        templates=templates,
        revision=revisions[usable[0].name],
        revisions=keep_revisions(pool, revisions),
    )


def _build_unreadable(pool: InferencePool, error: ValidationError) -> tuple[ClassLayout, ...]:
    """Return that the model, and not the pool itself, holds a value that cannot be used."""
    layout = Layout(refusal=refuse_unreadable(pool.spec.model_ref.name, error))
    return tuple(ClassLayout(name, layout) for name in pool.spec.accelerator.class_names)


async def _observe_tenants(context: Context, pool: InferencePool) -> list[Object]:
    return [] if pool.spec.accelerator.class_name == CPU_CLASS else await context.kube.list(TENANTS)


async def _observe_classes(context: Context, pool: InferencePool) -> list[Object]:
    """Return the classes that the pool names, as far as they exist."""
    names = [name for name in pool.spec.accelerator.class_names if name != CPU_CLASS]
    found = [await context.kube.get(ACCELERATOR_CLASSES, name) for name in names]
    return [each for each in found if each is not None]


def _newest_revision(pods: list[Object]) -> str:
    metadata = [pod["metadata"] for pod in pods]
    dated = [(str(m["creationTimestamp"]), str(m["labels"].get(LABEL_REVISION, ""))) for m in metadata]
    return max(dated, default=("", ""))[1]


def choose_admission(context: Context, observed: Observed, tenants: Tenants) -> Observed:
    """Have the replicas wait for Kueue where the installation follows it."""
    queue = choose_queue(observed.pool, tenants.all, context.settings)
    return replace(observed, has_quota=True, queue=queue) if queue else observed


def withhold(observed: Observed, refusal: Failure) -> Observed:
    """Make nothing new, as for a pool that cannot be planned."""
    revision = observed.pool.status.revision or _newest_revision(observed.pods)
    return replace(observed, templates={}, layout=Layout(refusal=refusal), revision=revision)
