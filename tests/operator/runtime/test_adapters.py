"""Telling replicas over real HTTP which adapters to hold: who answers, who does not, and who is asked how often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from llmos.api.adapters import HeldAdapters, WantedAdapter, WantedAdapters
from llmos_operator.runtime import adapters as module
from llmos_operator.runtime.adapters import AdapterTeller

DIGEST = "sha256:" + "1" * 64
WANTED = WantedAdapters(adapters=(WantedAdapter(name="a", digest=DIGEST, url="http://share:8002", token="t"),))


class Replica:
    """The control port of a replica."""

    def __init__(self) -> None:
        self.status, self.delay_s, self.body = 200, 0.0, b""
        self.asked: list[tuple[str, WantedAdapters]] = []

    async def handle(self, request: web.Request) -> web.Response:
        wanted = WantedAdapters.model_validate_json(await request.read())
        self.asked.append((request.headers["Authorization"], wanted))
        await asyncio.sleep(self.delay_s)
        held = [{"name": each.name, "digest": each.digest, "state": "loaded"} for each in wanted.adapters]
        answer = HeldAdapters.model_validate({"adapters": held}).model_dump_json(by_alias=True).encode()
        return web.Response(status=self.status, body=self.body or answer)


@pytest.fixture
async def replica() -> Replica:
    return Replica()


@pytest.fixture
async def teller(replica: Replica) -> AsyncIterator[AdapterTeller]:
    app = web.Application()
    app.router.add_put("/adapters", replica.handle)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield AdapterTeller(session, port=server.port or 0)


async def test_a_replica_is_told_with_the_token_and_says_what_it_holds(teller: AdapterTeller, replica: Replica) -> None:
    held = await teller.tell({"p-0": "127.0.0.1"}, WANTED, "secret")
    assert replica.asked == [("Bearer secret", WANTED)]
    said = held["p-0"]
    assert said is not None
    assert [(each.name, each.state) for each in said.adapters] == [("a", "loaded")]


@pytest.mark.parametrize(
    ("status", "body"), [(401, b""), (409, b""), (200, b"nonsense"), (200, b"x" * (module.MAX_ANSWER_BYTES + 1))]
)
async def test_what_is_no_answer_counts_as_silence(
    teller: AdapterTeller, replica: Replica, status: int, body: bytes
) -> None:
    replica.status, replica.body = status, body
    assert await teller.tell({"p-0": "127.0.0.1"}, WANTED, "secret") == {"p-0": None}


async def test_a_replica_that_refuses_the_token_is_named_in_the_log(
    teller: AdapterTeller, replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    replica.status = 401
    await teller.tell({"p-0": "127.0.0.1"}, WANTED, "0123abcd")
    assert "127.0.0.1 does not know the operator's token" in caplog.text
    assert "0123abcd" not in caplog.text


async def test_a_silent_replica_is_not_asked_again_at_once_and_holds_up_nobody(
    teller: AdapterTeller, replica: Replica
) -> None:
    replica.status = 503
    for _ in range(3):
        assert await teller.tell({"p-0": "127.0.0.1"}, WANTED, "secret") == {"p-0": None}
    assert len(replica.asked) == 1
    replica.status = 200
    await asyncio.sleep(module.FIRST_BACKOFF_S)
    assert (await teller.tell({"p-0": "127.0.0.1"}, WANTED, "secret"))["p-0"] is not None
    assert (await teller.tell({"p-0": "127.0.0.1"}, WANTED, "secret"))["p-0"] is not None


async def test_one_that_hangs_is_given_up_after_the_deadline(
    teller: AdapterTeller, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.delay_s = 5
    monkeypatch.setattr(teller, "_timeout", aiohttp.ClientTimeout(total=0.2))
    async with asyncio.timeout(2):
        assert await teller.tell({"p-0": "127.0.0.1"}, WANTED, "secret") == {"p-0": None}
