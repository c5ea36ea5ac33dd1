"""The routing benchmark: its simulated engine, its peers, and the arithmetic of its figures."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.routing.__main__ import TRACE
from bench.routing.contest import OURS, PEERS, run
from bench.routing.decisions import measure_decisions
from bench.routing.figures import compute_figures
from bench.routing.peers.chwbl import Chwbl
from bench.routing.peers.lmetric import LMetric
from bench.routing.peers.sglang import CacheAware, CacheAwareConfig
from bench.routing.peers.simple import RoundRobin
from bench.routing.replay import Setting, replay
from bench.routing.replica import BlockCache, Profile
from bench.routing.trace import Request, compute_infinite_hit_rate, read_trace

PROFILE = Profile(base_s=0.01, prefill_token_s=0.0001, sequence_s=0.001, chunk_tokens=1000)


def build_requests(count: int, seed: int = 0) -> list[Request]:
    rng, requests = random.Random(seed), []  # noqa: S311  # reproducible draws
    for number in range(count):
        document, own = rng.randrange(10), rng.randrange(1, 4)
        blocks = (
            0,
            *range(100 * document + 1, 100 * document + 9),
            *range(10_000 + 10 * number, 10_000 + 10 * number + own),
        )
        requests.append(Request(number / 10, blocks, 512 * len(blocks) - 100, rng.randrange(1, 200)))
    return requests


def test_the_traces_hits_are_bounded_by_what_the_literature_says() -> None:
    requests = read_trace(TRACE)
    assert len(requests) == 12_031
    assert compute_infinite_hit_rate(requests) == pytest.approx(0.366, abs=0.001)


def test_a_line_that_is_no_request_is_named(tmp_path: Path) -> None:
    good = {"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [1]}
    path = tmp_path / "trace.jsonl"
    path.write_text(f"{json.dumps(good)}\n{{}}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        read_trace(path)


def test_one_request_on_an_idle_replica_takes_the_time_of_its_steps() -> None:
    setting = Setting(1, 100, 1.0, PROFILE)
    job = replay([Request(0.0, (1, 2, 3, 4), 2000, 11)], setting, RoundRobin())[0]
    assert job.first_token_s == pytest.approx(2 * (0.01 + 0.1))
    assert job.ended_s - job.first_token_s == pytest.approx(10 * (0.01 + 0.001))


def test_a_second_equal_prompt_computes_its_last_token_only() -> None:
    requests = [Request(0.0, (1, 2, 3, 4), 2048, 1), Request(10.0, (1, 2, 3, 4), 2048, 1)]
    first, second = replay(requests, Setting(1, 100, 1.0, PROFILE), RoundRobin())
    assert (first.cached_blocks, second.cached_blocks) == (0, 4)
    assert second.first_token_s - second.sent_s < 0.001


def test_prompts_wait_for_each_other_and_for_room() -> None:
    requests = [Request(0.0, tuple(range(10 * n, 10 * n + 5)), 2500, 100) for n in range(1, 4)]
    roomy = replay(requests, Setting(1, 100, 1.0, PROFILE), RoundRobin())
    tight = replay(requests, Setting(1, 6, 1.0, PROFILE), RoundRobin())
    assert roomy[0].first_token_s < roomy[1].first_token_s < roomy[2].first_token_s < roomy[0].ended_s
    assert tight[1].first_token_s > tight[0].ended_s


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), max_size=60))
def test_a_cache_never_holds_more_than_it_can_and_running_blocks_stay(steps: list[tuple[int, int]]) -> None:
    cache, running = BlockCache(12), []
    for document, length in steps:
        blocks = tuple(range(100 * document, 100 * document + length))
        if cache.take(blocks, 1):
            running.append(blocks)
        elif running:
            cache.give_back(running.pop(0), 1)
        for held in running:
            assert cache.count_prefix(held) == len(held)
        distinct = {block for held in running for block in held}
        assert len(distinct) + len(running) <= 12


@pytest.mark.parametrize("policy", [*PEERS, *OURS])
@pytest.mark.parametrize("gateways", [1, 2])
def test_every_policy_serves_every_request_and_hits_no_more_than_can_be(policy: str, gateways: int) -> None:
    requests = build_requests(300)
    results = {result.policy: result for result in run(requests, [Setting(3, 40, 0.7)], [gateways], processes=1)}
    figures = results[policy].figures
    assert 0 < figures.hit_rate <= compute_infinite_hit_rate(requests)
    assert 1 <= figures.imbalance <= figures.worst_imbalance <= 3
    assert 0 < figures.ttft_mean_s <= figures.end_mean_s


@settings(max_examples=20)
@given(seed=st.integers(0, 100))
def test_one_replica_leaves_no_choice_so_all_policies_are_equal(seed: int) -> None:
    results = run(build_requests(60, seed), [Setting(1, 60, 0.5)], [1], processes=1)
    assert len({result.figures for result in results}) == 1


def test_imbalance_is_the_most_work_over_the_mean() -> None:
    requests = [Request(float(n), (n,), 500, 1) for n in range(1, 401)]
    jobs = replay(requests, Setting(4, 100, 1.0, PROFILE), RoundRobin())
    assert compute_figures(jobs, Setting(4, 100, 1.0, PROFILE)).imbalance == pytest.approx(1.0, abs=0.05)
    for job in jobs:
        job.replica = 0
    assert compute_figures(jobs, Setting(4, 100, 1.0, PROFILE)).imbalance == pytest.approx(4.0)


def test_a_setting_scales_the_trace_to_its_load() -> None:
    setting = Setting(4, 100, 0.5, PROFILE)
    scaled = setting.scale(build_requests(500))
    per_s = sum(request.input_tokens for request in scaled) / scaled[-1].arrival_s
    assert per_s == pytest.approx(0.5 * 4 * PROFILE.prefill_tokens_per_s)


def test_chwbl_keeps_a_key_until_its_replica_has_more_than_its_share() -> None:
    ring, request = Chwbl(4, key_block=0), Request(0.0, (7,), 500, 1)
    home = ring.choose(request, [0, 0, 0, 0], 0.0)[0]
    loads = [2, 2, 2, 2]
    assert ring.choose(request, loads, 0.0)[0] == home
    loads[home] = 4
    assert ring.choose(request, loads, 0.0)[0] != home
    assert ring.choose(request, [9, 9, 9, 9], 0.0)[0] == home


def test_sglang_follows_a_match_until_the_load_is_imbalanced() -> None:
    policy = CacheAware(4, CacheAwareConfig())
    request = Request(0.0, (1, 2, 3, 4), 2048, 1)
    home = policy.choose(request, [0, 0, 0, 0], 0.0)[0]
    loads = [0, 0, 0, 0]
    loads[home] = 64
    assert policy.choose(request, loads, 0.0)[0] == home
    loads[home] = 65
    assert policy.choose(request, loads, 0.0)[0] != home


def test_sglang_forgets_leaves_first_when_its_tree_is_full() -> None:
    config = CacheAwareConfig(max_tree_size=8 * 2048, eviction_interval_s=10, fallback="smallest-tree")
    policy = CacheAware(2, config)
    for number in range(20):
        policy.choose(Request(0.0, (1, 100 + number), 1024, 1), [0, 0], float(number) / 10)
    policy.choose(Request(0.0, (1, 500), 1024, 1), [0, 0], 100.0)
    assert max(policy._chars) <= config.max_tree_size + 2 * 2048
    assert 1 in policy._nodes


def test_lmetric_multiplies_new_tokens_by_batch_size() -> None:
    policy = LMetric(2, 100, with_queue=False)
    first = policy.choose(Request(0.0, (1, 2, 3, 4), 2048, 1), [0, 0], 0.0)[0]
    again = Request(0.0, (1, 2, 3, 4, 5), 2560, 1)
    loads = [0, 0]
    loads[first] = 3
    assert policy.choose(again, loads, 0.0)[0] == first, "512 x 4 is less than 2560 x 1"
    loads[first] = 30
    assert LMetric(2, 100, with_queue=False).choose(again, loads, 0.0)[0] != first


def test_decisions_are_timed_in_parts_that_make_the_whole() -> None:
    timings = measure_decisions("auto", replicas=10, per_s=100, count=50)
    assert set(timings) == {"hash", "choose", "commit", "all", "CPU time of all"}
    assert timings["all"].most_ms >= timings["choose"].p50_ms > 0
