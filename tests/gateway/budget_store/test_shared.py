"""Several gateways with one account on a real server: together, cut off, killed, and while the server is away."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from redis import Redis

from llmos_gateway.budget_store import StoreAwayError, Tab, shared
from llmos_gateway.budget_store.shared import SharedStore
from llmos_gateway.limits import Quote, Refused, Terms
from tests.gateway.redis_server import Server

TERMS = Terms(month=1000)


@asynccontextmanager
async def open_store(
    server: Server, *, gateways: int = 1, away_s: float = 30.0, lease_s: float = 20.0
) -> AsyncIterator[SharedStore]:
    """The store of one gateway, at work."""
    store = SharedStore(server.url, away_s=away_s, lease_s=lease_s)
    store.gateways = gateways
    running = asyncio.create_task(store.run())
    try:
        yield store
        assert not running.done(), running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()


async def reserve(store: SharedStore, amount: int, most: int = 0, terms: Terms = TERMS) -> Tab | Refused:
    outcome = await store.open("acme", terms, Quote(amount, max(amount, most)))
    return outcome if isinstance(outcome, Refused) else outcome[0]


async def granted(store: SharedStore, amount: int, most: int = 0) -> Tab:
    tab = await reserve(store, amount, most)
    assert isinstance(tab, Tab)
    return tab


def read(server: Server) -> tuple[int, int]:
    """What the server says is used and reserved in the month."""
    with Redis(port=server.port, decode_responses=True) as client:
        used, held = client.hmget("llmos:budget:{acme}:counters", ["month.used", "month.held"])
    return int(used or 0), int(held or 0)


async def wait_for(server: Server, used: int, held: int = 0, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while read(server) != (used, held):  # noqa: ASYNC110 - another program's state
            await asyncio.sleep(0.02)


async def test_two_hundred_at_once_over_four_gateways_on_a_budget_for_ten(server: Server) -> None:
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_store(server, gateways=4)) for _ in range(4)]
        asked = await asyncio.gather(*(reserve(stores[number % 4], 100) for number in range(200)))
        tabs = [(stores[number % 4], tab) for number, tab in enumerate(asked) if isinstance(tab, Tab)]
        assert len(tabs) == 10
        assert read(server) == (1000, 1000)
        for store, tab in tabs:
            store.settle(tab, 30)
        await wait_for(server, 300)


async def test_a_refund_is_there_before_the_next_request_of_the_gateway_asks(server: Server) -> None:
    async with open_store(server) as store:
        for _ in range(50):
            tab = await granted(store, 1000)
            store.settle(tab, 0)


async def test_a_restart_of_all_gateways_and_of_the_server_forgets_nothing(server: Server) -> None:
    async with open_store(server) as store:
        store.settle(await granted(store, 900), 800)
    server.kill()
    server.start()
    async with open_store(server) as store:
        assert isinstance(await reserve(store, 300), Refused)
        assert isinstance(await reserve(store, 200), Tab)


async def test_a_server_that_has_forgotten_the_script_is_told_it_again(server: Server) -> None:
    async with open_store(server) as store:
        first = await granted(store, 100)
        with Redis(port=server.port) as client:
            client.script_flush()
        second = await granted(store, 100)
        store.settle(first, 10)
        store.settle(second, 20)
        await wait_for(server, 30)


async def test_a_caller_that_leaves_while_it_is_being_reserved_holds_nothing(server: Server) -> None:
    async with open_store(server) as store:
        await granted(store, 1)
        for turns in range(6):
            asking = asyncio.create_task(reserve(store, 100))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await wait_for(server, 1, 1)


async def test_a_stream_that_grows_is_charged_for_all_of_it(server: Server) -> None:
    async with open_store(server) as store:
        tab = await granted(store, 10, 100)
        for spent in range(80, 400, 80):
            tab.spent = spent
            assert await store.grow(tab, 1, 100) is None
            assert read(server) == (spent + 100, 100)
        store.settle(tab, 333)
        await wait_for(server, 333)


_GATEWAY = """
import asyncio, sys
from llmos_gateway.budget_store import shared
from llmos_gateway.budget_store.shared import SharedStore
from llmos_gateway.limits import Quote, Terms

