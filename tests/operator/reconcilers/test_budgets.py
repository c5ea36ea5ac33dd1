"""Tokens in the status of Tenants: told by gateways, written now and then."""

from __future__ import annotations

from typing import Any

from llmos.api.load import GatewayLoad, MonthTokens, TokenUse
from llmos.api.tenancy import build_account
from llmos_operator.kube.resources import TENANTS
from llmos_operator.planning.token_months import MOST_GATEWAYS
from llmos_operator.reconcilers.budget_board import FRESH_S, NEWS_S
from llmos_operator.reconcilers.keys import Key
from tests.operator.reconcilers.tenants import surroundings
from tests.operator.reconcilers.test_tenant import tenant
from tests.operator.reconcilers.world import World

ACME = Key("Tenant", "", "acme")


class Told:
    """A world with one tenant, and what its board says is news."""

    def __init__(self, **tokens: Any) -> None:
        self.world = World(tenant("acme", "team-a", tokens=tokens), *surroundings("team-a"))
        self.news: list[Key] = []
        self.world.context.budgets.on_news = self.news.append
        (stored,) = self.world.kube.all(TENANTS)
        self.account = build_account("acme", stored["metadata"]["uid"])

    def tell(self, used: int, gateway: str = "g1") -> None:
        now = self.world.time
        day = now.replace(hour=0, minute=0, second=0, microsecond=0)
        uses = (TokenUse(window="day", start_s=int(day.timestamp()), used=used),)
        self.world.context.budgets.take(GatewayLoad(gateway=gateway, boot="b", tenants={self.account: uses}), now)

    def tell_month(self, output: int, boot: str = "b", *, account: str = "") -> None:
        now = self.world.time
        tokens = MonthTokens(month=now.strftime("%Y-%m"), input_tokens=3 * output, output_tokens=output)
        load = GatewayLoad(gateway=f"of-{boot}", boot=boot, months={account or self.account: tokens})
        self.world.context.budgets.take(load, now)

    async def read_month(self) -> dict[str, Any]:
        await self.reconcile()
        (stored,) = self.world.kube.all(TENANTS)
        month: dict[str, Any] = stored["status"].get("thisMonth", {})
        return month

    async def reconcile(self) -> list[dict[str, Any]]:
        await self.world.reconcile("Tenant", "acme", "")
        (stored,) = self.world.kube.all(TENANTS)
        tokens: list[dict[str, Any]] = stored["status"].get("tokens", [])
        return tokens


async def test_a_tenant_with_limits_says_what_it_has_used() -> None:
    told = Told(perDay="1k", perMinute="100")
    assert await told.reconcile() == []
    assert told.world.context.budgets.is_needed()
    told.tell(300)
    assert told.news == [ACME]
    minute, day = await told.reconcile()
    assert (minute["window"], minute["limit"], "resetsAt" in minute) == ("minute", 100, False)
    assert (day["used"], day["limit"]) == (300, 1000)
    assert day["resetsAt"].endswith("T00:00:00Z")


async def test_what_changes_all_the_time_is_written_now_and_then_and_what_rests_is_not() -> None:
    told = Told(perDay="1k")
    await told.reconcile()
    for used in range(1, int(NEWS_S)):
        told.tell(used)
        told.world.pass_time(1)
        if used == 1:
            await told.reconcile()
    assert told.news == [ACME]
    told.world.pass_time(2)
    told.tell(77)
    assert told.news == [ACME, ACME]
    (day,) = await told.reconcile()
    assert day["used"] == 77
    told.world.kube.forget_writes()
    for _ in range(300):
        told.world.pass_time(1)
        told.tell(77)
    await told.reconcile()
    assert told.news == [ACME, ACME]
    assert told.world.kube.writes == []


async def test_a_gateway_that_is_gone_takes_what_it_counted_alone_with_it() -> None:
    told = Told(perDay="1k")
    told.tell(10, "g1")
    told.tell(20, "g2")
    assert (await told.reconcile())[0]["used"] == 30
    told.world.pass_time(FRESH_S + 1)
    assert (await told.reconcile())[0]["used"] == 30
    told.tell(20, "g2")
    assert (await told.reconcile())[0]["used"] == 20


