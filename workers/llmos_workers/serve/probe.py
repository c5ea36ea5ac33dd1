"""Questions to the engine over loopback: is it healthy, what is its load, can it produce one token."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout
from prometheus_client.parser import text_string_to_metric_families

from llmos_workers.serve.watchdog import Load

_RUNNING: Final = "vllm:num_requests_running"
_WAITING: Final = "vllm:num_requests_waiting"
_GENERATED: Final = "vllm:generation_tokens_total"
_PROMPT: Final = "vllm:prompt_tokens_total"
_KV_USAGE: Final = "vllm:kv_cache_usage_perc"
_PROGRESS: Final = (_GENERATED, _PROMPT, "vllm:request_success_total", _KV_USAGE)
# vLLM observes this histogram once for each step that gave an output: its count is the number of such steps.
_STEPS: Final = "vllm:iteration_tokens_total_count"
_PREEMPTIONS: Final = "vllm:num_preemptions_total"
_CACHED: Final = "vllm:prompt_tokens_cached_total"
# Of engines that do not count cached tokens at the first token.
_CACHED_BEFORE: Final = "vllm:prefix_cache_hits_total"
_WANTED: Final = (_RUNNING, _WAITING, *_PROGRESS, _STEPS, _PREEMPTIONS, _CACHED, _CACHED_BEFORE)
_ROUTE_MISSING: Final = frozenset({400, 404, 405, 501})
_SPEECHLESS_PATHS: Final = ("/v1/embeddings", "/classify", "/pooling")
"""Vectors, labels of texts, labels of tokens. An engine serves the ones that its model has."""
_MAX_ANSWER: Final = 200


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What came of asking for one token: whether it came, whether anything came, and the answer in words."""

    succeeded: bool
    answered: bool
    answer: str


class EngineProbe:
    """Asks one engine. Use it as an async context manager."""

    def __init__(self, port: int, served_model_name: str, api_key: str | None = None) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._model = served_model_name
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._session: ClientSession | None = None

    async def __aenter__(self) -> EngineProbe:
        self._session = ClientSession(base_url=self._base, headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    async def is_healthy(self, timeout_s: float) -> bool:
        """Whether /health says 200 in time."""
        status, _ = await self._ask("GET", "/health", None, timeout_s)
        return status == 200

    async def observe_load(self, timeout_s: float) -> Load | None:
        """Load and progress from the engine's metrics; None if they do not come in time."""
        status, text = await self._ask("GET", "/metrics", None, timeout_s)
        return parse_load(text) if status == 200 else None

    async def generate_one(self, timeout_s: float) -> ProbeResult:
        """Ask for one token or, of a model that generates none, for one embedding or one label."""
        body = {"model": self._model, "prompt": "Hello", "max_tokens": 1}
        status, text = await self._ask("POST", "/v1/completions", body, timeout_s)
        if status in _ROUTE_MISSING:
            for path in _SPEECHLESS_PATHS:
                found = await self._ask("POST", path, {"model": self._model, "input": "Hello"}, timeout_s)
                # Where none is served, the first answer says more.
                if found[0] == 200:
                    status, text = found
                    break
        answer = f"status {status}: {text[:_MAX_ANSWER]}" if status else text
        return ProbeResult(status == 200, status > 0, answer)

    async def _ask(
        self, method: str, path: str, body: Mapping[str, object] | None, timeout_s: float
    ) -> tuple[int, str]:
        """Status and body of the answer; status 0 and what went wrong, if there was none."""
        if self._session is None:
            raise RuntimeError("EngineProbe is used outside its context")
        try:
            async with self._session.request(
                method, path, json=body, timeout=ClientTimeout(total=timeout_s)
            ) as response:
                return response.status, await response.text()
        except TimeoutError:
            return 0, f"no answer within {timeout_s:g} s"
        except (ClientError, OSError, asyncio.IncompleteReadError) as error:
            return 0, f"{type(error).__name__}: {error}"


def parse_load(text: str) -> Load:
    """Load from Prometheus text. Several engines behind one server (data parallel) are added up."""
    # The parser is slow on the hundreds of histogram lines that nobody here reads.
    lines = [line for line in text.splitlines() if line.startswith(tuple(f"{name}{{" for name in _WANTED))]
    values: defaultdict[str, list[float]] = defaultdict(list)
    for family in text_string_to_metric_families("\n".join([*lines, ""])):
        for sample in family.samples:
            if math.isfinite(sample.value):
                values[sample.name].append(sample.value)
    totals = {name: sum(values[name]) for name in _WANTED}
    # Shares are not added up: what one full engine means, a second empty one does not take away.
    kv_usage = max(values[_KV_USAGE], default=0.0)
    return Load(
        running=int(totals[_RUNNING]),
        waiting=int(totals[_WAITING]),
        progress=tuple(totals[name] for name in _PROGRESS),
        prompt_tokens=int(totals[_PROMPT]),
        cached_tokens=int(totals[_CACHED] if values[_CACHED] else totals[_CACHED_BEFORE]),
        generation_tokens=int(totals[_GENERATED]),
        # Engines behind one server step side by side: together they make steps as one of them does.
        steps=int(sum(values[_STEPS]) / max(len(values[_STEPS]), 1)),
        preemptions=int(totals[_PREEMPTIONS]),
        kv_usage=max(kv_usage, 0.0),
    )
