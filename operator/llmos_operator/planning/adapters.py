"""Which adapters a pool loads, and what is true of them: from models and the words of replicas to status. Pure.

An adapter belongs to a pool that names it (`spec.adapters.models`) or that it names (`spec.adapter.attachTo`). Of those
that fit, the oldest `maxLoaded` are loaded, so that a new one never pushes out one that is served.

Status names the replicas that said that they serve the digest which stands beside them. Of a new version the digest
before stays there until the first replica has the new one: until then, all that were named still serve it. A replica
that is silent for a moment is believed to serve what it served.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from llmos.api import InferencePool, LLMModel, Reason
from llmos.api.adapters import HeldAdapter, HeldAdapters
from llmos.api.inferencepool import Adapters, AdapterStatus
from llmos.api.names import CONDITION_ADAPTERS_READY, CONDITION_READY
from llmos_operator.planning.adapter_weights import Weights, compute_weights
from llmos_operator.planning.conditions import Fact, is_false, is_true
from llmos_operator.planning.failures import Failure, build_failure, name_model

LOADED: Final = "Loaded"
LOADING: Final = "Loading"
MOST_IN_STATUS: Final = 64
_MESSAGE_CHARS: Final = 1024
_DIGEST_CHARS: Final = 19

Held = Mapping[str, HeldAdapters | None]
"""What the pods that serve said, None of those that did not answer."""


@dataclass(frozen=True)
class Wanted:
    """An adapter to load."""

    model: LLMModel
    digest: str
    trouble: Failure | None = None
    """Why it is the version before that is still wanted."""

    @property
    def name(self) -> str:
        """Of the LLMModel, and for callers."""
        return self.model.metadata.name


@dataclass(frozen=True)
class AdapterPlan:
    """Adapters to load, and the others with the reason why not."""

    load: tuple[Wanted, ...] = ()
    refused: tuple[tuple[str, str, Failure], ...] = ()
    """Name, digest (empty if unknown) and reason."""


def plan_adapters(pool: InferencePool, models: Iterable[LLMModel]) -> AdapterPlan:
    """Return which of the models of the pool's namespace, its base among them, are loaded as its adapters."""
    adapters = pool.spec.adapters
    if adapters is None:
        return AdapterPlan()
    by_name = {model.metadata.name: model for model in models}
    named = {reference.name for reference in adapters.models}
    refused = [
        (name, "", build_failure(Reason.ModelNotFound, f"There is no LLMModel {name}."))
        for name in sorted(named - by_name.keys())
    ]
    load: list[Wanted] = []
    served = {status.name: status.digest for status in pool.status.adapters if status.digest and status.replicas}
    for model in sorted((m for m in by_name.values() if _belongs(pool, m, named)), key=_age):
        failure = _refuse(pool, adapters, model, by_name.get(pool.spec.model_ref.name))
        wanted = Wanted(model, _digest(model))
        # While its next version is looked at, or cannot be had, replicas go on with the one that they have.
        if failure is not None and failure.reason is Reason.ModelNotReady and wanted.name in served:
            wanted, failure = Wanted(model, served[wanted.name], failure), None
        if failure is None and len(load) >= adapters.max_loaded:
            detail = f"{adapters.max_loaded} older ones are attached, and maxLoaded is {adapters.max_loaded}."
            failure = build_failure(Reason.TooManyAdapters, detail)
        if failure is None:
            load.append(wanted)
        else:
            refused.append((model.metadata.name, _digest(model), failure))
    return AdapterPlan(tuple(load), tuple(refused))


def _belongs(pool: InferencePool, model: LLMModel, named: set[str]) -> bool:
    if model.metadata.name in named:
        return True
    is_going = model.metadata.deletion_timestamp is not None
    return model.spec.adapter is not None and pool.metadata.name in model.spec.adapter.attach_to and not is_going


def _age(model: LLMModel) -> tuple[datetime, str]:
    return model.metadata.creation_timestamp or datetime.max.replace(tzinfo=UTC), model.metadata.name


def _digest(model: LLMModel) -> str:
    return model.status.resolved.digest if model.status.resolved else ""


def _refuse(pool: InferencePool, adapters: Adapters, model: LLMModel, base_model: LLMModel | None) -> Failure | None:
    name = model.metadata.name
    if detail := _find_other_base(pool, model):
        return build_failure(Reason.AdapterDoesNotFit, detail)
    if (unready := _find_unreadiness(model)) is not None:
        return name_model(build_failure(Reason.ModelNotReady, unready), name)
    facts = model.status.resolved.adapter if model.status.resolved else None
    if facts is not None and facts.head:
        detail = (
            f"LLMModel {name} has an output layer of its own ({facts.head}), as classifiers have, and the pool's model "
            "answers with words: engines do not serve both. docs/how-to/fine-tune.md says what serves a classifier."
        )
        return build_failure(Reason.AdapterDoesNotFit, detail)
    if base_model is not None and (detail := _find_changed_base(model, base_model)):
        return build_failure(Reason.AdapterDoesNotFit, detail)
    rank = facts.rank if facts is not None else 0
    if rank > adapters.max_rank:
        detail = f"Its rank is {rank}, and the pool's spec.adapters.maxRank {adapters.max_rank}."
        return build_failure(Reason.AdapterTooLarge, detail)
    return None


def _find_other_base(pool: InferencePool, model: LLMModel) -> str:
    """Return that a model does not change the pool's model; empty if it does."""
    name, base = model.metadata.name, pool.spec.model_ref.name
    if model.spec.adapter is None:
        return f"LLMModel {name} has no spec.adapter: it is a model of its own, which needs a pool of its own."
    changes = model.spec.adapter.base_model_ref.name
    return "" if changes == base else f"LLMModel {name} changes {changes}, and the pool serves {base}."


