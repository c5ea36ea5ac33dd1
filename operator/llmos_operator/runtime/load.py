"""The load task: reads gateways and replicas each second and decides how many replicas each pool should have.

    board (pools that scale) + gateways + replicas -> sample -> plan_scaling -> board (decision) -> key into the queue

Only the leader does it. A turn begins when all gateways have answered since the last one, or half a second after they
should have: then what they say is one second's worth for each. A pool that sleeps does not wait for a turn: the answer
of the gateway that first holds a request for it decides at once.

All decisions of a turn together may take a tenth of a second. They are taken one after another, in slices between which
everything else on the event loop runs: probes, watches, the renewal of the lease.

Decisions change nothing by themselves. The pool's reconcile follows them and writes status, and is called only when
that is worth it (`planning/scaling_status.py`): a pool at rest causes no write at all. Whatever is remembered here may
be lost at any time; it begins anew from status, and then takes nothing away before its delays have passed again with
everybody in sight.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NoReturn, Protocol, TypeAlias

from llmos.api.load import GatewayLoad
from llmos.api.scaling import ReplicaCapacity
from llmos_operator.kube.resources import INFERENCE_POOLS
from llmos_operator.planning.replicas import ReplicaState
from llmos_operator.planning.sampling import EngineReading, SamplerMemory, ScaledPool, Sources, build_sample
from llmos_operator.planning.scaling import ScalingMemory, ScalingPlan, ScalingPolicy, plan_scaling
from llmos_operator.planning.scaling_inputs import PoolSample
from llmos_operator.planning.scaling_record import ScalingRecord
from llmos_operator.planning.scaling_status import build_policy, build_scaling_status, is_worth_writing
from llmos_operator.reconcilers.board import Board
from llmos_operator.reconcilers.budget_board import BudgetBoard
from llmos_operator.reconcilers.canary_board import CanaryBoard
from llmos_operator.reconcilers.keys import Key
from llmos_operator.runtime.engines import Engines
from llmos_operator.runtime.gateways import Gateways
from llmos_operator.runtime.metrics import Metrics
from llmos_operator.runtime.recorder import Recorder

TURN_S: Final = 1.0
LATEST_TURN_S: Final = 1.5
"""A turn does not wait longer for gateways."""
LONGEST_SLICE_S: Final = 0.005
"""For which decisions are taken without a pause; then the event loop turns once."""
PAUSE_AFTER_ERROR_S: Final = 30.0

Readings: TypeAlias = dict[str, EngineReading | None]
"""What each replica said, None where it did not answer."""

_logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Where keys go; a `WorkQueue[Key]`."""

    def add(self, key: Key) -> None: ...


@dataclass(slots=True)
class _PoolState:
    """What is remembered of one pool."""

    memory: ScalingMemory
    desired: int
    written_s: float
    """When the decision was last put on the board; at first, when the pool was first looked at."""
    sampler: SamplerMemory = field(default_factory=SamplerMemory)


