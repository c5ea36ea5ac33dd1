"""Tokens of the month in a Tenant's status: each gateway's count once, whatever ends or begins anew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from llmos.api.load import MonthTokens
from llmos.api.tenant import MonthlyUsage
from llmos_operator.planning.token_months import MOST_GATEWAYS, add_tokens

NOW = datetime(2026, 11, 30, 23, 59, tzinfo=UTC)
NEXT_MONTH = NOW + timedelta(minutes=2)


def told(output: int, *, month: str = "2026-11", input_tokens: int = 0, cached: int = 0) -> MonthTokens:
    return MonthTokens(month=month, input_tokens=input_tokens, cached_tokens=cached, output_tokens=output)


def test_what_gateways_tell_is_added_up_and_not_twice() -> None:
    usage = add_tokens(MonthlyUsage(), {"a": told(10, input_tokens=7, cached=2), "b": told(5)}, NOW)
    assert (usage.month, usage.input_tokens, usage.cached_tokens, usage.output_tokens) == ("2026-11", 7, 2, 15)
    assert add_tokens(usage, {"a": told(10, input_tokens=7, cached=2), "b": told(5)}, NOW) == usage
    assert add_tokens(usage, {"a": told(12, input_tokens=7, cached=2)}, NOW).output_tokens == 17


def test_who_used_nothing_changes_nothing() -> None:
    assert add_tokens(MonthlyUsage(), {}, NOW) == MonthlyUsage()
    known = MonthlyUsage(month="2026-11", gpu_seconds=7)
    assert add_tokens(known, {"a": told(0)}, NOW) is known


def test_a_month_begins_with_nothing_and_nobody_is_charged_in_it_for_the_last_one() -> None:
    usage = add_tokens(MonthlyUsage(month="2026-11", gpu_seconds=7), {"a": told(10)}, NOW)
    assert usage.gpu_seconds == 7, "what others count in it stays"
    assert add_tokens(usage, {"a": told(11)}, NEXT_MONTH) == usage, (
        "a gateway that tells of the last month tells nothing"
    )
    new = add_tokens(usage, {"a": told(3, month="2026-12")}, NEXT_MONTH)
    assert (new.month, new.output_tokens, new.gpu_seconds) == ("2026-12", 3, 0)


def test_as_many_gateways_as_there_is_room_for_and_those_that_live_are_kept() -> None:
    usage = add_tokens(MonthlyUsage(), {"alive": told(1)}, NOW)
    for number in range(MOST_GATEWAYS + 3):
        usage = add_tokens(usage, {f"g{number}": told(1)}, NOW, alive={"alive", f"g{number}"})
    assert len(usage.gateways) == MOST_GATEWAYS
    assert {"alive", f"g{MOST_GATEWAYS + 2}"} <= {each.boot for each in usage.gateways}
    assert usage.output_tokens == MOST_GATEWAYS + 4


def test_one_that_told_early_and_is_told_of_still_is_not_added_again() -> None:
    counts = {"quiet": told(1000)}
    usage = add_tokens(MonthlyUsage(), counts, NOW)
    for number in range(MOST_GATEWAYS + 20):
        counts[f"g{number}"] = told(10)
        recent = dict([("quiet", counts["quiet"]), *list(counts.items())[-MOST_GATEWAYS + 1 :]])
        usage = add_tokens(usage, recent, NOW)
    assert usage.output_tokens == 1000 + 10 * (MOST_GATEWAYS + 20)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.booleans()), max_size=40))
def test_however_often_it_is_written_or_not_the_sum_is_what_was_counted(history: list[tuple[str, int, bool]]) -> None:
    counted = dict.fromkeys("abc", 0)
    usage = MonthlyUsage()
    for boot, used, is_written in history:
        counted[boot] += used
        if is_written:  # Whoever writes may be another operator each time: it knows nothing but the status.
            usage = add_tokens(usage, {name: told(count) for name, count in counted.items()}, NOW)
            assert usage.output_tokens == sum(counted.values())