def _find_changed_base(model: LLMModel, base: LLMModel) -> str:
    """Return that an adapter was learned on another state of its base model; empty if not, or if nobody knows."""
    learned_on = model.spec.origin.base_digest if model.spec.origin is not None else ""
    now = _digest(base)
    if not learned_on or not now or learned_on == now:
        return ""
    return (
        f"It was learned on LLMModel {base.metadata.name} with {learned_on[:_DIGEST_CHARS]}, which now has "
        f"{now[:_DIGEST_CHARS]}. Put the former source back, or train it anew; if the weights are the same, remove "
        "spec.origin.baseDigest."
    )


def _find_unreadiness(model: LLMModel) -> str | None:
    """Return why a model cannot be loaded yet. One whose deletion waits for pools that name it still can."""
    ready = next((c for c in model.status.conditions if c.type == CONDITION_READY), None)
    is_known = model.status.resolved is not None and model.status.resolved.adapter is not None
    if model.metadata.deletion_timestamp is not None and is_known:
        return None
    if ready is not None and ready.observed_generation >= model.metadata.generation and ready.status != "True":
        return f"LLMModel {model.metadata.name} says {ready.reason}: {ready.message}"
    is_judged = ready is not None and ready.observed_generation >= model.metadata.generation
    return None if is_judged and is_known else f"LLMModel {model.metadata.name} is being looked at."


def build_adapter_statuses(
    pool: InferencePool, plan: AdapterPlan, held: Held, troubles: Mapping[str, Failure]
) -> tuple[AdapterStatus, ...]:
    """Return `status.adapters`, loaded ones first.

    Args:
        pool: as it was read, with the status of before.
        plan: what is to be loaded.
        held: what the replicas' pods said.
        troubles: why files of an adapter are not shared, by its name.
    """
    before = {status.name: status for status in pool.status.adapters}
    weights = compute_weights((wanted.model for wanted in plan.load), pool.metadata.name)
    built = [_build_status(wanted, held, before.get(wanted.name), troubles) for wanted in plan.load]
    loaded = [_with_weight(status, weights) for status in built]
    refused = [
        AdapterStatus(name=name, digest=digest, reason=failure.reason.value, message=failure.message[:_MESSAGE_CHARS])
        for name, digest, failure in plan.refused
    ]
    return tuple(sorted(loaded, key=lambda status: status.name) + refused)[:MOST_IN_STATUS]


def _with_weight(status: AdapterStatus, weights: Weights) -> AdapterStatus:
    name, weight = weights.get(status.name, ("", 0))
    return status.model_copy(update={"replaces": name, "weight": weight}) if name else status


def _build_status(
    wanted: Wanted, held: Held, before: AdapterStatus | None, troubles: Mapping[str, Failure]
) -> AdapterStatus:
    name, digest = wanted.name, wanted.digest
    words = {pod: _find(said, name) for pod, said in held.items() if said is not None}
    served = set(before.replicas) if before is not None and before.digest == digest else set()
    serving = {pod for pod, word in words.items() if word and word.digest == digest and word.state == "loaded"}
    serving |= {pod for pod, said in held.items() if said is None and pod in served}
    reason, message = _judge(name, digest, held, words, serving, troubles)
    if wanted.trouble is not None:
        reason, message = wanted.trouble.reason.value, wanted.trouble.message[:_MESSAGE_CHARS]
    if not serving and before is not None and before.digest and before.replicas and before.digest != digest:
        still = tuple(pod for pod in before.replicas if pod in held)
        if still:
            return AdapterStatus(name=name, digest=before.digest, replicas=still, reason=reason, message=message)
    return AdapterStatus(name=name, digest=digest, replicas=tuple(sorted(serving)), reason=reason, message=message)


def _find(said: HeldAdapters, name: str) -> HeldAdapter | None:
    return next((adapter for adapter in said.adapters if adapter.name == name), None)


def _judge(
    name: str,
    digest: str,
    held: Held,
    words: Mapping[str, HeldAdapter | None],
    serving: set[str],
    troubles: Mapping[str, Failure],
) -> tuple[str, str]:
    if serving == set(held):
        return LOADED, ""
    failed = {
        pod: word.message
        for pod, word in sorted(words.items())
        if word and word.digest == digest and word.state == "failed"
    }
    if name in troubles:
        cause = f"Its files are not shared: {troubles[name].message}"
        return Reason.AdapterLoadFailed.value, cause[:_MESSAGE_CHARS]
    if failed:
        pod, words_of_pod = next(iter(failed.items()))
        others = f" ({len(failed) - 1} more say alike.)" if len(failed) > 1 else ""
        return Reason.AdapterLoadFailed.value, f"{pod}: {words_of_pod}{others}"[:_MESSAGE_CHARS]
    return LOADING, f"{len(serving)} of {len(held)} replicas serve version {digest[:_DIGEST_CHARS]}."


def build_adapters_fact(pool: InferencePool, statuses: tuple[AdapterStatus, ...]) -> Fact | None:
    """Return the condition AdaptersReady; None for a pool that can load none."""
    if pool.spec.adapters is None:
        return None
    problem = next((status for status in statuses if status.reason not in {LOADED, LOADING}), None)
    if problem is not None:
        return is_false(CONDITION_ADAPTERS_READY, Reason(problem.reason), f"{problem.name}: {problem.message}")
    loading = next((status for status in statuses if status.reason == LOADING), None)
    if loading is not None:
        return is_false(CONDITION_ADAPTERS_READY, Reason.AdaptersLoading, f"{loading.name}: {loading.message}")
    names = ", ".join(status.name for status in statuses)
    return is_true(CONDITION_ADAPTERS_READY, Reason.AdaptersLoaded, names or "No adapter is attached.")
