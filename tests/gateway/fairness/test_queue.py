"""The fair queue as values: whose turn it is, who has to give way, and the bound of what two flows may differ by."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos_gateway.fairness import Costs, FairQueue, QueueFull, QueueLimits, Room, Ticket
from llmos_gateway.fairness.counters import CREDIT_REQUESTS
from llmos_gateway.fairness.queue import RECENT_S, UNKNOWN_WAIT_S

COSTS = Costs()
FULL = Room(0.0, 0.0)


def ask(queue: FairQueue, flow: str, prompt: int = 10, *, weight: float = 1, now_s: float = 0.0) -> Ticket:
    return queue.arrive(flow, weight, prompt_tokens=prompt, is_whole=False, now_s=now_s)[0]


def send_one(queue: FairQueue, now_s: float = 0.0) -> str:
    """Let one request go, end it without an answer, and return whose it was."""
    (ticket,) = queue.admit(Room(queue.running + 1.0, 0.0), now_s)
    queue.end(ticket, (ticket.prompt_tokens, 0, 0))
    return ticket.flow.id


def test_the_flow_that_got_least_goes_first_and_within_a_flow_the_oldest() -> None:
    queue = FairQueue(most_credit=0)
    first = ask(queue, "a", 100)
    tickets = [ask(queue, "a", 100), ask(queue, "b", 100), ask(queue, "b", 100)]
    sent = queue.admit(Room(4.0, 0.0), 0.0)
    assert [ticket.flow.id for ticket in sent] == ["a", "b", "a", "b"]
    assert [sent[0], sent[2]] == [first, tickets[0]]


def test_weights_share_three_to_one() -> None:
    queue = FairQueue(most_credit=0)
    for _ in range(80):
        ask(queue, "three", weight=3)
        ask(queue, "one", weight=1)
    sent = [send_one(queue) for _ in range(80)]
    assert (sent.count("three"), sent.count("one")) == (60, 20)


def test_a_flow_that_was_away_has_saved_nothing_up_but_its_credit() -> None:
    queue = FairQueue(most_credit=0)
    for _ in range(100):
        ask(queue, "busy", 100)
    for _ in range(50):
        send_one(queue)
    for _ in range(50):
        ask(queue, "back", 100)
    sent = [send_one(queue) for _ in range(20)]
    assert sent.count("back") == 10


def test_generated_tokens_count_as_they_come_and_cached_ones_less_at_the_end() -> None:
    queue = FairQueue(most_credit=0)
    ticket = ask(queue, "a", 1000)
    queue.admit(Room(1.0, 0.0), 0.0)
    assert ticket.flow.counter == 1000
    queue.progress(ticket, 10)
    queue.progress(ticket, 10)
    assert ticket.flow.counter == 1020
    queue.end(ticket, (1000, 900, 12))
    assert ticket.flow.counter == pytest.approx(100 + 90 + 24)


def test_a_whole_answer_is_charged_beforehand_as_long_as_the_last_ones_were() -> None:
    queue = FairQueue(most_credit=0)
    queue.arrive("a", 1, prompt_tokens=0, is_whole=True, now_s=0.0)
    (first,) = queue.admit(Room(1.0, 0.0), 0.0)
    queue.end(first, (0, 0, 50))
    assert first.flow.counter == 100
    queue.arrive("a", 1, prompt_tokens=0, is_whole=True, now_s=0.0)
    (second,) = queue.admit(Room(1.0, 0.0), 0.0)
    assert second.flow.counter == 200
    queue.end(second, (0, 0, 10))
    assert second.flow.counter == 120


def test_what_no_engine_counted_stays_as_it_was_charged() -> None:
    queue = FairQueue(most_credit=0)
    ticket = ask(queue, "a", 30)
    queue.admit(Room(1.0, 0.0), 0.0)
    queue.end(ticket, None)
    assert ticket.flow.counter == 30
    assert (queue.running, queue.waiting) == (0, 0)


def test_a_flow_with_less_than_its_part_finds_a_reserve_and_others_leave_it() -> None:
    queue = FairQueue(most_credit=0)
    room = Room(10.0, 1.0)
    ask(queue, "small")
    queue.end(queue.admit(room, 0.0)[0], None)
    for _ in range(20):
        ask(queue, "large")
    assert len(queue.admit(room, 0.0)) == 10
    ticket = ask(queue, "small")
    assert queue.admit(room, 0.0) == [ticket]


def test_a_pool_that_one_flow_has_to_itself_keeps_no_reserve() -> None:
    queue = FairQueue()
    ask(queue, "gone", now_s=0.0)
    queue.end(queue.admit(Room(1.0, 0.0), 0.0)[0], None)
    for _ in range(20):
        ask(queue, "only", now_s=RECENT_S + 1)
    assert len(queue.admit(Room(10.0, 1.0), RECENT_S + 1)) == 11


def test_a_flow_may_let_only_so_many_wait() -> None:
    queue, limits = FairQueue(), QueueLimits(max_waiting=10, max_per_flow=2)
    for _ in range(2):
        queue.arrive("a", 1, prompt_tokens=1, is_whole=False, now_s=0.0, limits=limits)
    with pytest.raises(QueueFull) as full:
        queue.arrive("a", 1, prompt_tokens=1, is_whole=False, now_s=0.0, limits=limits)
    assert full.value.of_flow
    assert full.value.retry_after_s == UNKNOWN_WAIT_S
    queue.arrive("b", 1, prompt_tokens=1, is_whole=False, now_s=0.0, limits=limits)


def test_nobody_closes_a_full_queue_to_others() -> None:
    queue, limits = FairQueue(), QueueLimits(max_waiting=4, max_per_flow=4)
    greedy = [queue.arrive("a", 1, prompt_tokens=1, is_whole=False, now_s=0.0, limits=limits)[0] for _ in range(4)]
    _, pushed = queue.arrive("b", 1, prompt_tokens=1, is_whole=False, now_s=0.0, limits=limits)
    assert pushed is greedy[-1]
    assert queue.waiting == 4
    with pytest.raises(QueueFull) as full:
        queue.arrive("a", 1, prompt_tokens=1, is_whole=False, now_s=0.0, limits=limits)
    assert not full.value.of_flow


def test_when_to_come_back_follows_from_the_pace_and_the_part_of_the_flow() -> None:
    queue = FairQueue(most_credit=0)
    for _ in range(40):
        ask(queue, "a", weight=3)
        ask(queue, "b", weight=1)
    for second in range(21):
        send_one(queue, now_s=second / 2)
    waiting = [ticket for ticket in queue.get_waiting() if ticket.flow.id == "b"]
    assert queue.estimate_wait_s(waiting[0].flow) == pytest.approx((len(waiting) + 1) / (2 * 1 / 4))


def test_idle_flows_are_forgotten_and_busy_ones_never() -> None:
    queue = FairQueue(max_flows=3)
    kept = ask(queue, "waits")
    for number in range(50):
        queue.leave(ask(queue, f"guest {number}"))
    assert len(queue._flows) <= 3
    assert ask(queue, "waits").flow is kept.flow


@dataclass
class Pool:
    """Sequences that generate a token each step, as engines do."""

    queue: FairQueue
    size: int
    running: dict[Ticket, int] = field(default_factory=dict)
    """Tokens left."""
    service: dict[str, float] = field(default_factory=dict)
    outputs: dict[Ticket, int] = field(default_factory=dict)

    def step(self) -> None:
        for ticket in self.queue.admit(Room(float(self.size), 0.0), 0.0):
            self.running[ticket] = self.outputs[ticket]
            self._serve(ticket, COSTS.input * ticket.prompt_tokens)
        for ticket, left in list(self.running.items()):
            self._serve(ticket, COSTS.output)
            done = self.outputs[ticket] - left + 1
            self.queue.progress(ticket, done)
            self.running[ticket] = left - 1
            if left == 1:
                del self.running[ticket]
                self.queue.end(ticket, (ticket.prompt_tokens, 0, self.outputs[ticket]))

    def _serve(self, ticket: Ticket, service: float) -> None:
        flow = ticket.flow
        self.service[flow.id] = self.service.get(flow.id, 0.0) + service / flow.weight


SIZES = st.tuples(st.integers(1, 60), st.integers(1, 40))
"""Tokens of a prompt and of its answer."""
ARRIVALS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc"), SIZES), min_size=20, max_size=150)


@settings(max_examples=150, deadline=None)
@given(ARRIVALS, st.integers(1, 6), st.sampled_from([0.0, 50.0]), st.tuples(*[st.sampled_from([1.0, 3.0])] * 3))
def test_backlogged_flows_differ_by_no_more_than_the_bound(
    arrivals: list[tuple[int, str, tuple[int, int]]], size: int, credit: float, weights: tuple[float, float, float]
) -> None:
    pool = Pool(FairQueue(COSTS, most_credit=credit), size)
    weight = dict(zip("abc", weights, strict=True))
    bound = 2 * max(COSTS.input * 60, COSTS.output * size * (60 + 40)) + credit
    ranges: dict[str, tuple[float, float]] = {}
    for pause, flow, (prompt, output) in [*arrivals, *[(1, "", (0, 0))] * 200]:
        if flow:
            ticket, _ = pool.queue.arrive(flow, weight[flow], prompt_tokens=prompt, is_whole=False, now_s=0.0)
            pool.outputs[ticket] = output
        for _ in range(pause):
            pool.step()
            waiting = {ticket.flow.id for ticket in pool.queue.get_waiting()}
            for pair in ("ab", "ac", "bc"):
                if not set(pair) <= waiting:
                    ranges.pop(pair, None)
                    continue
                difference = pool.service.get(pair[0], 0.0) - pool.service.get(pair[1], 0.0)
                low, high = ranges.get(pair, (difference, difference))
                ranges[pair] = min(low, difference), max(high, difference)
                assert ranges[pair][1] - ranges[pair][0] <= bound


@settings(max_examples=100, deadline=None)
@given(ARRIVALS, st.integers(1, 6))
def test_every_request_is_sent_and_no_place_is_lost(
    arrivals: list[tuple[int, str, tuple[int, int]]], size: int
) -> None:
    pool = Pool(FairQueue(COSTS), size)
    for pause, flow, (prompt, output) in arrivals:
        ticket, _ = pool.queue.arrive(flow, 1.0, prompt_tokens=prompt, is_whole=False, now_s=0.0)
        pool.outputs[ticket] = output
        for _ in range(pause):
            pool.step()
            assert len(pool.running) <= size
            assert pool.queue.waiting == 0 or pool.queue.running <= size
    for _ in range(150 * 40):
        pool.step()
    assert (pool.queue.waiting, pool.queue.running) == (0, 0)
    assert not any(ticket.is_waiting for ticket in pool.outputs)


def test_a_small_flow_is_served_soon_whatever_a_large_one_piles_up() -> None:
    queue = FairQueue(most_credit=0)
    for _ in range(200):
        ask(queue, "large", 100)
    for _ in range(10):
        send_one(queue)
    ask(queue, "small", 100)
    assert "small" in [send_one(queue) for _ in range(2)]


@pytest.mark.parametrize("tokens", [10, 50, 400])
def test_a_newcomer_is_ahead_by_a_few_requests_however_small_they_are(tokens: int) -> None:
    queue = FairQueue(most_credit=1e9)
    for _ in range(200):
        _, _ = queue.arrive("old", 1.0, prompt_tokens=0, is_whole=False, now_s=0.0)
        (ticket,) = queue.admit(Room(1.0, 0.0), 0.0)
        queue.end(ticket, (0, 0, tokens))
    for name in ("old", "new"):
        for _ in range(100):
            queue.arrive(name, 1.0, prompt_tokens=0, is_whole=False, now_s=0.0)
    served: list[str] = []
    for _ in range(60):
        (ticket,) = queue.admit(Room(1.0, 0.0), 0.0)
        served.append(ticket.flow.id)
        queue.end(ticket, (0, 0, tokens))
    assert served.count("new") - served.count("old") == pytest.approx(CREDIT_REQUESTS, abs=2)


def test_what_was_charged_before_a_lift_is_not_given_back_after_it() -> None:
    queue = FairQueue(most_credit=0)
    refused = ask(queue, "saves", 1000)
    queue.admit(Room(1.0, 0.0), 0.0)
    for _ in range(3):
        ask(queue, "busy", 1000)
    for _ in range(2):
        send_one(queue)
    later = ask(queue, "saves", 500)
    assert later.flow.counter == 3000
    queue.admit(Room(queue.running + 1.0, 0.0), 0.0)
    before = later.flow.counter
    queue.end(refused, (0, 0, 0))
    assert later.flow.counter == before


def test_what_was_charged_after_a_lift_is_given_back() -> None:
    queue = FairQueue(most_credit=0)
    for _ in range(3):
        ask(queue, "busy", 1000)
    send_one(queue)
    ticket = ask(queue, "a", 500)
    queue.end(queue.admit(Room(1.0, 0.0), 0.0)[0], (0, 0, 0))
    before = ticket.flow.counter
    queue.admit(Room(1.0, 0.0), 0.0)
    queue.end(ticket, (0, 0, 0))
    assert ticket.flow.counter == before


def test_a_pool_without_generated_tokens_gives_credit_too() -> None:
    queue = FairQueue()
    for _ in range(5):
        ask(queue, "old", 10)
        queue.end(queue.admit(Room(1.0, 0.0), 0.0)[0], (10, 0, 0))
    assert ask(queue, "new").flow.counter == pytest.approx(50 - CREDIT_REQUESTS * 10)