async def main():
    store = SharedStore(sys.argv[1], lease_s=2.0)
    asyncio.create_task(store.run())
    tab, _ = await store.open("acme", Terms(month=1000), Quote(600, 600))
    for spent in range(1, 10_000):
        tab.spent = min(spent, 500)
        print(tab.spent, flush=True)
        await asyncio.sleep(0.01)

asyncio.run(main())
"""


async def test_a_gateway_that_is_killed_pays_for_what_it_told_last_and_its_reservation_comes_back(
    server: Server,
) -> None:
    program = (sys.executable, "-c", _GATEWAY, server.url)
    gateway = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE)
    await wait_for(server, 600, 600)
    await asyncio.sleep(2.5)
    gateway.kill()
    told = (await gateway.communicate())[0].split()
    async with open_store(server) as store:
        assert isinstance(await reserve(store, 500), Refused)
        async with asyncio.timeout(10):
            while isinstance(tab := await reserve(store, 500), Refused):  # noqa: ASYNC110 - another program's lease
                await asyncio.sleep(0.1)
        store.settle(tab, 0)
        await asyncio.sleep(0.1)
    used, held = read(server)
    assert held == 0
    # It told every second.
    assert max(0, int(told[-1]) - 150) <= used <= int(told[-1])
    assert used > 0


async def test_a_long_answer_keeps_its_reservation(server: Server) -> None:
    async with open_store(server, lease_s=2.0) as store:
        tab = await granted(store, 600)
        await asyncio.sleep(4)
        assert isinstance(await reserve(store, 500), Refused)
        store.settle(tab, 5)
        await wait_for(server, 5)


async def test_while_the_server_is_away_requests_go_on_by_what_was_known(server: Server) -> None:
    async with open_store(server, gateways=2) as store:
        store.settle(await granted(store, 400), 400)
        stream = await granted(store, 10, 100)
        stream.spent = 60
        server.kill()
        # Of the 500 that are left, this one of two gateways has 250.
        began_s = time.monotonic()
        tabs = [await reserve(store, 100) for _ in range(4)]
        assert time.monotonic() - began_s < 3
        assert [isinstance(tab, Tab) for tab in tabs] == [True, True, False, False]
        assert await store.grow(stream, 1, 40) is None
        for tab in tabs:
            if isinstance(tab, Tab):
                store.settle(tab, 90)
        stream.spent = 95
        server.start()
        await wait_for(server, 400 + 2 * 90 + 60)
        async with asyncio.timeout(10):
            while store._outage is not None:  # noqa: ASYNC110 - it notices by itself
                await asyncio.sleep(0.02)
        # Back in the store, with what it has used meanwhile.
        assert await store.grow(stream, 1, 100) is None
        await wait_for(server, 400 + 2 * 90 + 95 + 100, 100)
        store.settle(stream, 120)
        await wait_for(server, 400 + 2 * 90 + 120)


async def test_after_a_time_without_the_server_nobody_is_let_in(server: Server) -> None:
    async with open_store(server, away_s=0.3) as store:
        tab = await granted(store, 10)
        server.kill()
        assert isinstance(await reserve(store, 1), Tab)
        await asyncio.sleep(0.5)
        with pytest.raises(StoreAwayError, match=r"longer than 0\.3 s"):
            await reserve(store, 1)
        store.settle(tab, 7)
        server.start()
        await wait_for(server, 7)
        async with asyncio.timeout(10):
            while store._outage is not None:  # noqa: ASYNC110 - it notices by itself
                await asyncio.sleep(0.02)
        assert isinstance(await reserve(store, 1), Tab)


async def test_a_server_that_was_never_there_is_away(server: Server) -> None:
    server.kill()
    async with open_store(server, gateways=4) as store:
        assert isinstance(await reserve(store, 250), Tab)
        assert isinstance(await reserve(store, 1), Refused)


async def test_a_server_that_hangs_is_away(server: Server) -> None:
    async with open_store(server) as store:
        await granted(store, 10)
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        try:
            began_s = time.monotonic()
            assert isinstance(await reserve(store, 10), Tab)
            assert time.monotonic() - began_s < 5
        finally:
            server.process.send_signal(signal.SIGCONT)


async def test_it_ends_when_it_is_told_to_also_on_a_round_trip_and_tells_the_rest(server: Server) -> None:
    for turns in range(8):
        store = SharedStore(server.url)
        running = asyncio.create_task(store.run())
        tabs = [await granted(store, 1) for _ in range(20)]
        for tab in tabs:
            store.settle(tab, 1)
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        done, _ = await asyncio.wait({running}, timeout=2)
        assert done
        await asyncio.wait_for(store.close(), 3)
        assert read(server) == ((turns + 1) * 20, 0)


async def test_a_server_that_takes_no_writes_is_away_until_it_takes_them(server: Server) -> None:
    async with open_store(server, away_s=1.0) as store:
        await granted(store, 100)
        with Redis(port=server.port) as client:
            before = find_clients(client)
            client.replicaof("127.0.0.1", "1")
            assert isinstance(await reserve(store, 600), Tab)
            await asyncio.sleep(0.5)
            # The same outage: what it has granted is gone.
            assert isinstance(await reserve(store, 600), Refused)
            assert before
            assert not find_clients(client) & before, "a failover would never be noticed"
            await asyncio.sleep(0.6)
            with pytest.raises(StoreAwayError):
                await reserve(store, 1)
            client.replicaof("NO", "ONE")
        async with asyncio.timeout(10):
            while store._outage is not None:  # noqa: ASYNC110 - it notices by itself
                await asyncio.sleep(0.02)
        assert isinstance(await reserve(store, 1), Tab)


async def test_what_a_server_refuses_for_long_is_told_when_it_takes_writes_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "MAX_REFUSALS", 2)
    async with open_store(server) as store:
        tab = await granted(store, 100)
        with Redis(port=server.port) as client:
            client.replicaof("127.0.0.1", "1")
            store.settle(tab, 70)
            await asyncio.sleep(1.2)
            client.replicaof("NO", "ONE")
        await wait_for(server, 70)


async def test_a_step_that_a_server_never_does_holds_up_no_others(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "MAX_REFUSALS", 3)
    async with open_store(server) as store:
        with Redis(port=server.port) as client:
            client.set("llmos:budget:{broken}:counters", "no hash")
        store.settle(Tab("1", "broken", TERMS, 10), 10)
        store.settle(await granted(store, 100), 70)
        async with asyncio.timeout(10):
            while store._outage is not None or store._steps:  # noqa: ASYNC110 - it gives up by itself
                await asyncio.sleep(0.02)
        assert read(server) == (70, 0)


def find_clients(client: Redis) -> set[str]:
    own = client.client_id()
    return {other["id"] for other in client.client_list(_type="normal") if int(other["id"]) != own}


async def test_a_tenant_that_is_gone_is_forgotten_when_no_gateway_has_a_request_of_it(server: Server) -> None:
    async with open_store(server) as one, open_store(server) as other:
        one.settle(await granted(one, 100), 70)
        running = await granted(other, 100)
        one.forget("acme")
        other.forget("acme")
        await granted_elsewhere(one)
        assert read(server) == (170, 100)
        assert "acme" in one.read()
        other.settle(running, 10)
        await wait_for(server, 80)
        for store in (one, other):
            store.forget("acme")
            await granted_elsewhere(store)
            assert "acme" not in store.read()
        with Redis(port=server.port, decode_responses=True) as client:
            assert client.keys("llmos:budget:{acme}:*") == []


async def granted_elsewhere(store: SharedStore) -> None:
    """Reserve for another tenant: whatever was asked before is done then."""
    assert not isinstance(await store.open("other", TERMS, Quote(1, 1)), Refused)


async def test_a_gateway_that_never_heard_of_a_tenant_takes_its_keys_away_and_asks_once(server: Server) -> None:
    async with open_store(server) as one:
        one.settle(await granted(one, 100), 70)
        await wait_for(server, 70)
    async with open_store(server) as late:
        assert late.read() == {}
        for _ in range(3):
            late.forget("acme")
            await granted_elsewhere(late)
        with Redis(port=server.port, decode_responses=True) as client:
            assert client.keys("llmos:budget:{acme}:*") == []
            calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
            late.forget("acme")
            await granted_elsewhere(late)
            assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == calls + 1, "nothing was left to drop"
        late.settle(await granted(late, 100), 70)
        await wait_for(server, 70)
        late.forget("acme")
        await granted_elsewhere(late)
        with Redis(port=server.port, decode_responses=True) as client:
            assert client.keys("llmos:budget:{acme}:*") == []
