"""How the result of a job takes another adapter's place in pools: one small machine for each pool. Pure.

    registered -> Waiting (no replica serves it) -> Running -> Promoting -> Promoted
                                                            -> RollingBack -> RolledBack
    nothing to replace, or weight 100: Promoted at once

What is decided stands in the status before it is done (Promoting, RollingBack), and is done in the next pass: an
operator that is killed anywhere is followed by one that does the same. The LLMModel of the result holds the share, so
that gateways go on by it whoever is away. Rolling back has two steps, the share and then the adapter itself, so that no
request is on its way to an adapter that goes. Promoted and RolledBack are final: from then on the LLMModel is its
owner's, and nothing is written to it any more.

A result that no replica holds, though some are ready, is rolled back after `promoteAfter`, at least HOLD_S: until then
it may be fetched and loaded. The time of a pool that sleeps, or is not there, does not count.

A job that is deleted before it decided takes the shares of its result back: nobody would judge them any more. That it
has not decided yet stands on the LLMModel (`ANNOTATION_JUDGED_BY`), for the job's status goes with it.

A person decides by the job: weight 100 promotes, an entry that is removed detaches; gates are judged anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from llmos.api import ArmStatus, AttachTo, CanaryStatus, FineTuneJob, GateVerdict, InferencePool, LLMModel, Reason
from llmos.api.canary import CanaryState
from llmos.api.inferencepool import AdapterStatus
from llmos.api.load import ArmLoad, CanaryLoad, Latencies
from llmos.api.names import CONDITION_PROMOTED
from llmos_operator.planning.adapter_weights import find_replacement
from llmos_operator.planning.canaries import judge_canary
from llmos_operator.planning.conditions import Fact, is_false, is_true, is_unknown
from llmos_operator.planning.failures import Failure, build_failure, describe
from llmos_operator.planning.finetune_gates import all_passed

LOOK_S: Final = 5.0
SOON_S: Final = 0.1
HOLD_S: Final = 600.0
"""Least time to fetch and load an adapter."""
_ALL: Final = 100
_FINAL: Final = frozenset({"Promoted", "RolledBack"})
_GOING: Final = frozenset({"RollingBack", "RolledBack"})
_MESSAGE_CHARS: Final = 1024


@dataclass(frozen=True)
class CanarySight:
    """What was observed about the places that the result takes."""

    job: FineTuneJob
    now: datetime
    is_registered: bool
    gates: tuple[GateVerdict, ...] = ()
    model: LLMModel | None = None
    """The LLMModel of the result, None if it is gone or not made yet."""
    pools: Mapping[str, InferencePool] = field(default_factory=dict)
    """Those that exist, by name."""
    loads: Mapping[str, CanaryLoad] = field(default_factory=dict)
    """What gateways counted, by pool."""
    gone: frozenset[str] = frozenset()
    """Incumbents whose LLMModel does not exist any more."""


@dataclass(frozen=True)
class CanaryPlan:
    """What is to be written of canaries; nothing for jobs without any."""

    canaries: tuple[CanaryStatus, ...] = ()
    must_apply: bool = False
    """The LLMModel is to be as `canaries` say."""
    undecided: bool = False
    look_again_s: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing happens by itself any more."""
        return are_final(self.canaries)

    @property
    def regressed(self) -> Failure | None:
        """Return why the result was detached from a pool, if it was."""
        gone = [f"Pool {each.pool}: {each.message}" for each in self.canaries if each.state in _GOING]
        return build_failure(Reason.CanaryRegressed, " ".join(gone)) if gone else None


NOTHING: Final = CanaryPlan()


@dataclass(frozen=True)
class _Step:
    canary: CanaryStatus
    is_undecided: bool = False


