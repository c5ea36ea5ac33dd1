"""The verdict on a canary: what can be said of all pairs of counts, and of coins that are thrown."""

from __future__ import annotations

import random
from bisect import bisect_left
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api.load import LATENCY_BUCKETS_S, ArmLoad, CanaryLoad, Latencies
from llmos_operator.planning.canaries import LEAST_REQUESTS, Verdict, compute_boundary_z, judge_canary


def histogram(values_s: list[float]) -> Latencies:
    counts = [0] * (len(LATENCY_BUCKETS_S) + 1)
    for value_s in values_s:
        counts[bisect_left(LATENCY_BUCKETS_S, value_s)] += 1
    return Latencies(counts=tuple(counts), sum_s=sum(values_s))


def arm(requests: int, failed: int = 0, ttft_s: list[float] | None = None) -> ArmLoad:
    return ArmLoad(requests_total=requests, failed_total=failed, ttft=histogram(ttft_s or []))


def judge(result: ArmLoad, incumbent: ArmLoad, *, is_due: bool = True) -> Verdict:
    return judge_canary(CanaryLoad(result=result, incumbent=incumbent), is_due=is_due)


def throw(seed: int) -> random.Random:
    """A coin that falls the same way each time."""
    return random.Random(seed)  # noqa: S311 - no secret


LATENCY_S = st.floats(0.001, 200)


@st.composite
def arms(draw: st.DrawFn) -> ArmLoad:
    requests = draw(st.integers(0, 5000))
    failed = draw(st.integers(0, requests))
    return arm(requests, failed, draw(st.lists(LATENCY_S, max_size=60)))


@given(arms(), arms())
def test_nothing_is_promoted_before_its_time(result: ArmLoad, incumbent: ArmLoad) -> None:
    verdict = judge(result, incumbent, is_due=False)
    assert verdict.decision != "promote"
    assert not verdict.is_undecided


@given(arms(), arms())
def test_nothing_is_promoted_by_too_few_requests_and_that_is_said(result: ArmLoad, incumbent: ArmLoad) -> None:
    verdict = judge(result, incumbent)
    if min(result.requests_total, incumbent.requests_total) < LEAST_REQUESTS:
        assert verdict.decision != "promote"
    assert verdict.is_undecided == (verdict.decision == "keep")
    assert verdict.message


@given(st.integers(1, 5000), st.integers(1, 5000), st.data())
def test_a_flaky_incumbent_never_makes_the_canary_fail(mine: int, theirs: int, data: st.DataObject) -> None:
    other_failed = data.draw(st.integers(0, theirs))
    failed = data.draw(st.integers(0, mine * other_failed // theirs))
    assert judge(arm(mine, failed), arm(theirs, other_failed)).decision != "roll-back"


@given(st.lists(LATENCY_S, min_size=1, max_size=60), st.lists(LATENCY_S, min_size=1, max_size=60))
def test_a_canary_that_is_faster_on_average_is_never_rolled_back(mine: list[float], theirs: list[float]) -> None:
    if sum(mine) / len(mine) > sum(theirs) / len(theirs):
        mine, theirs = theirs, mine
    assert judge(arm(500, 0, mine), arm(500, 0, theirs)).decision != "roll-back"


@given(arms(), arms())
def test_one_failure_more_never_saves_a_canary(result: ArmLoad, incumbent: ArmLoad) -> None:
    if result.failed_total < result.requests_total and judge(result, incumbent).decision == "roll-back":
        worse = result.model_copy(update={"failed_total": result.failed_total + 1})
        assert judge(worse, incumbent).decision == "roll-back"


@given(arms(), arms())
def test_a_failure_of_the_incumbent_never_condemns_a_canary(result: ArmLoad, incumbent: ArmLoad) -> None:
    if incumbent.failed_total < incumbent.requests_total and judge(result, incumbent).decision != "roll-back":
        worse = incumbent.model_copy(update={"failed_total": incumbent.failed_total + 1})
        assert judge(result, worse).decision != "roll-back"


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3])
def test_of_canaries_that_are_as_good_hardly_any_is_rolled_back_however_often_one_looks(share: float) -> None:
    coin, rolled_back = throw(7), 0
    for _ in range(200):
        requests, failed = [0, 0], [0, 0]
        for number in range(1000):
            one = int(coin.random() < 0.1)
            requests[one] += 1
            failed[one] += coin.random() < share
            mine, theirs = (arm(requests[each], failed[each]) for each in (1, 0))
            if number % 10 == 0 and judge(mine, theirs).decision == "roll-back":
                rolled_back += 1
                break
    assert rolled_back <= 3


