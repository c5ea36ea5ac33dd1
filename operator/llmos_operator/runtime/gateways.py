"""What gateways tell of their load: which gateways there are, and one standing request to each.

Gateways are the pods with the gateway's label in the operator's own namespace, found by a list every few seconds, and
those that an option names. Each holds the answer to our standing request for a second, unless a pool begins to have
requests that no replica can take; then it comes at once. So a pool at zero is woken within milliseconds, and the
answers beat the time for everything else.

A gateway that is Ready takes requests, so it must tell of them: one that does not answer is named. One that is not
Ready is asked too, for it may still have requests, but nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import aiohttp
from pydantic import ValidationError

from llmos.api.load import GatewayLoad, PoolLoad
from llmos.api.names import COMPONENT_GATEWAY, GATEWAY_ADMIN_PORT, LABEL_COMPONENT
from llmos_operator.kube.client import Kube
from llmos_operator.kube.errors import KubeError
from llmos_operator.kube.resources import PODS
from llmos_operator.planning.sampling import GatewayReading
from llmos_operator.runtime.fetching import FetchError, fetch

DISCOVERY_S: Final = 2.0
IDLE_S: Final = 0.25
"""Between two looks whether anybody wants to know."""
WAIT_S: Final = 1.0
"""How long a gateway may hold an answer back."""
DEADLINE_S: Final = 1.0
"""What an answer may take beyond that."""
FRESH_S: Final = 1.5
"""A gateway whose last answer is older is late."""
SHORTEST_PAUSE_S: Final = 0.05
"""Between two answers of one gateway, however urgent it is."""
FIRST_BACKOFF_S: Final = 0.25
LAST_BACKOFF_S: Final = 4.0
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where a gateway is asked."""

    name: str
    url: str
    is_expected: bool = True
    """It takes requests, so it should answer."""


@dataclass(frozen=True, slots=True)
class _Answer:
    at_s: float
    load: GatewayLoad


