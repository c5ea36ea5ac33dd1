"""From what sources told to one sample: sums and not means, lives kept apart, what is missing named and never zero."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmos.api import Reason
from llmos.api.load import LATENCY_BUCKETS_S, EngineLoad, Latencies, PoolLoad
from llmos.api.scaling import Scaling
from llmos_operator.planning.failures import build_failure
from llmos_operator.planning.replicas import Replica, ReplicaState
from llmos_operator.planning.sampling import (
    UNKNOWN_GATEWAYS,
    EngineReading,
    GatewayReading,
    SamplerMemory,
    ScaledPool,
    Sources,
    build_sample,
)
from llmos_operator.planning.scaling_inputs import PoolSample

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NO_NODE = build_failure(Reason.Unschedulable, "0/3 nodes are available.")


def replica(name: str, state: ReplicaState = ReplicaState.READY, revision: str = "new", **more: Any) -> Replica:
    return Replica(name, 0, revision, state, NOW - timedelta(seconds=40), was_ready=state is ReplicaState.READY, **more)


def gateway(boot: str = "a", **figures: Any) -> GatewayReading:
    return GatewayReading(boot, PoolLoad(**figures))


def engine(at_s: float, boot: str = "a", **figures: Any) -> EngineReading:
    return EngineReading(at_s, EngineLoad(ready=True, boot=boot, **figures))


def pool(*replicas: Replica) -> ScaledPool:
    return ScaledPool(Scaling(), revision="new", replicas=replicas)


def follow(*seconds: tuple[ScaledPool, Sources], gap_s: float = 1.0) -> list[PoolSample]:
    """Return the samples of seconds that follow each other."""
    memory, samples = SamplerMemory(), []
    for number, (observed, sources) in enumerate(seconds):
        sample, memory = build_sample(memory, observed, sources, now_s=100.0 + number * gap_s, now=NOW)
        samples.append(sample)
    return samples


class TestGateways:
    def test_are_added_up_and_not_averaged(self) -> None:
        before = Sources({"g1": gateway(arrivals_total=5), "g2": gateway(arrivals_total=50)})
        after = Sources(
            {
                "g1": gateway(arrivals_total=15, queued=3, running=4, oldest_queued_s=2.0),
                "g2": gateway(arrivals_total=60, queued=1, running=6, oldest_queued_s=9.0),
            }
        )
        sample = follow((pool(), before), (pool(), after))[-1]
        assert sample.gateway is not None
        assert (sample.gateway.arrivals, sample.gateway.queued, sample.gateway.running) == (20, 4, 10)
        assert sample.gateway.oldest_queued_s == 9.0
        assert sample.stale == ()

    def test_that_do_not_answer_are_named_and_the_others_still_count(self) -> None:
        both = Sources({"g1": gateway(arrivals_total=5), "g2": gateway(arrivals_total=5)})
        one = Sources({"g1": gateway(arrivals_total=9, queued=2), "g2": None})
        sample = follow((pool(), both), (pool(), one))[-1]
        assert sample.stale == ("gateway g2",)
        assert sample.gateway is not None
        assert (sample.gateway.queued, sample.gateway.arrivals) == (2, 4)

    def test_of_which_none_answers_say_nothing_at_all(self) -> None:
        sample = follow((pool(), Sources({"g1": None, "g2": None})))[-1]
        assert sample.gateway is None
        assert sample.stale == ("gateway g1", "gateway g2")

    def test_that_do_not_exist_are_not_missed(self) -> None:
        sample = follow((pool(), Sources()))[-1]
        assert (sample.gateway, sample.stale) == (None, ())

    def test_that_could_not_be_listed_are_missed_all(self) -> None:
        sample = follow((pool(), Sources(are_gateways_known=False)))[-1]
        assert sample.stale == (UNKNOWN_GATEWAYS,)

    def test_seen_for_the_first_time_tell_what_they_hold_and_no_rates(self) -> None:
        sample = follow((pool(), Sources({"g": gateway(arrivals_total=9000, queued=2)})))[-1]
        assert sample.gateway is not None
        assert (sample.gateway.queued, sample.gateway.arrivals) == (2, 0)
        assert sample.stale == ("gateway g",)

    def test_in_a_new_life_are_not_compared_with_the_one_before(self) -> None:
        before, after = (
            Sources({"g": gateway("a", arrivals_total=9000)}),
            Sources({"g": gateway("b", arrivals_total=3)}),
        )
        sample = follow((pool(), before), (pool(), after))[-1]
        assert sample.gateway is not None
        assert sample.gateway.arrivals == 0
        assert sample.stale == ("gateway g",)

    def test_that_were_silent_for_a_second_bring_no_burst_when_they_are_back(self) -> None:
        told = [5, None, 905]
        seconds = [(pool(), Sources({"g": None if n is None else gateway(arrivals_total=n)})) for n in told]
        sample = follow(*seconds)[-1]
        assert sample.gateway is not None
        assert sample.gateway.arrivals == 0
        assert sample.stale == ("gateway g",)

    def test_whose_totals_fall_within_one_life_never_give_less_than_nothing(self) -> None:
        before, after = Sources({"g": gateway(finished_total=9)}), Sources({"g": gateway(finished_total=3)})
        sample = follow((pool(), before), (pool(), after))[-1]
        assert sample.gateway is not None
        assert sample.gateway.finished == 0

    def test_give_the_latencies_of_this_second_only(self) -> None:
        size = len(LATENCY_BUCKETS_S) + 1
        before = Latencies(counts=(7,) * size, sum_s=70.0)
        after = Latencies(counts=(7,) * (size - 1) + (9,), sum_s=190.0)
        foreign = Latencies(counts=(1, 2), sum_s=1.0)
        sample = follow(
            (pool(), Sources({"g": gateway(ttft=before), "h": gateway(ttft=foreign)})),
            (pool(), Sources({"g": gateway(ttft=after), "h": gateway(ttft=foreign)})),
        )[-1]
        assert sample.gateway is not None
        assert sample.gateway.ttft == Latencies(counts=(0,) * (size - 1) + (2,), sum_s=120.0)


class TestReplicas:
    def test_tell_what_they_did_since_the_sample_before(self) -> None:
        first = Sources(replicas={"r": engine(99.9, steps_total=100, generation_tokens_total=1000)})
        second = Sources(
            replicas={"r": engine(100.9, steps_total=140, generation_tokens_total=1400, running=10, waiting=2)}
        )
        sample = follow((pool(replica("r")), first), (pool(replica("r")), second))[-1]
        (told,) = sample.replicas
        assert (told.steps, told.generation_tokens, told.running, told.waiting) == (40, 400, 10, 2)
        assert sample.stale == ()

    def test_whose_figures_are_not_a_second_apart_are_stretched_to_it(self) -> None:
        first = Sources(replicas={"r": engine(99.9, generation_tokens_total=1000)})
        second = Sources(replicas={"r": engine(100.7, generation_tokens_total=1320)})
        (told,) = follow((pool(replica("r")), first), (pool(replica("r")), second))[-1].replicas
        assert told.generation_tokens == 400, "320 tokens in 0.8 s"

    def test_with_the_same_figures_as_before_are_silent_and_not_idle(self) -> None:
        same = Sources(replicas={"r": engine(99.0, running=5, generation_tokens_total=7)})
        sample = follow((pool(replica("r")), same), (pool(replica("r")), same))[-1]
        assert (sample.replicas, sample.silent, sample.stale) == ((), 1, ("replica r",))

    def test_that_do_not_answer_are_silent_and_named(self) -> None:
        sample = follow((pool(replica("r"), replica("s")), Sources(replicas={"r": None})))[-1]
        assert (sample.silent, sample.stale) == (2, ("replica r", "replica s"))

    def test_that_have_just_become_ready_are_taken_from_zero(self) -> None:
        sources = Sources(replicas={"r": engine(100.9, generation_tokens_total=30, steps_total=3)})
        sample = follow((pool(replica("r", ReplicaState.STARTING)), Sources()), (pool(replica("r")), sources))[-1]
        (told,) = sample.replicas
        assert (told.generation_tokens, told.steps) == (30, 3)
        assert sample.stale == ()

    def test_seen_first_by_an_operator_that_has_just_started_have_no_rates(self) -> None:
        sources = Sources(replicas={"r": engine(100.0, generation_tokens_total=10**6, running=3)})
        sample = follow((pool(replica("r")), sources))[-1]
        (told,) = sample.replicas
        assert (told.generation_tokens, told.running) == (0, 3)
        assert sample.stale == ("replica r",)

    def test_unready_for_a_moment_are_silent_and_not_starting(self) -> None:
        shaken = replica("r", ReplicaState.STARTING).__class__(
            "r", 0, "new", ReplicaState.STARTING, NOW - timedelta(days=1), was_ready=True
        )
        sample = follow((pool(shaken), Sources()))[-1]
        assert (sample.silent, sample.starting) == (1, ())

    def test_that_start_tell_their_age_and_whether_they_are_stuck(self) -> None:
        observed = pool(
            replica("coming", ReplicaState.STARTING),
            replica("pending", ReplicaState.STARTING, stuck=NO_NODE),
            replica("failed", ReplicaState.FAILED),
            replica("old", ReplicaState.FAILED, revision="old"),
            replica("leaving", ReplicaState.DRAINING),
            replica("lost", ReplicaState.LOST),
        )
        sample = follow((observed, Sources()))[-1]
        told = [(each.name, each.age_s, each.is_stuck) for each in sample.starting]
        assert told == [("coming", 40.0, False), ("pending", 40.0, True), ("failed", 40.0, True)]
        assert (sample.draining, sample.silent) == (1, 0)

    def test_tell_once_how_long_they_took_to_start(self) -> None:
        ready = replica("r", ready_at=NOW - timedelta(seconds=5))
        seconds = [(pool(each), Sources()) for each in (replica("r", ReplicaState.STARTING), ready, ready)]
        assert [sample.started_s for sample in follow(*seconds)] == [(), (35.0,), ()]


counts = st.integers(0, 1000)


@given(st.lists(st.tuples(st.sampled_from("abc"), counts, counts), min_size=2, max_size=12))
def test_what_one_gateway_counts_is_counted_once_however_often_it_is_read(
    readings: list[tuple[str, int, int]],
) -> None:
    total = {"a": 0, "b": 0, "c": 0}
    seconds, expected, life = [], 0, ""
    for boot, more, queued in readings:
        total[boot] += more
        expected += more if boot == life else 0
        life = boot
        seconds.append((pool(), Sources({"g": gateway(boot, arrivals_total=total[boot], queued=queued)})))
    samples = follow(*seconds)
    assert sum(sample.gateway.arrivals for sample in samples if sample.gateway) == expected
    assert [sample.gateway.queued for sample in samples if sample.gateway] == [queued for *_, queued in readings]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=8), st.integers(0, 3))
def test_every_replica_counts_exactly_once(answers: list[tuple[bool, bool]], starting: int) -> None:
    replicas = [replica(f"r{number}") for number in range(len(answers))]
    replicas += [replica(f"s{number}", ReplicaState.STARTING) for number in range(starting)]
    for index in (0, 1):
        told = {f"r{n}": engine(100.0) if answer[index] else None for n, answer in enumerate(answers)}
        sample = follow((pool(*replicas), Sources(replicas=told)))[-1]
        assert len(sample.replicas) + sample.silent == len(answers)
        assert len(sample.starting) == starting
        assert len(sample.stale) == len(answers), "a first look never has rates"