def plan_canaries(sight: CanarySight) -> CanaryPlan:
    """Return where each canary stands, and whether the LLMModel is to follow."""
    wanted = [target for target in sight.job.spec.output.attach_to if target.replaces is not None]
    before = {each.pool: each for each in sight.job.status.canaries}
    if not sight.is_registered or not (wanted or before):
        return NOTHING
    steps = [_plan_one(sight, target, before.get(target.pool)) for target in wanted]
    canaries = tuple(step.canary for step in steps)
    is_news = {each.pool: each.state for each in canaries} != {each.pool: each.state for each in before.values()}
    is_open = not all(each.state in _FINAL for each in canaries)
    return CanaryPlan(
        canaries,
        # A final state that was reached in this pass is still to be written.
        must_apply=sight.model is not None and (is_open or is_news),
        undecided=any(step.is_undecided for step in steps),
        look_again_s=(SOON_S if any(map(_is_decided, canaries)) else LOOK_S) if is_open else None,
    )


def keep_canaries(job: FineTuneJob) -> CanaryPlan:
    """Return that nothing is decided while the result's LLMModel cannot be read."""
    before = {each.pool: each for each in job.status.canaries}
    words = f"LLMModel {job.spec.output.name} cannot be read."
    result = ArmStatus(name=job.spec.output.name)
    new = (
        CanaryStatus(pool=each.pool, replaces=each.replaces, state="Waiting", result=result, message=words)
        for each in job.spec.output.attach_to
        if each.replaces is not None and (each.pool not in before or before[each.pool].replaces != each.replaces)
    )
    canaries = tuple({**before, **{each.pool: each for each in new}}.values())
    return CanaryPlan(canaries, undecided=True, look_again_s=None if is_settled(job) else LOOK_S)


def are_final(canaries: Iterable[CanaryStatus]) -> bool:
    """Whether nothing is left to decide."""
    return all(each.state in _FINAL for each in canaries)


