"""What a tenant's budget means in the ledger's units, and what a request reserves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmos.api.tenant import TokenBudget, TokenCost
from llmos_gateway.limits import MILLI, Terms, build_quote, build_terms
from llmos_gateway.limits.quotes import STEP_TOKENS
from llmos_gateway.protocol.usage import Usage
from llmos_gateway.tenants import build_budget

COSTS = Terms(minute=10**9, input_cost=1000, cached_cost=100, output_cost=4000)


def test_a_budget_is_counted_in_thousandths_of_its_tokens() -> None:
    terms = build_terms(build_budget(TokenBudget(per_minute="200k", max_concurrency=3, mode="shadow")))
    assert (terms.minute, terms.day, terms.concurrency, terms.is_enforced) == (200_000_000, None, 3, False)
    assert (terms.input_cost, terms.cached_cost, terms.output_cost) == (1000, 100, 4000)
    assert not build_terms(build_budget(TokenBudget())).is_limited
    assert build_terms(build_budget(TokenBudget(per_month="9999999T"))).month is None


@given(st.integers(0, 1000))
def test_a_cost_is_what_it_says_to_a_thousandth(milli: int) -> None:
    cost = TokenCost(cached=milli / 1000)
    assert build_terms(build_budget(TokenBudget(cost=cost))).cached_cost == milli


def test_cached_tokens_count_less_and_are_a_part_of_the_prompt() -> None:
    assert COSTS.weigh(Usage(100, 10, 60)) == 40 * 1000 + 60 * 100 + 10 * 4000
    assert COSTS.weigh(Usage(10, 0, 60)) == 10 * 100


@given(st.integers(0, 2**64), st.integers(0, 2**64), st.integers(0, 2**64))
def test_whatever_an_engine_counts_is_a_number_that_sums_stay_exact_with(prompt: int, cached: int, out: int) -> None:
    dear = Terms(input_cost=10**6, cached_cost=10**6, output_cost=10**6)
    assert 0 <= dear.weigh(Usage(prompt, out, cached)) < 2**53


def test_gateways_that_know_nothing_of_each_other_share_a_budget() -> None:
    part = Terms(minute=1000, month=999, concurrency=2).share(4)
    assert (part.minute, part.day, part.month, part.concurrency) == (250, None, 249, 1)


def test_a_request_that_says_how_long_its_answers_may_be_reserves_all_of_it() -> None:
    quote = build_quote(COSTS, prompt_tokens=100, choices=3, answer_tokens=50, is_stream=False)
    assert (quote.least, quote.most, quote.step) == (700_000, 700_000, 0)
    assert quote.find_cap(quote.least) is None


def test_an_answer_is_no_longer_than_the_context() -> None:
    quote = build_quote(COSTS, prompt_tokens=0, choices=1, answer_tokens=10**9, is_stream=False, context_tokens=1000)
    assert quote.most == 1000 * 4 * MILLI


def test_an_open_stream_begins_with_little() -> None:
    quote = build_quote(COSTS, prompt_tokens=100, choices=2, answer_tokens=None, is_stream=True, context_tokens=8192)
    assert (quote.least, quote.most) == (108_000, 100_000 + 2 * 4000 * STEP_TOKENS)
    assert quote.step == 2 * 4000 * STEP_TOKENS
    assert quote.find_cap(quote.least) is None


def test_an_open_whole_answer_is_cut_to_what_is_left() -> None:
    quote = build_quote(COSTS, prompt_tokens=100, choices=2, answer_tokens=None, is_stream=False, context_tokens=1100)
    assert quote.find_cap(quote.most) is None
    assert quote.find_cap(100_000 + 2 * 4000 * 7 + 3999) == 7
    # No more than the context has room for, or the engine refuses it.
    assert quote.find_cap(quote.most - 1) == 1000


@given(estimate=st.integers(1, 1000), prompt=st.integers(1, 1000), choices=st.integers(1, 4))
def test_an_answer_that_nobody_cuts_has_reserved_all_of_the_context(estimate: int, prompt: int, choices: int) -> None:
    prompt = min(prompt, estimate)
    quote = build_quote(
        COSTS, prompt_tokens=estimate, choices=choices, answer_tokens=None, is_stream=False, context_tokens=1001
    )
    assert COSTS.weigh(Usage(prompt, choices * (1001 - prompt))) <= quote.most


def test_where_generated_tokens_count_nothing_an_answer_is_as_long_as_it_likes() -> None:
    free = Terms(minute=100, output_cost=0)
    quote = build_quote(free, prompt_tokens=1, choices=1, answer_tokens=None, is_stream=True)
    assert (quote.least, quote.most, quote.step) == (1000, 1000, 0)


@given(st.integers(0, 10**30), st.integers(1, 10**30), st.one_of(st.none(), st.integers(0, 10**30)), st.booleans())
def test_whatever_is_asked_for_is_a_number_that_sums_stay_exact_with(
    prompt: int, choices: int, answer: int | None, stream: bool
) -> None:
    quote = build_quote(COSTS, prompt_tokens=prompt, choices=choices, answer_tokens=answer, is_stream=stream)
    assert 0 <= quote.least <= quote.most <= 2**45
    assert quote.step <= 2**45
