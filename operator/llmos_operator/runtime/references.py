"""What we know from watch events alone: which objects exist, who refers to whom, and what changed about them.

No bodies are kept, only names and fingerprints, so that thousands of objects cost a few hundred kilobytes. It answers
two questions without asking the API server: which pools must look again because their model, an adapter or their
accelerator class changed, and whether an event tells anything that a reconcile would act on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from llmos_operator.kube.resources import ACCELERATOR_CLASSES, FINE_TUNE_JOBS, INFERENCE_POOLS, LLM_MODELS, TENANTS
from llmos_operator.reconcilers.base import Key

DISCOVERY: Final = Key(ACCELERATOR_CLASSES.kind, "", "")
"""The one key under which all accelerator classes are reconciled: a node may concern any of them."""


def build_work_key(key: Key) -> Key:
    """Return the key under which an object is reconciled."""
    return DISCOVERY if key.kind == ACCELERATOR_CLASSES.kind else key


class References:
    """The objects of our kinds and the edges between them."""

    def __init__(self) -> None:
        self._versions: dict[Key, str] = {}
        self._fingerprints: dict[Key, int] = {}
        self._targets: dict[Key, tuple[Key, ...]] = {}
        self._referrers: defaultdict[Key, set[Key]] = defaultdict(set)
        self._nodes: dict[str, int] = {}
        self._tenants: set[Key] = set()
        self._jobs: set[Key] = set()

    @property
    def tenants(self) -> frozenset[Key]:
        """All Tenants that are known to exist."""
        return frozenset(self._tenants)

    @property
    def jobs(self) -> frozenset[Key]:
        """All FineTuneJobs that are known to exist."""
        return frozenset(self._jobs)

    def see(self, key: Key, body: Mapping[str, Any]) -> bool:
        """Remember an object as an event shows it. Return whether more than its status changed."""
        self._versions[key] = body["metadata"].get("resourceVersion", "")
        if key.kind == TENANTS.kind:
            self._tenants.add(key)
        if key.kind == FINE_TUNE_JOBS.kind:
            self._jobs.add(key)
        self._point(key, _build_targets(key, body))
        fingerprint = _fingerprint_intent(body)
        is_news = self._fingerprints.get(key) != fingerprint
        self._fingerprints[key] = fingerprint
        return is_news

    def forget(self, key: Key) -> None:
        """Forget an object that is gone; what refers to it still does."""
        self._versions.pop(key, None)
        self._tenants.discard(key)
        self._jobs.discard(key)
        self._fingerprints.pop(key, None)
        self._point(key, ())

    def see_node(self, name: str, body: Mapping[str, Any]) -> bool:
        """Remember a node. Return whether anything but its heartbeat changed."""
        fingerprint = _fingerprint_node(body)
        is_news = self._nodes.get(name) != fingerprint
        self._nodes[name] = fingerprint
        return is_news

    def forget_node(self, name: str) -> None:
        """Forget a node that is gone."""
        self._nodes.pop(name, None)

    def targets(self, key: Key) -> tuple[Key, ...]:
        """Return what an object refers to: a pool its model, its adapters and its accelerator class, a job its base
        model, its class and the pools of its adapter, an adapter the pools that it attaches itself to."""
        return self._targets.get(key, ())

    def referrers(self, key: Key) -> tuple[Key, ...]:
        """Return what refers to an object, whether or not that exists: pools and jobs to a model or an accelerator
        class, adapters and jobs to a pool."""
        return tuple(self._referrers.get(key, ()))

    def keys(self) -> tuple[Key, ...]:
        """Return all objects of our kinds that are known to exist."""
        return tuple(self._versions)

    def versions(self) -> dict[Key, str]:
        """Return the resource version of each object that its latest event had."""
        return dict(self._versions)

    def _point(self, key: Key, targets: tuple[Key, ...]) -> None:
        for target in self._targets.pop(key, ()):
            self._referrers[target].discard(key)
            if not self._referrers[target]:
                del self._referrers[target]
        if targets:
            self._targets[key] = targets
        for target in targets:
            self._referrers[target].add(key)


def find_missed(
    before: Mapping[Key, str], listed: Mapping[Key, str], after: Mapping[Key, str], kinds: Iterable[str]
) -> set[Key]:
    """Return the objects whose latest change no watch event has told.

    Args:
        before: versions known from events before the list was read.
        listed: versions in the list.
        after: versions known from events a while after the list was read.
        kinds: the kinds that were listed.

    An object counts only if the events said nothing about it in the whole time: then the list cannot have been ahead
    of a watch that is merely a little late.
    """
    wanted = set(kinds)
    silent = {key for key in before.keys() | listed.keys() if before.get(key) == after.get(key) and key.kind in wanted}
    return {key for key in silent if listed.get(key) != after.get(key)}


def _build_targets(key: Key, body: Mapping[str, Any]) -> tuple[Key, ...]:
    # An invalid object may lack anything; its own reconcile says so.
    spec = body.get("spec") or {}
    if key.kind == FINE_TUNE_JOBS.kind:
        return _build_targets_of_job(key, spec)
    if key.kind == LLM_MODELS.kind:
        pools = (spec.get("adapter") or {}).get("attachTo") or ()
        return tuple(Key(INFERENCE_POOLS.kind, key.namespace, pool) for pool in pools)
    if key.kind != INFERENCE_POOLS.kind:
        return ()
    model = (spec.get("modelRef") or {}).get("name")
    accelerator = spec.get("accelerator") or {}
    classes = (accelerator.get("class"), *(accelerator.get("alternatives") or ()))
    targets = []
    if model:
        targets.append(Key(LLM_MODELS.kind, key.namespace, model))
    named = (spec.get("adapters") or {}).get("models") or ()
    targets += [Key(LLM_MODELS.kind, key.namespace, each["name"]) for each in named if each.get("name")]
    return (*targets, *(Key(ACCELERATOR_CLASSES.kind, "", name) for name in classes if name))


def _build_targets_of_job(key: Key, spec: Mapping[str, Any]) -> tuple[Key, ...]:
    """Return base model, teacher, the model that is made, the pools that are to load it, and the classes of
    accelerators."""
    teacher = (spec.get("method") or {}).get("distill") or {}
    named = (spec.get("baseModelRef"), teacher.get("teacherRef"), spec.get("output"))
    models = ((each or {}).get("name") for each in named)
    accelerator = (spec.get("trainer") or {}).get("accelerator") or {}
    classes = (accelerator.get("class"), *(accelerator.get("alternatives") or ()))
    targets = [Key(LLM_MODELS.kind, key.namespace, model) for model in models if model]
    attached = (spec.get("output") or {}).get("attachTo") or ()
    targets += [Key(INFERENCE_POOLS.kind, key.namespace, each["pool"]) for each in attached if each.get("pool")]
    return (*targets, *(Key(ACCELERATOR_CLASSES.kind, "", name) for name in classes if name))


_INTENT: Final = ("uid", "generation", "deletionTimestamp", "labels", "annotations", "finalizers", "ownerReferences")


def _fingerprint_intent(body: Mapping[str, Any]) -> int:
    # `generation` stands for the whole spec.
    metadata = body["metadata"]
    return hash(repr([metadata.get(field) for field in _INTENT]))


def _fingerprint_node(body: Mapping[str, Any]) -> int:
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    facts = [
        metadata.get("labels"),
        spec.get("taints"),
        spec.get("unschedulable"),
        status.get("capacity"),
        status.get("allocatable"),
    ]
    return hash(repr(facts))
