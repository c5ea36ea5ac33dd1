"""The engine: against closed forms, and what must hold for any requests."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.autoscale.engine import Engine, Request
from bench.autoscale.profiles import BLOCK_TOKENS, Profile
from tests.bench.autoscale.views import ROUND


def run(engine: Engine, requests: list[Request]) -> list[Request]:
    """Let all requests come and be answered; checks the cache at every moment."""
    finished, pending = [], sorted(requests, key=lambda request: request.arrived_s)
    while pending or engine.next_s < math.inf:
        if pending and pending[0].arrived_s <= engine.next_s:
            request = pending.pop(0)
            engine.submit(request, request.arrived_s)
        else:
            finished += engine.advance()
        assert 0 <= engine.free_blocks <= engine.profile.blocks
    return finished


def test_one_request_takes_its_prompt_and_one_step_for_each_further_token() -> None:
    request = Request(1.0, 500, 11)
    run(Engine(ROUND), [request])
    assert request.first_token_s == pytest.approx(1.0 + 500 * 0.0001)
    assert request.finished_s == pytest.approx(request.first_token_s + 10 * 0.010)
    assert request.tpot_s == pytest.approx(0.010)


def test_a_long_prompt_is_prefilled_in_chunks_of_the_token_budget() -> None:
    engine, request = Engine(ROUND), Request(0.0, 2500, 1)
    run(engine, [request])
    assert engine.steps_total == 3
    assert request.first_token_s == pytest.approx(2500 * 0.0001)


def test_a_request_that_decodes_goes_on_while_another_is_prefilled() -> None:
    first, second = Request(0.0, 100, 1000), Request(1.0, 3000, 1)
    run(Engine(ROUND), [first, second])
    # Beside the one that decodes, 999 tokens fit into each step.
    assert second.ttft_s == pytest.approx(0.3 + 0.01, abs=0.011)
    assert first.finished_s < 100 * 0.0001 + 999 * 0.010 + 0.4


def test_prompts_of_one_length_wait_as_in_a_queue_with_constant_service() -> None:
    """M/D/1: mean wait rho * s / (2 * (1 - rho)). One sequence at a time, prompts only."""
    profile = replace(ROUND, max_sequences=1)
    service_s, arrivals, now_s, state = 0.1, [], 0.0, 1
    for _ in range(40_000):
        # A linear congruential generator: the same gaps each time.
        state = (1_103_515_245 * state + 12_345) % 2**31
        now_s += -math.log((state + 1) / 2**31) * service_s / 0.6
        arrivals.append(Request(now_s, 1000, 1))
    run(Engine(profile), arrivals)
    wait_s = sum(request.ttft_s for request in arrivals) / len(arrivals) - service_s
    assert wait_s == pytest.approx(0.6 * service_s / (2 * 0.4), rel=0.1)


def test_requests_are_admitted_in_the_order_of_arrival() -> None:
    requests = [Request(0.001 * i, 700, 5) for i in range(40)]
    run(Engine(replace(ROUND, max_sequences=2)), requests)
    firsts = [request.first_token_s for request in requests]
    assert firsts == sorted(firsts)


def test_no_more_than_the_allowed_sequences_run() -> None:
    engine = Engine(replace(ROUND, max_sequences=3))
    for i in range(10):
        engine.submit(Request(0.0, 10, 50), 0.0)
        assert engine.running <= 3, i
    while engine.next_s < math.inf:
        engine.advance()
        assert engine.running <= 3


def test_a_sequence_that_finds_no_block_makes_the_last_one_wait_and_be_computed_again() -> None:
    engine = Engine(replace(ROUND, blocks=40))
    first, second = Request(0.0, 300, 200), Request(0.0, 200, 200)
    run(engine, [first, second])
    assert (first.preemptions, second.preemptions) == (0, 1)
    assert engine.preemptions_total == 1
    assert engine.prompt_tokens_total > 500, "what was generated is prefilled again"
    assert second.finished_s > first.finished_s


def test_steps_are_counted_within_a_run_too() -> None:
    engine = Engine(ROUND)
    engine.submit(Request(0.0, 100, 101), 0.0)
    engine.advance()
    assert engine.count_steps_done(0.01 + 0.5 + 0.001) == 50
    assert engine.steps_total == 1


def test_an_arrival_cuts_a_run_at_the_end_of_its_step() -> None:
    engine = Engine(ROUND)
    engine.submit(Request(0.0, 100, 1000), 0.0)
    engine.advance()
    late = Request(0.5051, 100, 1)
    engine.submit(late, late.arrived_s)
    assert engine.next_s == pytest.approx(0.01 + 0.5)
    engine.advance()
    engine.advance()
    assert late.first_token_s == pytest.approx(0.51 + 101 * 0.0001)


profiles = st.builds(
    lambda blocks, sequences, budget: replace(
        ROUND, blocks=blocks, max_sequences=sequences, max_batched_tokens=budget, context_token_s=1e-7, pair_s=1e-9
    ),
    st.integers(60, 400),
    st.integers(1, 12),
    st.integers(70, 500),
)


@settings(max_examples=60)
@given(
    profiles,
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 400), st.integers(1, 300)), min_size=1, max_size=40),
)
def test_every_request_is_served_once_and_the_cache_is_empty_in_the_end(
    profile: Profile, shapes: list[tuple[float, int, int]]
) -> None:
    engine = Engine(profile)
    requests = [Request(*shape) for shape in shapes]
    finished = run(engine, requests)
    assert sorted(map(id, finished)) == sorted(map(id, requests))
    assert engine.free_blocks == profile.blocks
    assert engine.running == 0
    assert engine.generation_tokens_total == sum(request.output_tokens for request in requests)
    assert engine.prompt_tokens_total >= sum(request.prompt_tokens for request in requests)
    for request in requests:
        assert request.arrived_s < request.first_token_s <= request.finished_s


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 300), st.integers(1, 100)), min_size=2, max_size=20))
def test_the_clock_of_steps_agrees_with_an_engine_that_never_skips(shapes: list[tuple[float, int, int]]) -> None:
    """Asking an engine for its counters in between changes nothing."""
    plain, watched = ([Request(*shape) for shape in shapes] for _ in range(2))
    run(Engine(ROUND), plain)
    engine, pending = Engine(ROUND), sorted(watched, key=lambda request: request.arrived_s)
    while pending or engine.next_s < math.inf:
        engine.count_steps_done(min(engine.next_s, 1e6))
        if pending and pending[0].arrived_s <= engine.next_s:
            request = pending.pop(0)
            engine.submit(request, request.arrived_s)
        else:
            engine.advance()
    assert [r.finished_s for r in plain] == [r.finished_s for r in watched]


def test_a_block_holds_sixteen_tokens() -> None:
    engine = Engine(ROUND)
    engine.submit(Request(0.0, BLOCK_TOKENS + 1, 2), 0.0)
    assert engine.free_blocks == ROUND.blocks - 2