def take_shares_back(replaces: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return `spec.adapter.replaces` of a result whose job is gone before it decided: without the shares."""
    return [{**each, "weight": _ALL if each.get("weight", _ALL) == _ALL else 0} for each in replaces]


def is_settled(job: FineTuneJob) -> bool:
    """Whether all that a job asks for has been decided and done."""
    asked = {target.pool: target.replaces for target in job.spec.output.attach_to if target.replaces is not None}
    told = {each.pool: each.replaces for each in job.status.canaries if each.state in _FINAL}
    return asked == told and len(told) == len(job.status.canaries)


def build_replacements(canaries: Iterable[CanaryStatus]) -> list[dict[str, object]]:
    """Return `spec.adapter.replaces` of the LLMModel."""
    return [
        {"pool": each.pool, "name": each.replaces, "weight": each.weight}
        for each in canaries
        if each.state != "RolledBack"
    ]


def list_attached(job: FineTuneJob, canaries: Iterable[CanaryStatus]) -> tuple[AttachTo, ...]:
    """Return the pools that are to load the result."""
    detached = {each.pool for each in canaries if each.state == "RolledBack"}
    return tuple(target for target in job.spec.output.attach_to if target.pool not in detached)


def build_promoted_fact(plan: CanaryPlan) -> Fact | None:
    """Return the condition Promoted; None for a job that replaces nothing."""
    if not plan.canaries:
        return None
    if (regressed := plan.regressed) is not None:
        return is_false(CONDITION_PROMOTED, regressed.reason, regressed.message)
    told = " ".join(f"Pool {each.pool}: {each.message}" for each in plan.canaries)
    if plan.is_over:
        return is_true(CONDITION_PROMOTED, Reason.Promoted, told)
    reason = Reason.CanaryUndecided if plan.undecided else Reason.CanaryRunning
    return is_unknown(CONDITION_PROMOTED, reason, describe(reason, told) if plan.undecided else told)


def find_incumbent(pool: InferencePool | None, name: str, result: str) -> AdapterStatus | None:
    """Return the adapter that answers most of the requests for a name, the result left out."""
    others = [each for each in (pool.status.adapters if pool is not None else ()) if each.name != result]
    takers = [(each.weight or 0, each) for each in others if each.replaces == name and each.weight]
    bearer = [(_ALL - sum(weight for weight, _ in takers), each) for each in others if each.name == name]
    found = max((*takers, *bearer), key=lambda pair: pair[0], default=None)
    return found[1] if found is not None else None


def _plan_one(sight: CanarySight, target: AttachTo, before: CanaryStatus | None) -> _Step:
    if before is None or before.replaces != target.replaces:
        return _Step(_begin(sight, target))
    if before.state in _FINAL:
        return _Step(before)
    if sight.model is None:
        words = f"LLMModel {sight.job.spec.output.name} was deleted before it was judged."
        return _Step(_as(before, "RolledBack", 0, words))
    if before.incumbent is None:
        return _Step(_begin(sight, target))
    return _go_on(sight, target, sight.model, before)


def _begin(sight: CanarySight, target: AttachTo) -> CanaryStatus:
    name, result = target.replaces or "", sight.job.spec.output.name
    incumbent = find_incumbent(sight.pools.get(target.pool), name, result)
    canary = CanaryStatus(pool=target.pool, replaces=name, state="Waiting", result=ArmStatus(name=result))
    if incumbent is None and target.share < _ALL and (unknown := _say_what_is_unknown(sight, target.pool)):
        return _as(canary, "Waiting", target.share, unknown)
    if incumbent is None:
        return _as(canary, "Promoted", _ALL, f"It serves no adapter {name}, so the result answers that name at once.")
    canary = canary.model_copy(update={"incumbent": ArmStatus(name=incumbent.name)})
    if target.share == _ALL:
        return _as(canary, "Promoted", _ALL, "weight is 100.")
    return _as(canary, "Waiting", target.share, f"No replica serves {result} yet.")


def _say_what_is_unknown(sight: CanarySight, name: str) -> str:
    """Return why nobody knows whether a pool has something to replace; empty if that is known."""
    pool = sight.pools.get(name)
    if pool is None:
        return f"There is no InferencePool {name}: make it, or remove its entry in attachTo."
    if pool.spec.adapters is None:
        return f"InferencePool {name} takes no adapters: set its spec.adapters, or remove its entry in attachTo."
    is_told = pool.status.observed_generation > 0
    return "" if is_told else f"The status of InferencePool {name} does not say yet which adapters it has."


def _roll_back(sight: CanarySight, model: LLMModel, before: CanaryStatus) -> CanaryStatus:
    """Detach the result once no gateway sends it requests of others any more."""
    wish = find_replacement(model, before.pool)
    entry = _find_entry(sight, before.pool)
    has_share = (wish is not None and wish.weight > 0) or (entry is not None and bool(entry.weight))
    return _as(before, "RollingBack" if has_share else "RolledBack", 0, before.message)


def _observe(sight: CanarySight, target: AttachTo, before: CanaryStatus) -> CanaryStatus:
    """Take in what pool and gateways say."""
    name, result = before.replaces, sight.job.spec.output.name
    incumbent = find_incumbent(sight.pools.get(target.pool), name, result)
    known = before.incumbent.name if before.incumbent is not None else ""
    load = sight.loads.get(target.pool, CanaryLoad())
    entry = _find_entry(sight, target.pool)
    is_served, moment = entry is not None and bool(entry.replicas), sight.now.replace(microsecond=0)
    is_awake = target.pool in sight.pools and sight.pools[target.pool].status.ready_replicas > 0
    return before.model_copy(
        update={
            "weight": target.share,
            # With another share everything begins anew.
            "since": (before.since if before.weight == target.share else None) or (moment if is_served else None),
            "waiting_since": (before.waiting_since or moment) if is_awake and not is_served else None,
            "result": _build_arm(result, load.result),
            "incumbent": _build_arm(incumbent.name if incumbent is not None else known, load.incumbent),
        }
    )


def _go_on(sight: CanarySight, target: AttachTo, model: LLMModel, before: CanaryStatus) -> _Step:
    """Do what was decided; decide else."""
    if before.state == "Promoting":
        return _Step(_as(before, "Promoted", _ALL, before.message))
    if before.state == "RollingBack":
        return _Step(_roll_back(sight, model, before))
    return _decide(sight, target, _observe(sight, target, before))


def _decide(sight: CanarySight, target: AttachTo, canary: CanaryStatus) -> _Step:
    incumbent = canary.incumbent.name if canary.incumbent is not None else ""
    if target.share == _ALL:
        return _Step(_as(canary, "Promoting", canary.weight, "weight was set to 100."))
    if not all_passed(sight.gates):
        broken = " ".join(verdict.message for verdict in sight.gates if not verdict.passed)
        return _Step(_as(canary, "RollingBack", canary.weight, f"A gate does not hold any more. {broken}"))
    if incumbent in sight.gone:
        words = f"LLMModel {incumbent} was deleted, so that there is nobody else to answer."
        return _Step(_as(canary, "Promoting", canary.weight, words))
    hold_s = compute_hold_s(target)
    if canary.waiting_since is not None and sight.now >= canary.waiting_since + timedelta(seconds=hold_s):
        why = _say_why_not_served(sight, canary)
        words = f"No replica held it for {round(hold_s / 60)} minutes, though some were ready. {why}"
        return _Step(_as(canary, "RollingBack", canary.weight, words))
    if canary.since is None:
        return _Step(_as(canary, "Waiting", canary.weight, _say_why_not_served(sight, canary)))
    due = canary.since + timedelta(seconds=target.watch_s)
    verdict = judge_canary(sight.loads.get(canary.pool, CanaryLoad()), is_due=sight.now >= due)
    states: dict[str, CanaryState] = {"promote": "Promoting", "roll-back": "RollingBack", "keep": "Running"}
    return _Step(_as(canary, states[verdict.decision], canary.weight, verdict.message), verdict.is_undecided)


def compute_hold_s(target: AttachTo) -> float:
    """Return for how long ready replicas may not hold the result."""
    return max(HOLD_S, target.watch_s)


def _say_why_not_served(sight: CanarySight, canary: CanaryStatus) -> str:
    name, entry = sight.job.spec.output.name, _find_entry(sight, canary.pool)
    if canary.pool not in sight.pools:
        return f"There is no InferencePool {canary.pool} any more: make it again, or remove its entry in attachTo."
    if entry is None:
        return f"The pool does not list {name} yet; it loads adapters only if it has spec.adapters."
    return f"No replica serves {name} yet. {entry.reason}: {entry.message}".removesuffix(": ")


def _is_decided(canary: CanaryStatus) -> bool:
    """Whether what was decided is still to be done."""
    return canary.state == "Promoting" or (canary.state == "RollingBack" and canary.weight > 0)


def _find_entry(sight: CanarySight, pool: str) -> AdapterStatus | None:
    found = sight.pools.get(pool)
    name = sight.job.spec.output.name
    return next((each for each in found.status.adapters if each.name == name), None) if found is not None else None


def _as(canary: CanaryStatus, state: CanaryState, weight: int, message: str) -> CanaryStatus:
    return canary.model_copy(update={"state": state, "weight": weight, "message": message[:_MESSAGE_CHARS]})


def _build_arm(name: str, load: ArmLoad) -> ArmStatus:
    return ArmStatus(
        name=name,
        requests=load.requests_total,
        failed=load.failed_total,
        ttft_milliseconds=_compute_mean_ms(load.ttft),
        tpot_milliseconds=_compute_mean_ms(load.tpot),
    )


def _compute_mean_ms(latencies: Latencies) -> float | None:
    count = sum(latencies.counts)
    return round(1000 * latencies.sum_s / count, 1) if count else None