class LoadTask:
    """Decides for all pools on the board while this process is the leader.

    Args:
        board: pools in, decisions out.
        sink: told the pools whose decision is to be acted on or written.
        gateways: what gateways tell.
        engines: what replicas tell.
        now: the time on the clock of Kubernetes.
        unschedulable_after_s: how long a replica that finds no node counts as coming supply.
        budgets: told what gateways say of tenants.
        canaries: told what gateways say of canaries.
    """

    def __init__(
        self,
        board: Board,
        sink: Sink,
        gateways: Gateways,
        engines: Engines,
        *,
        metrics: Metrics,
        recorder: Recorder,
        now: Callable[[], datetime],
        unschedulable_after_s: float,
        budgets: BudgetBoard | None = None,
        canaries: CanaryBoard | None = None,
    ) -> None:
        self._board = board
        self._sink = sink
        self._gateways = gateways
        self._engines = engines
        self._metrics = metrics
        self._recorder = recorder
        self._now = now
        self._unschedulable_after_s = unschedulable_after_s
        self._budgets = budgets or BudgetBoard()
        self._canaries = canaries or CanaryBoard()
        self._states: dict[Key, _PoolState] = {}
        self._paused_until_s: dict[Key, float] = {}
        self._leads = asyncio.Event()
        self._lost = asyncio.Event()
        board.on_forget = self._forget
        gateways.on_answer = self.wake

    def set_leader(self, is_leader: bool) -> None:
        """Begin to decide, or stop at once and forget everything: the next leader goes on from status."""
        if is_leader:
            self._lost.clear()
            self._leads.set()
        else:
            self._leads.clear()
            self._lost.set()
            self._board.clear()
            self._budgets.clear()
            self._canaries.clear()

    async def run(self) -> NoReturn:
        """Go on until cancelled."""
        while True:
            await self._leads.wait()
            leading = asyncio.create_task(self._lead(), name="load as the leader")
            losing = asyncio.create_task(self._lost.wait(), name="end of the leadership")
            try:
                await asyncio.wait({leading, losing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                losing.cancel()
                leading.cancel()
                # Not `await leading`: a cancellation of this task would look like the end of that one.
                await asyncio.wait({leading})
            if not leading.cancelled():
                leading.result()

    def wake(self, answer: GatewayLoad) -> None:
        """Decide at once about pools that sleep while this gateway holds requests for them."""
        if not self._leads.is_set():
            return
        self._budgets.take(answer, self._now())
        self._canaries.take(answer)
        for pool_id, load in answer.pools.items():
            namespace, _, name = pool_id.partition("/")
            key = Key(INFERENCE_POOLS.kind, namespace, name)
            if load.queued and (pool := self._board.pools.get(key)) is not None and self._is_asleep(key, pool):
                self._decide(key, pool, {})

    def _is_asleep(self, key: Key, pool: ScaledPool) -> bool:
        decision = self._board.decision(key)
        desired = pool.desired if decision is None else decision.desired
        return desired == 0 and not pool.telling

    async def _lead(self) -> NoReturn:
        asking = asyncio.create_task(self._gateways.run(), name="load of the gateways")
        turning = asyncio.create_task(self._take_turns(), name="turns")
        try:
            done, _ = await asyncio.wait({asking, turning}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            raise RuntimeError("A task that never ends has ended.")
        finally:
            asking.cancel()
            turning.cancel()
            await asyncio.gather(asking, turning, return_exceptions=True)

    async def _take_turns(self) -> NoReturn:
        while True:
            began_s = self._clock_s()
            await self.take_turn()
            await self._wait_for_turn(began_s)

    async def _wait_for_turn(self, last_s: float) -> None:
        """Return a second after the last turn and when all gateways have answered since, but not much later."""
        while (passed_s := self._clock_s() - last_s) < LATEST_TURN_S:
            if passed_s < TURN_S:
                await asyncio.sleep(TURN_S - passed_s)
            elif self._gateways.have_answered_since(last_s):
                return
            else:
                await self._gateways.wait_for_answer(LATEST_TURN_S - passed_s)

    async def take_turn(self) -> None:
        """Read all replicas of all pools, and decide about each pool when its replicas have answered."""
        pools = tuple(self._board.pools.items())
        self._engines.keep(address for _, pool in pools for address in pool.addresses.values())
        answers: asyncio.Queue[tuple[Key, Readings]] = asyncio.Queue()
        async with asyncio.TaskGroup() as reading:
            for key, pool in pools:
                reading.create_task(self._read(key, pool, answers))
            await self._decide_in_slices(answers, len(pools))

    async def _read(self, key: Key, pool: ScaledPool, answers: asyncio.Queue[tuple[Key, Readings]]) -> None:
        wanted = {r.name: pool.addresses[r.name] for r in pool.telling if r.name in pool.addresses}
        answers.put_nowait((key, await self._engines.read(wanted) if wanted else {}))

    async def _decide_in_slices(self, answers: asyncio.Queue[tuple[Key, Readings]], pools: int) -> None:
        began_s = self._clock_s()
        for _ in range(pools):
            if self._clock_s() - began_s >= LONGEST_SLICE_S:
                await asyncio.sleep(0)
                began_s = self._clock_s()
            if answers.empty():
                key, readings = await answers.get()
                began_s = self._clock_s()
            else:
                key, readings = answers.get_nowait()
            # The board may have newer news of the pool by now, or none any more.
            if (latest := self._board.pools.get(key)) is not None:
                self._decide(key, latest, readings)

    def _decide(self, key: Key, pool: ScaledPool, readings: Readings) -> None:
        if self._clock_s() < self._paused_until_s.get(key, float("-inf")):
            return
        try:
            self._decide_or_raise(key, pool, readings)
        except Exception:
            # One pool's trouble is not that of all: what is known of it begins anew after a while.
            _logger.exception("Nothing could be decided about %s, again in %g s.", key, PAUSE_AFTER_ERROR_S)
            self._metrics.count_scaling_error()
            self._states.pop(key, None)
            self._paused_until_s[key] = self._clock_s() + PAUSE_AFTER_ERROR_S

    def _decide_or_raise(self, key: Key, pool: ScaledPool, readings: Readings) -> None:
        now_s, now = self._clock_s(), self._now()
        state = self._states.get(key) or self._begin(key, pool, now_s)
        state.memory = _follow_revision(state, pool, now_s)
        sources = Sources(
            gateways=self._gateways.read(f"{key.namespace}/{key.name}", now_s),
            replicas=readings,
            are_gateways_known=self._gateways.are_known,
        )
        sample, state.sampler = build_sample(state.sampler, pool, sources, now_s=now_s, now=now)
        policy = build_policy(pool.scaling, now, unschedulable_after_s=self._unschedulable_after_s)
        plan = plan_scaling(policy, state.memory, sample)
        self._recorder.record(key, _build_record(now, policy, state, sample, plan))
        state.memory, state.desired = plan.memory, plan.desired
        self._metrics.observe_scaling(key.namespace, key.name, plan, stale=len(sample.stale))
        # What the pool's reconcile does as long as nothing is decided.
        limited = min(max(pool.desired, policy.min_replicas), policy.max_replicas)
        self._publish(key, pool, state, plan, undecided=limited)

    def _begin(self, key: Key, pool: ScaledPool, now_s: float) -> _PoolState:
        state = _PoolState(ScalingMemory.restore(pool.capacity, pool.desired, now_s), pool.desired, now_s)
        self._states[key] = state
        return state

    def _publish(self, key: Key, pool: ScaledPool, state: _PoolState, plan: ScalingPlan, *, undecided: int) -> None:
        """Put the decision on the board if it is worth a write, and have the pool reconciled."""
        before = self._board.decision(key) or pool.decided
        status = build_scaling_status(plan, before, self._now())
        now_s = self._clock_s()
        is_news = before is None and status.desired != undecided
        if is_news or is_worth_writing(before, status, now_s - state.written_s):
            state.written_s = now_s
            self._board.decide(key, status)
            self._sink.add(key)

    def _forget(self, key: Key) -> None:
        self._states.pop(key, None)
        self._paused_until_s.pop(key, None)
        self._recorder.forget(key)
        self._metrics.forget_scaling(key.namespace, key.name)

    @staticmethod
    def _clock_s() -> float:
        return asyncio.get_running_loop().time()


def _follow_revision(state: _PoolState, pool: ScaledPool, now_s: float) -> ScalingMemory:
    """Return the memory for the newest revision: once no other one answers, what was measured is not true any more."""
    known = state.memory.capacity
    answering = {r.revision for r in pool.replicas if r.state is ReplicaState.READY}
    if not pool.revision or known.revision == pool.revision or answering - {pool.revision}:
        return state.memory
    # How long a start takes is the best guess for the new one, too.
    unmeasured = ReplicaCapacity(revision=pool.revision, start_seconds=known.start_seconds)
    return ScalingMemory.restore(unmeasured, state.desired, now_s)


def _build_record(
    now: datetime, policy: ScalingPolicy, state: _PoolState, sample: PoolSample, plan: ScalingPlan
) -> ScalingRecord:
    return ScalingRecord(
        time=now.isoformat(timespec="milliseconds"),
        policy=policy,
        capacity=state.memory.capacity,
        desired_before=state.desired,
        sample=sample,
        desired=plan.desired,
        raw=plan.raw,
        bounded_by=plan.bounded_by,
        message=plan.message,
    )
