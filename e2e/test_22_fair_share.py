"""Story 22: two tenants keep one shared pool busy, and get of it what their weights say. A third one that asks now and
then is answered as if they were hardly there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median

import aiohttp
import pytest

from e2e.support.api import Api, Object
from e2e.support.asking import Target, ask, open_session
from e2e.support.gateway import SYSTEM_NAMESPACE, Gateway, wait_until_known
from e2e.support.objects import build_model, build_pool, wait_ready
from e2e.support.operator import OperatorProcess
from e2e.support.source import Source
from llmos.api.apikeys import StoredKey, build_key_secret, compute_digest, find_key_id
from llmos.client.keys import generate_key

pytestmark = [pytest.mark.timeout(600)]

WEIGHTS = {"three": 3, "one": 1, "victim": 1}
CLIENTS, TOKENS = 40, 50
ENGINE = {"max-num-seqs": 16, "decode-step-ms": 20, "decode-step-ms-per-seq": 0}
"""16 answers of 50 tokens at a time, a second each: 80 clients are five times what it runs."""
SETTLE_S, MEASURE_S = 8.0, 25.0
SHARES_WITHIN = 0.2
"""Of the ratio of weights. Two gateways share the window by their number, and clients do not meet them evenly."""
VICTIM_TOKENS = 5


class Crowd:
    """Clients of one tenant, each with one request at a time until it is told to stop."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.tokens = 0
        self.took_s: list[float] = []
        self.problems: list[str] = []

    async def ask_on(self, session: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        """Be one client."""
        while not stop.is_set():
            answer = await ask(session, self.target, TOKENS, stream=True)
            self.tokens += answer.tokens
            self.took_s.append(answer.took_s)
            if answer.problem:
                self.problems.append(answer.problem)
                await asyncio.sleep(0.5)


def build_tenant(name: str, namespace: str, weight: int) -> Object:
    """A Tenant with a namespace of its own that may call the shared one."""
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name},
        "spec": {"namespaces": [name], "weight": weight, "models": {"allow": [f"{namespace}/*"]}},
    }


@asynccontextmanager
async def admit_tenants(api: Api, namespace: str) -> AsyncIterator[dict[str, str]]:
    """Make the tenants and a key for each, known to all gateways."""
    keys: dict[str, str] = {}
    names = {short: f"{namespace}-{short}" for short in WEIGHTS}
    try:
        for short, name in names.items():
            await api.create(build_tenant(name, namespace, WEIGHTS[short]))
            keys[short] = generate_key()
            stored = StoredKey(
                find_key_id(keys[short]) or "", name, compute_digest(keys[short]), frozenset({namespace}), tenant=name
            )
            await api.create(build_key_secret(stored, SYSTEM_NAMESPACE))
        for key in keys.values():
            await wait_until_known(api, key)
        yield keys
    finally:
        for name in names.values():
            await api.delete("Secret", name, SYSTEM_NAMESPACE)
            await api.delete("Tenant", name)


async def ask_now_and_then(session: aiohttp.ClientSession, target: Target, count: int) -> list[float]:
    """How long each of some short requests took."""
    took_s = []
    for _ in range(count):
        answer = await ask(session, target, VICTIM_TOKENS, stream=True)
        assert not answer.problem, answer
        took_s.append(answer.took_s)
        await asyncio.sleep(0.5)
    return took_s


async def test_two_tenants_share_a_pool_by_weight_and_a_third_is_not_hurt(
    api: Api, operator: OperatorProcess, source: Source, namespace: str, gateway: Gateway
) -> None:
    model = build_model(namespace, f"{source.url}/tiny")
    model["spec"]["sharedWith"] = ["*"]
    await wait_ready(api, await api.create(model))
    hold = {"maxRequests": 1000, "maxRequestsPerKey": 200}
    await wait_ready(api, await api.create(build_pool(namespace, args=ENGINE, hold=hold)))
    async with admit_tenants(api, namespace) as keys, open_session() as session:
        targets = {name: gateway.target(namespace, key) for name, key in keys.items()}
        alone_s = await ask_now_and_then(session, targets["victim"], 10)
        crowds, stop = {name: Crowd(targets[name]) for name in ("three", "one")}, asyncio.Event()
        clients = [
            asyncio.create_task(crowd.ask_on(session, stop)) for crowd in crowds.values() for _ in range(CLIENTS)
        ]
        await asyncio.sleep(SETTLE_S)
        before = {name: crowd.tokens for name, crowd in crowds.items()}
        beside_s, _ = await asyncio.gather(ask_now_and_then(session, targets["victim"], 20), asyncio.sleep(MEASURE_S))
        got = {name: crowd.tokens - before[name] for name, crowd in crowds.items()}
        stop.set()
        await asyncio.gather(*clients)

    problems = [problem for crowd in crowds.values() for problem in crowd.problems]
    assert not problems, problems[:5]
    ratio = got["three"] / got["one"]
    print(f"shares {got}, ratio {ratio:.2f}; victim alone {median(alone_s):.2f} s, beside {median(beside_s):.2f} s")
    assert ratio == pytest.approx(3, rel=SHARES_WITHIN)
    # In order of arrival it would wait behind all of them, as they do behind each other.
    assert max(beside_s) < median(crowds["three"].took_s)