@pytest.mark.parametrize(
    ("mine", "theirs", "within"), [(1.0, 0.0, 12), (0.5, 0.0, 30), (0.5, 0.1, 80), (0.8, 0.4, 120)]
)
def test_a_bad_one_goes_soon(mine: float, theirs: float, within: int) -> None:
    coin = throw(11)
    failed = other_failed = 0
    for number in range(1, within + 1):
        failed += coin.random() < mine
        other_failed += sum(coin.random() < theirs for _ in range(9))
        if judge(arm(number, failed), arm(9 * number, other_failed), is_due=False).decision == "roll-back":
            return
    pytest.fail(f"{failed} of {within} against {other_failed} of {9 * within} is no regression")


def test_one_that_may_be_worse_is_neither_promoted_nor_rolled_back() -> None:
    verdict = judge(arm(50, 3), arm(450, 0))
    assert (verdict.decision, verdict.is_undecided) == ("keep", True)
    assert "3 of 50" in verdict.message


def test_a_slow_one_goes_and_a_slightly_slower_one_stays() -> None:
    coin = throw(3)
    usual = [coin.lognormvariate(-1.5, 0.5) for _ in range(900)]
    slow = [2.5 * coin.lognormvariate(-1.5, 0.5) for _ in range(100)]
    similar = [1.1 * coin.lognormvariate(-1.5, 0.5) for _ in range(100)]
    assert judge(arm(100, 0, slow), arm(900, 0, usual)).decision == "roll-back"
    assert judge(arm(100, 0, similar), arm(900, 0, usual)).decision == "promote"


def test_values_beside_the_edge_of_a_bucket_are_no_regression() -> None:
    """Their buckets differ by half, the values by a thousandth."""
    assert judge(arm(100, 0, [0.1001] * 100), arm(900, 0, [0.0999] * 900)).decision == "promote"


def test_without_streams_only_errors_are_compared() -> None:
    verdict = judge(arm(60), arm(500))
    assert verdict.decision == "promote"
    assert "TTFT" not in verdict.message


@pytest.mark.parametrize(
    ("result", "incumbent", "decision"),
    [
        (ArmLoad(given_up_total=20), arm(500), "roll-back"),
        (ArmLoad(requests_total=3, failed_total=3, given_up_total=4), arm(40), "roll-back"),
        (ArmLoad(given_up_total=4), arm(500), "keep"),
        (ArmLoad(requests_total=1, given_up_total=20), arm(500), "keep"),
        (ArmLoad(given_up_total=20), ArmLoad(given_up_total=200), "keep"),
        (ArmLoad(given_up_total=20), arm(30, 30), "keep"),
    ],
    ids=["silent", "fails or is silent", "too few", "answered one", "both silent", "incumbent fails"],
)
def test_one_that_answers_nothing_goes_when_its_time_is_over(
    result: ArmLoad, incumbent: ArmLoad, decision: str
) -> None:
    assert judge(result, incumbent).decision == decision
    assert judge(result, incumbent, is_due=False).decision == "keep"


def test_the_boundary_grows_slowly() -> None:
    steps = [compute_boundary_z(10**power) for power in range(1, 8)]
    assert all(low < high for low, high in pairwise(steps))
    assert 3.9 < steps[0] < steps[-1] < 4.8
