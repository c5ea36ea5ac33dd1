"""Who gets which connection to a replica, and when they are opened and closed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from llmos_gateway.proxy.engine_connection import BrokenError, EngineConnection
from llmos_gateway.proxy.engine_pool import EnginePool
from tests.gateway.proxy.test_upstream import Replica, open_replica
from tests.gateway.raw import find_closed_port

HEAD = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n"


@asynccontextmanager
async def open_pool(*, most: int = 10, keepalive_s: float = 60.0, timeout_s: float = 5.0) -> AsyncIterator[EnginePool]:
    pool = EnginePool(max_per_address=most, keepalive_s=keepalive_s, connect_timeout_s=2.0, timeout_s=timeout_s)
    try:
        yield pool
    finally:
        pool.close()


async def use(connection: EngineConnection) -> None:
    await connection.ask(HEAD, b"{}")
    while await connection.read():
        pass


async def acquire_used(pool: EnginePool, replica: Replica) -> EngineConnection:
    connection = await pool.acquire(replica.address)
    await use(connection)
    return connection


async def test_the_connection_that_was_used_last_is_taken_first() -> None:
    async with open_replica() as replica, open_pool() as pool:
        first, second = [await acquire_used(pool, replica) for _ in range(2)]
        pool.release(second)
        pool.release(first)
        assert await pool.acquire(replica.address) is first
        assert await pool.acquire(replica.address) is second


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    async with open_replica() as replica, open_pool(keepalive_s=0.1) as pool:
        pool.release(await acquire_used(pool, replica))
        [serving] = replica.tasks
        assert serving is not None
        await asyncio.wait_for(serving, 5)


async def test_an_idle_connection_that_its_replica_closed_is_not_taken() -> None:
    async with open_replica() as replica, open_pool() as pool:
        connection = await acquire_used(pool, replica)
        pool.release(connection)
        replica.close_all()
        [serving] = replica.tasks
        assert serving is not None
        await asyncio.wait_for(serving, 5)
        await asyncio.sleep(0.01)
        assert await pool.acquire(replica.address) is not connection


async def test_a_connection_whose_answer_was_not_read_is_closed() -> None:
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"
    async with open_replica(begun) as replica, open_pool() as pool:
        connection = await pool.acquire(replica.address)
        await connection.ask(HEAD, b"{}")
        pool.release(connection)
        assert not connection.is_open
        assert await pool.acquire(replica.address) is not connection


async def test_who_waits_for_a_connection_gets_the_next_one_in_order_of_arrival() -> None:
    async with open_replica() as replica, open_pool(most=1) as pool:
        connection = await acquire_used(pool, replica)
        waiting = [asyncio.create_task(pool.acquire(replica.address)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        pool.release(connection)
        assert await waiting[1] is connection
        assert not waiting[2].done()
        # It ends without an answer that was read; the next one opens another one.
        pool.release(connection)
        assert await asyncio.wait_for(waiting[2], 5) is not connection
    assert len(replica.heads) == 2


@pytest.mark.parametrize("leaves_first", [False, True])
async def test_who_leaves_just_as_its_connection_comes_passes_it_on(leaves_first: bool) -> None:
    async with open_replica() as replica, open_pool(most=1) as pool:
        connection = await acquire_used(pool, replica)
        waiting = asyncio.create_task(pool.acquire(replica.address))
        await asyncio.sleep(0)
        if leaves_first:
            waiting.cancel()
        pool.release(connection)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await pool.acquire(replica.address) is connection


async def test_nobody_waits_for_a_connection_for_longer_than_may_be() -> None:
    async with open_replica() as replica, open_pool(most=1, timeout_s=0.05) as pool:
        connection = await acquire_used(pool, replica)
        with pytest.raises(TimeoutError):
            await pool.acquire(replica.address)
        pool.release(connection)
        assert await pool.acquire(replica.address) is connection


async def test_where_none_can_be_opened_the_next_one_may_try() -> None:
    address = f"127.0.0.1:{find_closed_port()}"
    async with open_pool(most=1) as pool:
        tries = await asyncio.gather(*(pool.acquire(address) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in tries] == [ConnectionRefusedError] * 3


async def test_a_connection_that_breaks_on_its_way_to_the_next_one_is_replaced() -> None:
    async with open_replica() as replica, open_pool(most=1) as pool:
        connection = await acquire_used(pool, replica)
        waiting = asyncio.create_task(pool.acquire(replica.address))
        await asyncio.sleep(0)
        pool.release(connection)
        connection.abort()
        replacement = await asyncio.wait_for(waiting, 5)
        assert replacement is not connection
        await use(replacement)


async def test_nothing_is_opened_after_the_end() -> None:
    async with open_replica() as replica, open_pool(most=2) as pool:
        connection = await acquire_used(pool, replica)
        opening, waiting = [asyncio.create_task(pool.acquire(replica.address)) for _ in range(2)]
        await asyncio.sleep(0)
        pool.close()
        pool.release(connection)
        for task in (opening, waiting, asyncio.create_task(pool.acquire(replica.address))):
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(task, 5)


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_is_left_of_requests_that_end_in_any_way(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  # reproducible draws

    async def ask(pool: EnginePool, address: str) -> None:
        connection = await pool.acquire(address)
        try:
            await use(connection)
            if chance.random() < 0.1:
                connection.abort()
        finally:
            pool.release(connection)

    outcomes: list[BaseException | None] = []
    async with open_replica() as replica, open_pool(most=3, keepalive_s=0.02, timeout_s=5) as pool:
        for _ in range(30):
            asking = [asyncio.create_task(ask(pool, replica.address)) for _ in range(12)]
            for _ in range(chance.randint(0, 12)):
                await asyncio.sleep(0)
                if chance.random() < 0.7:
                    chance.choice(asking).cancel()
            outcomes += await asyncio.gather(*asking, return_exceptions=True)
        async with asyncio.timeout(5):
            while pool.open_connections:  # noqa: ASYNC110 - what is waited for are timers and the kernel
                await asyncio.sleep(0.01)
    assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError, BrokenError}
    assert pool.addresses == 0
