"""How long one routing decision takes: hashing the prompt, choosing, and noting the choice, on one core.

Conversations that share a few long system prompts and grow by each turn come at 500 requests a second of simulated
time, and stay in flight for a drawn time, so that loads, index and queues look as they would. Each decision is timed
for itself; the rate decides what is in flight, not how fast the loop runs.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import random
import string
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.routing.figures import compute_quantile
from llmos_gateway.routing import Decision, Router, hash_blocks, hash_chat

__all__ = ["Timing", "measure_decisions", "measure_hashing"]

_WARM_UP_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    most_ms: float


@dataclass(frozen=True, slots=True)
class _Endpoint:
    address: str


def measure_decisions(
    policy: str, *, replicas: int, per_s: float, count: int, gateways: int = 1, seed: int = 0
) -> dict[str, Timing]:
    """Time `count` decisions and return the parts: hash, choose, commit, all together, and its CPU time (which does not
    grow when other processes take the core)."""
    rng = random.Random(seed)
    endpoints = tuple(_Endpoint(f"10.0.{number // 250}.{number % 250}:8000") for number in range(replicas))
    loads = dict.fromkeys((endpoint.address for endpoint in endpoints), 0)
    router, prompts = Router(), _Prompts(rng)
    running: list[tuple[float, int, Decision[_Endpoint]]] = []
    times: dict[str, list[float]] = {"hash": [], "choose": [], "commit": [], "all": [], "CPU time of all": []}
    for number in range(count):
        now_s = number / per_s
        while running and running[0][0] <= now_s:
            done = heapq.heappop(running)[2]
            router.finished(done)
            loads[done.endpoint.address] -= 1
        messages = prompts.draw()
        cpu_s = time.thread_time()
        marks = [time.perf_counter()]
        prompt = hash_chat(messages, b"tenant")
        marks.append(time.perf_counter())
        decision = router.choose(
            policy=policy,
            endpoints=endpoints,
            load=loads.__getitem__,
            prompt=prompt,
            now_s=now_s,
            gateways=gateways,
        )
        assert decision is not None
        marks.append(time.perf_counter())
        router.committed(decision, prompt)
        marks.append(time.perf_counter())
        cpu_s = time.thread_time() - cpu_s
        loads[decision.endpoint.address] += 1
        heapq.heappush(running, (now_s + rng.expovariate(1 / 5), number, decision))
        if number >= _WARM_UP_SHARE * count:
            parts = [end - start for start, end in itertools.pairwise(marks)]
            for values, value in zip(times.values(), [*parts, marks[-1] - marks[0], cpu_s], strict=True):
                values.append(value)
    return {name: _summarise(values) for name, values in times.items()}


def measure_hashing(tokens: int, repeats: int = 50) -> Timing:
    """Time the hashing of one prompt of about that many tokens."""
    text = "".join(random.Random(0).choices(string.ascii_lowercase + " ", k=4 * tokens))
    return _summarise([_time(lambda: hash_blocks(text, b"tenant")) for _ in range(repeats)])


def _time(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _summarise(seconds: list[float]) -> Timing:
    quantiles = [1000 * compute_quantile(seconds, share) for share in (0.5, 0.95, 0.99, 1)]
    return Timing(*quantiles)


class _Prompts:
    """Conversations that grow: five system prompts of 8,000 characters, up to 48,000 in all, about 7,000 tokens in the
    mean."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._systems = [self._text(8000) for _ in range(5)]
        self._chats = [self._begin() for _ in range(500)]
        gc.collect()

    def draw(self) -> list[dict[str, str]]:
        number = self._rng.randrange(len(self._chats))
        chat = self._chats[number]
        if sum(len(message["content"]) for message in chat) > 48_000:
            chat = self._chats[number] = self._begin()
        chat += [
            {"role": "assistant", "content": self._text(1500)},
            {"role": "user", "content": self._text(1500)},
        ]
        return chat

    def _begin(self) -> list[dict[str, str]]:
        return [
            {"role": "system", "content": self._rng.choice(self._systems)},
            {"role": "user", "content": self._text(2000)},
        ]

    def _text(self, chars: int) -> str:
        return "".join(self._rng.choices(string.ascii_lowercase + " ", k=chars))
