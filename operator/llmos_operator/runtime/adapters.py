"""Tell replicas which adapters to hold: `PUT /adapters` on the control port of each, whose answer says what it holds.

At most `CONCURRENCY` at the same time, each with one deadline. A replica that does not answer is told again by the
pool's next pass; until it answers it counts as silent, and is asked less and less often, so that a pool with many dead
replicas does not wait for them each time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import aiohttp
from pydantic import ValidationError

from llmos.api.adapters import HeldAdapters, WantedAdapters
from llmos.api.names import CONTROL_PORT

CONCURRENCY: Final = 64
DEADLINE_S: Final = 2.0
FIRST_BACKOFF_S: Final = 1.0
LAST_BACKOFF_S: Final = 8.0
MAX_ANSWER_BYTES: Final = 1 << 20
MOST_REMEMBERED: Final = 4096
"""Silent replicas; what was remembered longest ago goes first."""


_NOT_ALLOWED: Final = 401
_STRANGE: Final = (
    "The replica at {} does not know the operator's token, so that its adapters stay as they are: it was started when "
    "Secret llmos-adapter-key was another one. It is replaced by the pool's roll-out; put the former Secret back and "
    "restart the operator if that is not wanted."
)
_logger = logging.getLogger(__name__)


class AdapterTeller:
    """Tells replicas, and remembers which of them do not answer."""

    def __init__(self, session: aiohttp.ClientSession, *, port: int = CONTROL_PORT) -> None:
        self._session = session
        self._port = port
        self._places = asyncio.Semaphore(CONCURRENCY)
        self._timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        self._silent: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """How often in a row an address did not answer, and when it is asked again."""

    async def tell(
        self, addresses: Mapping[str, str], wanted: WantedAdapters, token: str
    ) -> dict[str, HeldAdapters | None]:
        """Tell pods (name -> IP); return what each of them holds, None of those that did not answer."""
        body = wanted.model_dump_json(by_alias=True)
        said = await asyncio.gather(*(self._tell_one(address, body, token) for address in addresses.values()))
        return dict(zip(addresses, said, strict=True))

    async def _tell_one(self, address: str, body: str, token: str) -> HeldAdapters | None:
        clock = asyncio.get_running_loop().time
        times, again_s = self._silent.get(address, (0, 0.0))
        if clock() < again_s:
            return None
        async with self._places:
            held = await self._put(address, body, token)
        self._silent.pop(address, None)
        if held is None:
            self._silent[address] = times + 1, clock() + min(FIRST_BACKOFF_S * 2.0 ** min(times, 8), LAST_BACKOFF_S)
            if len(self._silent) > MOST_REMEMBERED:
                self._silent.popitem(last=False)
        return held

    async def _put(self, address: str, body: str, token: str) -> HeldAdapters | None:
        host = f"[{address}]" if ":" in address else address
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            async with self._session.put(
                f"http://{host}:{self._port}/adapters",
                data=body,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
            ) as answer:
                if answer.status == _NOT_ALLOWED:
                    _logger.warning("%s", _STRANGE.format(host))
                if answer.status != 200:
                    return None
                return HeldAdapters.model_validate_json(await _read(answer))
        except (aiohttp.ClientError, OSError, TimeoutError, ValidationError, ValueError):
            return None


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ValueError("the answer is too long")
    return bytes(body)
