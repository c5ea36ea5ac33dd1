"""The replica planner: whole sequences that read as stories, and invariants over random histories."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmos.api import Reason
from llmos_operator.planning.failures import Failure
from llmos_operator.planning.replicas import (
    BACKOFF_LIMIT_S,
    HOLDING,
    Replica,
    ReplicaPlan,
    ReplicaState,
    RolloutLimits,
    compute_backoff_s,
    plan_replicas,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
SETTLE_S = 3.0


class Cluster:
    """A pool's replicas as values, and what a cluster would do to them."""

    def __init__(self, desired: int, *, surge: int = 1, unavailable: int = 0) -> None:
        self.desired = desired
        self.revision = "r1"
        self.limits = RolloutLimits(surge, unavailable)
        self.now = START
        self.replicas: dict[str, Replica] = {}

    def step(self) -> ReplicaPlan:
        plan = plan_replicas(
            desired=self.desired,
            revision=self.revision,
            replicas=tuple(self.replicas.values()),
            limits=self.limits,
            now=self.now,
            settle_s=SETTLE_S,
        )
        for new in plan.create:
            name = f"{self.revision}-{new.ordinal}"
            assert name not in self.replicas, "a name is never used twice at the same time"
            self.replicas[name] = Replica(
                name, new.ordinal, self.revision, ReplicaState.STARTING, self.now, attempt=new.attempt
            )
        for replica in plan.drain:
            self.change(replica.name, state=ReplicaState.DRAINING, drain_started=self.now)
        for replica in plan.delete:
            if replica.state in {ReplicaState.FAILED, ReplicaState.LOST}:
                del self.replicas[replica.name]
            else:
                self.change(replica.name, state=ReplicaState.TERMINATING)
        return plan

    def change(self, name: str, **fields: object) -> None:
        self.replicas[name] = replace(self.replicas[name], **fields)  # type: ignore[arg-type]  # test data

    def in_state(self, *states: ReplicaState) -> list[str]:
        return [name for name, replica in self.replicas.items() if replica.state in states]

    def make_ready(self) -> None:
        for name in self.in_state(ReplicaState.STARTING):
            self.change(name, state=ReplicaState.READY, was_ready=True)

    def finish_terminating(self) -> None:
        for name in self.in_state(ReplicaState.TERMINATING):
            del self.replicas[name]

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def settle(self) -> None:
        """Let everything succeed until nothing is left to do."""
        for _ in range(200):
            plan = self.step()
            moving = self.in_state(ReplicaState.STARTING, ReplicaState.DRAINING, ReplicaState.TERMINATING)
            if not (plan.create or plan.drain or plan.delete or moving):
                return
            self.make_ready()
            self.finish_terminating()
            self.pass_time(SETTLE_S)
        raise AssertionError("the plan never comes to rest")

    def fail(self, name: str, reason: Reason, *, retry: bool) -> None:
        failure = Failure(reason, "test")
        attempt = self.replicas[name].attempt
        retry_at = self.now + timedelta(seconds=compute_backoff_s(attempt + 1)) if retry else None
        self.change(name, state=ReplicaState.FAILED, failure=failure, retry_at=retry_at)


def test_a_new_pool_creates_all_its_replicas_at_once() -> None:
    cluster = Cluster(3)
    assert [new.ordinal for new in cluster.step().create] == [0, 1, 2]
    assert cluster.step() == ReplicaPlan(), "a second look changes nothing"


def test_a_rollout_adds_one_then_drains_one_until_all_are_new() -> None:
    cluster = Cluster(2)
    cluster.settle()
    cluster.revision = "r2"
    story: list[str] = []
    for _ in range(20):
        plan = cluster.step()
        story += plan.why
        cluster.make_ready()
        cluster.finish_terminating()
        cluster.pass_time(SETTLE_S)
    assert story == [
        "create replica 0",
        "drain r1-0",
        "delete r1-0 (draining)",
        "create replica 1",
        "drain r1-1",
        "delete r1-1 (draining)",
    ]
    assert cluster.in_state(ReplicaState.READY) == ["r2-0", "r2-1"]