async def test_limits_that_are_taken_away_leave_the_status() -> None:
    told = Told(perDay="1k")
    told.tell(10)
    assert await told.reconcile()
    (stored,) = told.world.kube.all(TENANTS)
    told.world.kube.put({**stored, "spec": {"namespaces": ["team-a"]}})
    assert not await told.reconcile()


async def test_a_new_leader_keeps_what_is_written_until_a_gateway_tells() -> None:
    told = Told(perDay="1k")
    told.tell(10)
    await told.reconcile()
    told.world.context.budgets.clear()
    told.world.kube.forget_writes()
    assert (await told.reconcile())[0]["used"] == 10
    assert told.world.kube.writes == []
    told.world.pass_time(2)
    told.tell(10)
    assert told.news == [ACME]


async def test_a_tenant_without_limits_says_what_it_used_this_month_too() -> None:
    told = Told()
    assert (await told.read_month())["outputTokens"] == 0
    assert told.world.context.budgets.is_needed()
    told.tell_month(100)
    assert told.news == [ACME]
    month = await told.read_month()
    assert (month["inputTokens"], month["outputTokens"]) == (300, 100)
    assert month["month"] == told.world.time.strftime("%Y-%m")
    told.world.kube.forget_writes()
    await told.reconcile()
    assert told.world.kube.writes == []


async def test_tokens_of_the_month_are_counted_once_over_ends_of_gateways_and_operators() -> None:
    told = Told()
    told.tell_month(100, "first")
    await told.reconcile()
    told.tell_month(130, "first")
    told.world.pass_time(2 * NEWS_S)
    told.tell_month(5, "second")
    assert (await told.read_month())["outputTokens"] == 135, "what one told that is gone since counts"
    told.world.context.budgets.clear()
    told.tell_month(8, "second")
    assert (await told.read_month())["outputTokens"] == 138, "a new operator goes on from there"


async def test_what_gateways_of_an_older_version_tell_by_name_alone_counts_during_the_upgrade() -> None:
    told = Told()
    told.tell_month(100, "older", account="acme")
    told.tell_month(5, "newer")
    assert (await told.read_month())["outputTokens"] == 105
    told.world.pass_time(2 * NEWS_S)
    told.tell_month(130, "older", account="acme")
    told.tell_month(8, "newer")
    assert (await told.read_month())["outputTokens"] == 138
    told.tell_month(1000, "older", account="acme-2")
    assert (await told.read_month())["outputTokens"] == 138, "that is another tenant"


async def test_a_tenant_made_anew_under_the_same_name_is_charged_nothing_of_the_old_one() -> None:
    told = Told(perDay="1k")
    told.tell(300)
    told.tell_month(100)
    assert (await told.read_month())["outputTokens"] == 100
    await told.world.kube.delete(TENANTS, "acme")
    told.world.kube.finish_deletion(TENANTS, "acme")
    told.world.kube.put(tenant("acme", "team-a", tokens={"perDay": "1k"}))
    told.tell(300)
    told.tell_month(100)
    assert (await told.read_month()).get("outputTokens", 0) == 0
    assert (await told.reconcile())[0]["used"] == 0


async def test_a_new_leader_counts_a_quiet_gateway_once_however_many_others_status_remembers() -> None:
    told = Told()
    told.tell_month(1000, "quiet")
    await told.reconcile()
    for number in range(MOST_GATEWAYS - 1):
        told.tell_month(1, f"gone-{number}")
    told.world.pass_time(2 * NEWS_S)
    assert (await told.read_month())["outputTokens"] == 1000 + MOST_GATEWAYS - 1
    told.world.context.budgets.clear()
    told.tell_month(7, "new")
    await told.reconcile()
    told.tell_month(1000, "quiet")
    assert (await told.read_month())["outputTokens"] == 1000 + MOST_GATEWAYS - 1, (
        "there is no room that is safe to take"
    )
    told.news.clear()
    told.world.pass_time(NEWS_S + 1)
    for boot, output in (("new", 7), ("quiet", 1000)):
        told.tell_month(output, boot)
    assert told.news == [ACME]
    assert (await told.read_month())["outputTokens"] == 1000 + MOST_GATEWAYS - 1 + 7
