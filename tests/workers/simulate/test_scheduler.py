"""The scheduler never takes more than there is, wastes nothing that it could use, and finishes everything."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos_workers.simulate.blocks import BlockPool
from llmos_workers.simulate.scheduler import Limits, Scheduler, Step, StepResult, Timing, Work
from llmos_workers.simulate.tokens import BLOCK_TOKENS, compute_block_keys

# The machine that runs the tests may be slow; the steps are counted, not timed.
whole_runs = settings(max_examples=60, deadline=None)

ROOMY = Limits(max_num_seqs=8, max_num_batched_tokens=64, max_model_len=256, kv_blocks=1000)


def blocks_for(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)


@st.composite
def limits_and_work(draw: st.DrawFn, *, share_prompts: bool) -> tuple[Limits, list[tuple[int, Work]]]:
    """Limits, and sequences with the step at which each arrives. Small memories make preemption common."""
    seqs = draw(st.integers(1, 6))
    model_len = draw(st.integers(2, 120))
    limits = Limits(
        max_num_seqs=seqs,
        max_num_batched_tokens=draw(st.integers(seqs, 64)),
        max_model_len=model_len,
        kv_blocks=blocks_for(model_len) + draw(st.integers(0, 6)),
    )
    work = []
    for number in range(draw(st.integers(1, 12))):
        prompt = draw(st.integers(1, model_len - 1))
        output = draw(st.integers(1, model_len - prompt))
        family = draw(st.integers(0, 2))
        keys = compute_block_keys([str(family)] * (prompt + output)) if share_prompts else ()
        work.append((draw(st.integers(0, 20)), Work(number, prompt, output, keys)))
    return limits, work


@dataclass
class Ledger:
    """An independent account of what the scheduler says it does."""

    limits: Limits
    computed: Counter[int] = field(default_factory=Counter)
    produced: Counter[int] = field(default_factory=Counter)
    finished: list[int] = field(default_factory=list)

    def book(self, step: Step, result: StepResult) -> None:
        for name in step.preempted:
            self.computed[name] = 0
        for chunk in step.chunks:
            self.computed[chunk.id] += chunk.tokens
        self.produced.update(result.produced)
        for name in result.finished:
            self.finished.append(name)
            del self.computed[name]

    def blocks_without_sharing(self, step: Step) -> int:
        held = Counter(self.computed)
        for name in step.preempted:
            held[name] = 0
        for chunk in step.chunks:
            held[chunk.id] += chunk.tokens
        return sum(map(blocks_for, held.values()))


def run_all(scheduler: Scheduler, ledger: Ledger, arrivals: list[tuple[int, Work]]) -> list[Step]:
    """Serve everything and check each step on the way."""
    steps: list[Step] = []
    left = sorted(arrivals, key=lambda item: (item[0], item[1].id))
    while left or scheduler.running or scheduler.waiting:
        while left and left[0][0] <= len(steps):
            scheduler.add(left.pop(0)[1])
        has_work = bool(scheduler.running or scheduler.waiting)
        step = scheduler.begin_step()
        assert bool(step.chunks) == has_work
        assert scheduler.running <= ledger.limits.max_num_seqs
        assert sum(chunk.tokens for chunk in step.chunks) <= ledger.limits.max_num_batched_tokens
        assert 0 <= scheduler.free_blocks <= ledger.limits.kv_blocks
        ledger.book(step, scheduler.finish_step(step))
        steps.append(step)
        assert len(steps) < 20_000
    return steps


@whole_runs
@given(limits_and_work(share_prompts=False))
def test_every_sequence_gets_all_its_tokens_and_every_block_comes_back(
    case: tuple[Limits, list[tuple[int, Work]]],
) -> None:
    limits, arrivals = case
    scheduler, ledger = Scheduler(limits), Ledger(limits)
    run_all(scheduler, ledger, arrivals)
    assert sorted(ledger.finished) == sorted(work.id for _, work in arrivals)
    assert ledger.produced == {work.id: work.output_tokens for _, work in arrivals}
    assert scheduler.free_blocks == limits.kv_blocks


@whole_runs
@given(limits_and_work(share_prompts=True))
def test_sharing_prefixes_changes_nothing_about_that(case: tuple[Limits, list[tuple[int, Work]]]) -> None:
    limits, arrivals = case
    scheduler, ledger = Scheduler(limits), Ledger(limits)
    run_all(scheduler, ledger, arrivals)
    assert ledger.produced == {work.id: work.output_tokens for _, work in arrivals}
    assert scheduler.free_blocks == limits.kv_blocks


@whole_runs
@given(limits_and_work(share_prompts=False))
def test_without_sharing_exactly_the_blocks_of_computed_tokens_are_in_use(
    case: tuple[Limits, list[tuple[int, Work]]],
) -> None:
    limits, arrivals = case
    scheduler, ledger = Scheduler(limits), Ledger(limits)
    for _, work in arrivals:
        scheduler.add(work)
    while scheduler.running or scheduler.waiting:
        step = scheduler.begin_step()
        assert limits.kv_blocks - scheduler.free_blocks == ledger.blocks_without_sharing(step)
        ledger.book(step, scheduler.finish_step(step))


@whole_runs
@given(limits_and_work(share_prompts=False))
def test_a_waiting_sequence_waits_only_for_a_place_a_token_or_a_block(
    case: tuple[Limits, list[tuple[int, Work]]],
) -> None:
    limits, arrivals = case
    scheduler, ledger = Scheduler(limits), Ledger(limits)
    waiting = [work for _, work in arrivals]
    for work in waiting:
        scheduler.add(work)
    while scheduler.running or scheduler.waiting:
        step = scheduler.begin_step()
        used = sum(chunk.tokens for chunk in step.chunks)
        if scheduler.waiting and not step.preempted and not ledger.produced:
            # Before anything was produced the queue is in its first order, so its head is known.
            head = waiting[len(waiting) - scheduler.waiting]
            wanted = blocks_for(min(head.prompt_tokens, limits.max_num_batched_tokens - used))
            assert (
                scheduler.running == limits.max_num_seqs
                or used == limits.max_num_batched_tokens
                or wanted > scheduler.free_blocks
            )
        ledger.book(step, scheduler.finish_step(step))


@whole_runs
@given(limits_and_work(share_prompts=True), st.data())
def test_aborting_at_any_moment_leaks_no_block(
    case: tuple[Limits, list[tuple[int, Work]]], data: st.DataObject
) -> None:
    limits, arrivals = case
    scheduler = Scheduler(limits)
    for _, work in arrivals:
        scheduler.add(work)
    while scheduler.running or scheduler.waiting:
        step = scheduler.begin_step()
        victim = data.draw(st.sampled_from([work.id for _, work in arrivals]))
        scheduler.abort(victim)
        result = scheduler.finish_step(step)
        assert victim not in result.produced
    assert scheduler.free_blocks == limits.kv_blocks


@whole_runs
@given(limits_and_work(share_prompts=True))
def test_equal_arrivals_give_equal_steps(case: tuple[Limits, list[tuple[int, Work]]]) -> None:
    limits, arrivals = case
    first = run_all(Scheduler(limits), Ledger(limits), arrivals)
    assert run_all(Scheduler(limits), Ledger(limits), arrivals) == first


def test_a_long_prompt_is_computed_in_chunks_beside_running_decodes() -> None:
    scheduler = Scheduler(ROOMY)
    scheduler.add(Work(1, prompt_tokens=10, output_tokens=5))
    scheduler.finish_step(scheduler.begin_step())
    scheduler.add(Work(2, prompt_tokens=150, output_tokens=2))
    sizes = []
    for _ in range(3):
        step = scheduler.begin_step()
        sizes.append({chunk.id: chunk.tokens for chunk in step.chunks})
        result = scheduler.finish_step(step)
    assert sizes == [{1: 1, 2: 63}, {1: 1, 2: 63}, {1: 1, 2: 24}]
    assert result.produced == (1, 2)


def test_the_last_admitted_sequence_is_preempted_and_starts_over() -> None:
    limits = Limits(max_num_seqs=2, max_num_batched_tokens=64, max_model_len=48, kv_blocks=3)
    scheduler = Scheduler(limits)
    scheduler.add(Work(1, prompt_tokens=16, output_tokens=10))
    scheduler.add(Work(2, prompt_tokens=16, output_tokens=10))
    first = scheduler.begin_step()
    assert [chunk.id for chunk in first.chunks] == [1, 2]
    scheduler.finish_step(first)
    second = scheduler.begin_step()
    assert second.preempted == (2,)
    assert [chunk.id for chunk in second.chunks] == [1]


def test_the_second_equal_prompt_only_computes_what_the_cache_does_not_hold() -> None:
    scheduler = Scheduler(ROOMY)
    keys = compute_block_keys(["same"] * 40)
    for name in (1, 2):
        scheduler.add(Work(name, prompt_tokens=40, output_tokens=1, block_keys=keys))
        step = scheduler.begin_step()
        scheduler.finish_step(step)
    assert step.prefix_queried_tokens == 40
    assert step.prefix_hit_tokens == 32
    assert step.prefill_tokens == 8


def test_at_least_one_token_of_a_wholly_cached_prompt_is_computed() -> None:
    scheduler = Scheduler(ROOMY)
    keys = compute_block_keys(["same"] * 32)
    for name in (1, 2):
        scheduler.add(Work(name, prompt_tokens=32, output_tokens=1, block_keys=keys))
        step = scheduler.begin_step()
        scheduler.finish_step(step)
    assert step.prefill_tokens == 16


def test_cached_blocks_are_forgotten_least_recently_used_first() -> None:
    pool = BlockPool(3)
    old, young = pool.allocate(1), pool.allocate(1)
    pool.name(old[0], b"old")
    pool.name(young[0], b"young")
    pool.release(old)
    pool.release(young)
    pool.allocate(2)
    assert pool.find_prefix([b"old"]) == []
    assert pool.find_prefix([b"young"]) == young


def test_time_grows_with_decodes_and_prefill() -> None:
    timing = Timing(prefill_tokens_per_s=1000, decode_step_ms=10, decode_step_ms_per_seq=0.5)
    assert timing.compute_step_s(0, 4) == pytest.approx(0.012)
    assert timing.compute_step_s(500, 0) == pytest.approx(0.510)


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (Work(1, 200, 57), "longer than 256 tokens"),
        (Work(1, 0, 5), "at least one prompt token"),
        (Work(1, 5, 0), "at least one prompt token"),
    ],
)
def test_work_that_could_never_finish_is_refused(work: Work, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Scheduler(ROOMY).add(work)


def test_a_memory_below_one_sequence_of_full_length_is_refused() -> None:
    with pytest.raises(ValueError, match="do not hold 256 tokens"):
        Limits(max_num_seqs=1, max_num_batched_tokens=16, max_model_len=256, kv_blocks=15)