def test_a_rollout_that_never_becomes_ready_keeps_the_old_replicas() -> None:
    cluster = Cluster(3)
    cluster.settle()
    cluster.revision = "r2"
    cluster.step()
    cluster.fail("r2-0", Reason.BadEngineArgument, retry=False)
    for _ in range(50):
        cluster.pass_time(60)
        assert cluster.step() == ReplicaPlan()
    assert cluster.in_state(ReplicaState.READY) == ["r1-0", "r1-1", "r1-2"]


def test_going_back_to_the_old_revision_removes_the_failed_replica_at_once() -> None:
    cluster = Cluster(2)
    cluster.settle()
    cluster.revision = "r2"
    cluster.step()
    cluster.fail("r2-0", Reason.BadEngineArgument, retry=False)
    cluster.revision = "r1"
    assert [replica.name for replica in cluster.step().delete] == ["r2-0"]
    assert cluster.in_state(ReplicaState.READY) == ["r1-0", "r1-1"]


def test_scaling_down_drains_the_least_busy_replica_first() -> None:
    cluster = Cluster(3)
    cluster.settle()
    for name, busy in (("r1-0", 4), ("r1-1", 0), ("r1-2", 9)):
        cluster.change(name, in_flight=busy)
    cluster.desired = 1
    assert [replica.name for replica in cluster.step().drain] == ["r1-1", "r1-0"]


def test_a_replica_that_does_not_answer_goes_before_one_that_does() -> None:
    cluster = Cluster(2)
    cluster.settle()
    cluster.change("r1-0", state=ReplicaState.STARTING, was_ready=False)
    cluster.desired = 1
    plan = cluster.step()
    assert [replica.name for replica in plan.delete] == ["r1-0"]
    assert plan.drain == ()


def test_a_draining_replica_waits_for_the_service_before_it_is_deleted() -> None:
    cluster = Cluster(1)
    cluster.settle()
    cluster.desired = 0
    plan = cluster.step()
    assert [replica.name for replica in plan.drain] == ["r1-0"]
    assert plan.requeue_after_s == SETTLE_S
    cluster.pass_time(1)
    plan = cluster.step()
    assert plan.delete == ()
    assert plan.requeue_after_s == SETTLE_S - 1
    cluster.pass_time(2)
    assert [replica.name for replica in cluster.step().delete] == ["r1-0"]


def test_a_failure_that_may_pass_is_tried_again_with_growing_pauses() -> None:
    cluster = Cluster(1)
    pauses = []
    for attempt in range(8):
        plan = cluster.step()
        assert [new.attempt for new in plan.create] == [attempt]
        name = f"r1-{plan.create[0].ordinal}"
        cluster.fail(name, Reason.EngineCrashed, retry=True)
        waiting = cluster.step()
        assert waiting.create == ()
        assert waiting.requeue_after_s is not None
        pauses.append(waiting.requeue_after_s)
        cluster.pass_time(waiting.requeue_after_s)
    assert pauses == [10, 20, 40, 80, 160, 300, 300, 300]


def test_a_failure_that_needs_a_change_is_never_tried_again() -> None:
    cluster = Cluster(2)
    cluster.step()
    for name in ("r1-0", "r1-1"):
        cluster.fail(name, Reason.BadEngineArgument, retry=False)
    for _ in range(100):
        cluster.pass_time(3600)
        assert cluster.step() == ReplicaPlan()


def test_a_replica_on_a_lost_node_is_replaced_and_deleted() -> None:
    cluster = Cluster(2)
    cluster.settle()
    cluster.change("r1-0", state=ReplicaState.LOST)
    plan = cluster.step()
    assert [replica.name for replica in plan.delete] == ["r1-0"]
    assert [new.ordinal for new in plan.create] == [2]


def test_a_terminating_replica_is_looked_at_again_when_it_counts_as_lost() -> None:
    cluster = Cluster(1)
    cluster.settle()
    cluster.desired = 0
    cluster.change("r1-0", state=ReplicaState.TERMINATING, lost_at=START + timedelta(seconds=90))
    cluster.now = START
    assert cluster.step().requeue_after_s == 90


def test_without_surge_a_rollout_takes_one_away_first() -> None:
    cluster = Cluster(2, surge=0, unavailable=1)
    cluster.settle()
    cluster.revision = "r2"
    plan = cluster.step()
    assert plan.create == ()
    assert [replica.name for replica in plan.drain] == ["r1-0"]
    cluster.settle()
    assert sorted(cluster.in_state(ReplicaState.READY)) == ["r2-0", "r2-1"]


