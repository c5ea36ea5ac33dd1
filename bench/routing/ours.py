"""The gateway's own router, the very code that serves requests, as one more policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from xxhash import xxh3_64_intdigest

from bench.routing.trace import BLOCK_TOKENS, Request
from llmos.api.load import MAX_CONVERSATIONS
from llmos_gateway.routing import Decision, IndexLimits, Placement, PromptBlocks, Router
from llmos_gateway.routing.blocks import BLOCK_TOKENS as GATEWAY_BLOCK_TOKENS

__all__ = ["Ours"]


@dataclass(frozen=True, slots=True)
class _Endpoint:
    address: str
    number: int


class Ours:
    """A Router under one policy name.

    Its index is as large in tokens as in the gateway, where a block is 128 tokens instead of the trace's 512.
    """

    def __init__(
        self, replicas: int, policy: str, *, kv_tokens: int = 0, gateways: int = 1, is_told: bool = True
    ) -> None:
        self._policy = policy
        self._gateways = gateways
        self._is_told = is_told
        self._endpoints = [_Endpoint(f"10.0.0.{number}:8000", number) for number in range(replicas)]
        self._numbers = {endpoint.address: endpoint.number for endpoint in self._endpoints}
        limits = IndexLimits()
        limits, ratio = limits.within(limits.blocks_in_all, kv_tokens), BLOCK_TOKENS // GATEWAY_BLOCK_TOKENS
        self._router = Router(IndexLimits(limits.blocks_per_replica // ratio, limits.blocks_in_all // ratio))

    def choose(self, request: Request, loads: Sequence[int], now_s: float) -> tuple[int, object]:
        """Ask the router, and tell it that the request was sent."""
        # The first block is the same in all prompts, the second holds the beginning of the first user message.
        anchor = xxh3_64_intdigest(request.blocks[min(1, len(request.blocks) - 1)].to_bytes(8, "big"))
        prompt = PromptBlocks(request.blocks, request.input_tokens, BLOCK_TOKENS, anchor)
        decision = self._router.choose(
            policy=self._policy,
            endpoints=self._endpoints,
            load=lambda address: loads[self._numbers[address]],
            prompt=prompt,
            now_s=now_s,
            gateways=self._gateways,
            is_told=self._is_told,
        )
        assert decision is not None
        self._router.committed(decision, prompt)
        return decision.endpoint.number, decision

    def tell(self, since_s: float) -> Sequence[Placement]:
        """Return what another gateway would be told."""
        return list(islice(self._router.tell(since_s), MAX_CONVERSATIONS)) if self._is_told else ()

    def learn(self, placements: Iterable[Placement]) -> None:
        """Take what another gateway told."""
        for placement in placements:
            self._router.learn(placement)

    def first_token(self, token: object) -> None:
        """Pass it on."""
        self._router.first_token(cast("Decision[Any]", token))

    def ended(self, token: object) -> None:
        """Pass it on."""
        self._router.finished(cast("Decision[Any]", token))