class Gateways:
    """Follows all gateways while `run` runs.

    Args:
        session: for the requests.
        kube: lists the pods.
        namespace: where the gateways' pods are.
        urls: admin addresses of further gateways.
        is_needed: whether anybody wants to know; if not, nobody is asked.

    Attributes:
        on_answer: told each answer.
        are_known: whether the pods could be listed since `run` began.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        kube: Kube,
        *,
        namespace: str,
        urls: Sequence[str] = (),
        is_needed: Callable[[], bool] = lambda: True,
    ) -> None:
        self.on_answer: Callable[[GatewayLoad], None] = lambda _load: None
        self.are_known = False
        self._session = session
        self._kube = kube
        self._namespace = namespace
        self._static = tuple(Gateway(urlsplit(url).netloc, url.rstrip("/")) for url in urls)
        self._is_needed = is_needed
        self._gateways: dict[str, Gateway] = {}
        self._followers: dict[str, asyncio.Task[NoReturn]] = {}
        self._answers: dict[str, _Answer] = {}
        self._answered = asyncio.Event()

    async def run(self) -> NoReturn:
        """Go on until cancelled."""
        try:
            while True:
                is_needed = self._is_needed()
                self._follow(await self._find() if is_needed else ())
                await asyncio.sleep(DISCOVERY_S if is_needed else IDLE_S)
        finally:
            self._follow(())
            self.are_known = False

    def read(self, pool_id: str, now_s: float) -> dict[str, GatewayReading | None]:
        """Return what each gateway said last of a pool (`namespace/name`), None for one that is late.

        A gateway that is reached in two ways counts once.
        """
        readings: dict[str, GatewayReading | None] = {}
        boots: set[str] = set()
        for name, gateway in self._gateways.items():
            answer = self._answers.get(name)
            if answer is not None and now_s - answer.at_s <= FRESH_S:
                if answer.load.boot not in boots:
                    readings[name] = GatewayReading(answer.load.boot, answer.load.pools.get(pool_id, PoolLoad()))
                boots.add(answer.load.boot)
            elif gateway.is_expected:
                readings[name] = None
        return readings

    def have_answered_since(self, since_s: float) -> bool:
        """Whether all gateways that should have answered after that time."""
        return all(
            (answer := self._answers.get(name)) is not None and answer.at_s > since_s
            for name, gateway in self._gateways.items()
            if gateway.is_expected
        )

    async def wait_for_answer(self, timeout_s: float) -> None:
        """Wait until any gateway answers, at most so long."""
        self._answered.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._answered.wait()
        except TimeoutError:
            return

    async def _find(self) -> tuple[Gateway, ...]:
        try:
            pods = await self._kube.list(
                PODS, namespace=self._namespace, label_selector=f"{LABEL_COMPONENT}={COMPONENT_GATEWAY}"
            )
        except KubeError as error:
            # Those that are known go on answering while the API server is away.
            _logger.warning("The gateways could not be listed: %s", error)
            return tuple(self._gateways.values()) or self._static
        self.are_known = True
        found = (find_gateway(pod) for pod in pods)
        return (*self._static, *(gateway for gateway in found if gateway is not None))

    def _follow(self, gateways: Sequence[Gateway]) -> None:
        """Ask these gateways from now on, and no others."""
        before, self._gateways = self._gateways, {gateway.name: gateway for gateway in gateways}
        for name, gateway in before.items():
            now = self._gateways.get(name)
            if now is None or now.url != gateway.url:
                self._followers.pop(name).cancel()
                self._answers.pop(name, None)
        for name, gateway in self._gateways.items():
            if name not in self._followers:
                self._followers[name] = asyncio.create_task(self._ask_forever(gateway), name=f"load of gateway {name}")

    async def _ask_forever(self, gateway: Gateway) -> NoReturn:
        clock = asyncio.get_running_loop().time
        seen: int | None = None
        failures = 0
        while True:
            began_s = clock()
            try:
                load = await self._ask(gateway, seen)
            except FetchError as error:
                _logger.log(
                    logging.DEBUG if failures else logging.WARNING, "A gateway does not tell its load: %s", error
                )
                await asyncio.sleep(min(FIRST_BACKOFF_S * 2.0 ** min(failures, 16), LAST_BACKOFF_S))
                seen, failures = None, failures + 1
                continue
            self._take(gateway.name, _Answer(clock(), load))
            # One that answers at once although nothing is urgent does not know how to wait.
            is_urgent = seen is None or load.sequence != seen
            seen, failures = load.sequence, 0
            await asyncio.sleep(max(SHORTEST_PAUSE_S if is_urgent else began_s + WAIT_S - clock(), 0.0))

    async def _ask(self, gateway: Gateway, seen: int | None) -> GatewayLoad:
        query = "" if seen is None else f"?wait_s={WAIT_S:g}&seen={seen}"
        body = await fetch(
            self._session,
            f"{gateway.url}/load{query}",
            timeout_s=DEADLINE_S if seen is None else WAIT_S + DEADLINE_S,
            limit_bytes=MAX_ANSWER_BYTES,
        )
        try:
            return GatewayLoad.model_validate_json(body)
        except ValidationError as error:
            raise FetchError(f"{gateway.url} answered no load: {error.error_count()} errors") from error

    def _take(self, name: str, answer: _Answer) -> None:
        self._answers[name] = answer
        self._answered.set()
        self.on_answer(answer.load)


def find_gateway(pod: Mapping[str, Any]) -> Gateway | None:
    """Return where a gateway's pod is asked, None if nothing can answer there."""
    status, metadata = pod.get("status", {}), pod["metadata"]
    ip = status.get("podIP")
    if not ip or status.get("phase") != "Running":
        return None
    host = f"[{ip}]" if ":" in ip else ip
    is_ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions", ()))
    return Gateway(
        name=metadata["name"],
        url=f"http://{host}:{GATEWAY_ADMIN_PORT}",
        is_expected=is_ready and "deletionTimestamp" not in metadata,
    )