@given(attempt=st.integers(1, 10_000))
def test_the_back_off_grows_to_its_limit_and_never_beyond(attempt: int) -> None:
    assert 10 <= compute_backoff_s(attempt) <= compute_backoff_s(attempt + 1) <= BACKOFF_LIMIT_S


class RandomHistory(RuleBasedStateMachine):
    """Any order of user changes, starts, failures, node losses and passing time keeps the promises."""

    @initialize(desired=st.integers(0, 6), surge=st.integers(0, 3), unavailable=st.integers(0, 3), data=st.booleans())
    def begin(self, desired: int, surge: int, unavailable: int, data: bool) -> None:
        if surge == unavailable == 0:
            surge = 1
        self.cluster = Cluster(desired, surge=surge, unavailable=unavailable)
        self.held = 0
        if data:
            self.cluster.settle()

    @rule(desired=st.integers(0, 6))
    def scale(self, desired: int) -> None:
        self.cluster.desired = desired

    @rule(revision=st.sampled_from(["r1", "r2", "r3"]))
    def change_template(self, revision: str) -> None:
        self.cluster.revision = revision

    @rule(seconds=st.sampled_from([1.0, 5.0, 60.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.cluster.pass_time(seconds)

    @precondition(lambda self: self.cluster.in_state(ReplicaState.STARTING))
    @rule(data=st.data())
    def become_ready(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.cluster.in_state(ReplicaState.STARTING)))
        self.cluster.change(name, state=ReplicaState.READY, was_ready=True)

    @precondition(lambda self: self.cluster.in_state(ReplicaState.STARTING, ReplicaState.READY))
    @rule(data=st.data(), retry=st.booleans())
    def break_down(self, data: st.DataObject, retry: bool) -> None:
        name = data.draw(st.sampled_from(self.cluster.in_state(ReplicaState.STARTING, ReplicaState.READY)))
        self.cluster.fail(name, Reason.EngineCrashed if retry else Reason.BadEngineArgument, retry=retry)

    @precondition(lambda self: self.cluster.in_state(*HOLDING))
    @rule(data=st.data())
    def lose_node(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.cluster.in_state(*HOLDING)))
        self.cluster.change(name, state=ReplicaState.LOST)

    @rule()
    def finish(self) -> None:
        self.cluster.finish_terminating()

    @rule()
    def reconcile(self) -> None:
        cluster = self.cluster
        ready_before = len(cluster.in_state(ReplicaState.READY))
        held_before = len(cluster.in_state(*HOLDING))
        plan = cluster.step()
        held = len(cluster.in_state(*HOLDING))
        assert held <= max(held_before, cluster.desired + cluster.limits.max_surge), "never above surge"
        ready = len(cluster.in_state(ReplicaState.READY))
        floor = max(0, cluster.desired - cluster.limits.max_unavailable)
        assert ready >= min(ready_before, floor), "never takes the answering below what must be available"
        assert {r.name for r in plan.drain}.isdisjoint(r.name for r in plan.delete)
        assert all(r.state is not ReplicaState.READY for r in plan.delete), "what answers is drained first"

    @invariant()
    def comes_to_rest_where_the_user_wants(self) -> None:
        if not hasattr(self, "cluster"):
            return
        copy = Cluster(self.cluster.desired)
        copy.limits, copy.revision, copy.now = self.cluster.limits, self.cluster.revision, self.cluster.now
        copy.replicas = dict(self.cluster.replicas)
        copy.pass_time(2 * BACKOFF_LIMIT_S)
        copy.settle()
        stuck = [r for r in copy.replicas.values() if r.state is ReplicaState.FAILED and r.retry_at is None]
        assert len(copy.in_state(ReplicaState.READY)) >= copy.desired - len(stuck)
        assert len(copy.replicas) <= copy.desired + copy.limits.max_surge + len(stuck)
        if not stuck:
            newest = [r for r in copy.replicas.values() if r.revision == copy.revision]
            assert len(copy.replicas) == len(newest) == copy.desired


TestRandomHistory = RandomHistory.TestCase
TestRandomHistory.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
