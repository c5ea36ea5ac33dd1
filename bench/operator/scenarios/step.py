"""A step of load on one replica, through the gateway, and its end. KubeAI's method, step 4.

A pool of at least 1 and at most 8 replicas, 4 requests each. 5 s after it is ready 16 closed-loop clients start whose
requests take 2 s: they need 4 replicas, and a fifth would be overshoot. 15 s after 4 are ready the load stops. Clients
keep their connections and never retry; a request fails if its answer is not whole.

KubeAI decides by the mean over a window of ten minutes as shipped, or of ten seconds ("fast"); then an order waits for
scaleDownDelaySeconds to be taken back. Ours is measured with the delay that it is shipped with, and with that of the
fast settings.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp

from bench.operator.figures import Outcome, Row, compute_spread, format_spread
from bench.operator.real_pool import STEP_MS, RealPool, open_pool
from bench.operator.waiting import wait_until
from e2e.support.gateway import build_key
from llmos.api.names import COMPONENT_GATEWAY, GATEWAY_PORT, LABEL_COMPONENT
from llmos_operator.kube.resources import PODS

CLIENTS, QUEUE_DEPTH, WANTED, MOST = 16, 4, 4, 8
REQUEST_TOKENS = 2000 // STEP_MS
"""2 s each."""
BEFORE_S, HOLD_S = 5.0, 15.0
UP_TARGET_S, DOWN_ALLOWANCE_S = 3.0, 10.0
POLL_S = 0.05
SETTLE_TIMEOUT_S = 240.0
NAMESPACE = "bench-step"
POOL = "step"


@dataclass(frozen=True)
class Setting:
    """One set of knobs, and what KubeAI did with the corresponding ones."""

    name: str
    scale_down_delay_s: int
    rounds: int
    peer_up: str
    peer_ready: str
    peer_down: str


SETTINGS = (
    Setting("as shipped", 60, 1, "453 s", "456 s", "472 s"),
    Setting("delay 5 s", 5, 3, "7.22 s (7.05-7.53, n=3)", "11.27 s", "8.85 s (8.85-9.90, n=3)"),
)


@dataclass(frozen=True)
class Sample:
    """The pool's status at one moment, in seconds of the run's clock."""

    at_s: float
    desired: int
    ready: int


@dataclass
class Run:
    """One round: when the load began and ended, what was seen, and what became of the requests."""

    began_s: float = 0.0
    ended_s: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    finished: int = 0
    failures: list[str] = field(default_factory=list)

    def up_s(self) -> float:
        """Return how long after the step all replicas were ordered."""
        return _find(self.samples, self.began_s, lambda sample: sample.desired >= WANTED)

    def ready_s(self) -> float:
        """Return how long after the step they were ready."""
        return _find(self.samples, self.began_s, lambda sample: sample.ready >= WANTED)

    def down_s(self) -> float:
        """Return how long after the end of the load one was desired."""
        return _find(self.samples, self.ended_s, lambda sample: sample.desired == 1)

    def highest(self) -> int:
        """Return the most replicas that were desired."""
        return max(sample.desired for sample in self.samples)


async def measure(kubeconfig: Path) -> Outcome:
    """Take the step on the cluster of `kubeconfig`, where LLMOS and its gateway run already."""
    rows: list[Row] = []
    raw: dict[str, list[dict[str, object]]] = {}
    for setting in SETTINGS:
        runs = [await _take_step(kubeconfig, setting) for _ in range(setting.rounds)]
        rows += build_rows(setting, runs)
        raw[setting.name] = [asdict(run) for run in runs]
    return Outcome(tuple(rows), raw)


def build_rows(setting: Setting, runs: Sequence[Run]) -> list[Row]:
    """Return the lines of one setting."""
    up = compute_spread([run.up_s() for run in runs])
    ready = compute_spread([run.ready_s() for run in runs])
    down = compute_spread([run.down_s() for run in runs])
    highest = max(run.highest() for run in runs)
    failed, finished = sum(len(run.failures) for run in runs), sum(run.finished for run in runs)
    allowed_s = setting.scale_down_delay_s + DOWN_ALLOWANCE_S

    def row(measure: str, value: str, target: str = "", is_met: bool | None = None, peer: str = "") -> Row:
        return Row("step", f"{setting.name}: {measure}", value, target, is_met, f"KubeAI {peer}" if peer else "")

    return [
        row(
            f"1 -> {CLIENTS} requests of 2 s, {WANTED} desired after",
            format_spread(up, "s"),
            f"{UP_TARGET_S:g} s",
            up.high <= UP_TARGET_S,
            setting.peer_up,
        ),
        row(f"{WANTED} ready after", format_spread(ready, "s"), peer=setting.peer_ready),
        row("most desired", str(highest), str(WANTED), highest == WANTED, "4"),
        row(
            "load stops, 1 desired after",
            format_spread(down, "s"),
            f"{allowed_s:g} s",
            down.high <= allowed_s,
            setting.peer_down,
        ),
        row("failed", f"{failed} of {failed + finished}", "0", failed == 0, "0"),
    ]


def _find(samples: Sequence[Sample], since_s: float, is_wanted: Callable[[Sample], bool]) -> float:
    return next(sample.at_s for sample in samples if sample.at_s >= since_s and is_wanted(sample)) - since_s


async def _take_step(kubeconfig: Path, setting: Setting) -> Run:
    async with open_pool(kubeconfig, NAMESPACE, POOL) as pool:
        await pool.start(
            scaling={
                "minReplicas": 1,
                "maxReplicas": MOST,
                "target": {"queueDepth": QUEUE_DEPTH},
                "scaleDownDelaySeconds": setting.scale_down_delay_s,
            }
        )
        await pool.wait_for_ready(1)
        gateways = await pool.kube.list(PODS, label_selector=f"{LABEL_COMPONENT}={COMPONENT_GATEWAY}")
        assert gateways, "no gateway runs in this cluster: install the chart with its gateway first"
        urls = [f"http://{pod['status']['podIP']}:{GATEWAY_PORT}/v1/chat/completions" for pod in gateways]
        async with _lend_key(pool, gateways[0]["metadata"]["namespace"]) as key, _connect(key) as web:
            await _wait_until_served(web, urls)
            await asyncio.sleep(BEFORE_S)
            return await _run(pool, web, urls)


@asynccontextmanager
async def _lend_key(pool: RealPool, within: str) -> AsyncIterator[str]:
    key, secret = build_key(NAMESPACE, NAMESPACE, within=within)
    await pool.core.create_namespaced_secret(within, secret)
    try:
        yield key
    finally:
        await pool.core.delete_namespaced_secret(NAMESPACE, within)


@asynccontextmanager
async def _connect(key: str) -> AsyncIterator[aiohttp.ClientSession]:
    headers, timeout = {"Authorization": f"Bearer {key}"}, aiohttp.ClientTimeout(total=60.0)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=False) as session:
        yield session


async def _wait_until_served(web: aiohttp.ClientSession, urls: Sequence[str]) -> None:
    """Wait until each gateway knows the key and the pool."""

    async def ask() -> bool:
        return not any([await _ask(web, url, tokens=1) for url in urls])

    await wait_until(ask, what="That the gateways serve the pool", timeout_s=60.0)


async def _run(pool: RealPool, web: aiohttp.ClientSession, urls: Sequence[str]) -> Run:
    run, stop = Run(), asyncio.Event()
    watching = asyncio.create_task(_watch(pool, run))
    try:
        async with asyncio.TaskGroup() as group:
            run.began_s = time.perf_counter()
            for index in range(CLIENTS):
                group.create_task(_ask_until(stop, web, urls[index % len(urls)], run))
            await _wait_for(run, lambda sample: sample.ready >= WANTED, "That all replicas are ready")
            await asyncio.sleep(HOLD_S)
            run.ended_s = time.perf_counter()
            stop.set()
        await _wait_for(run, lambda sample: sample.desired == sample.ready == 1, "That one replica is left")
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return run


async def _watch(pool: RealPool, run: Run) -> None:
    while True:
        status = (await pool.read()).get("status", {})
        sample = Sample(time.perf_counter(), status.get("desiredReplicas", 0), status.get("readyReplicas", 0))
        run.samples.append(sample)
        await asyncio.sleep(POLL_S)


async def _wait_for(run: Run, is_wanted: Callable[[Sample], bool], what: str) -> None:
    async def ask() -> bool:
        return bool(run.samples) and is_wanted(run.samples[-1])

    await wait_until(ask, what=what, timeout_s=SETTLE_TIMEOUT_S, poll_s=POLL_S)


async def _ask_until(stop: asyncio.Event, web: aiohttp.ClientSession, url: str, run: Run) -> None:
    while not stop.is_set():
        if failure := await _ask(web, url, tokens=REQUEST_TOKENS):
            run.failures.append(failure)
            await asyncio.sleep(POLL_S)
        else:
            run.finished += 1


async def _ask(web: aiohttp.ClientSession, url: str, *, tokens: int) -> str:
    """Return what went wrong, or nothing."""
    messages = [{"role": "user", "content": "Count."}]
    body = {"model": f"{NAMESPACE}/{POOL}", "messages": messages, "max_tokens": tokens, "ignore_eos": True}
    try:
        async with web.post(url, json=body) as response:
            if response.status != 200:
                return f"status {response.status}: {(await response.text())[:200]}"
            answer = await response.json()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return type(error).__name__
    return "" if answer["usage"]["completion_tokens"] == tokens else "not whole"
