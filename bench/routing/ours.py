"""The gateway's own router, the very code that serves requests, as one more policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from bench.routing.trace import BLOCK_TOKENS, Request
from llmos_gateway.routing import Decision, IndexLimits, PromptBlocks, Router
from llmos_gateway.routing.blocks import BLOCK_TOKENS as GATEWAY_BLOCK_TOKENS

__all__ = ["Ours"]


@dataclass(frozen=True, slots=True)
class _Endpoint:
    address: str
    number: int


class Ours:
    """A Router under one policy name.

    Its index is as large in tokens as in the gateway, where a block is 64 tokens instead of the trace's 512.
    """

    def __init__(self, replicas: int, policy: str, *, kv_tokens: int = 0, gateways: int = 1) -> None:
        self._policy = policy
        self._gateways = gateways
        self._endpoints = [_Endpoint(f"10.0.0.{number}:8000", number) for number in range(replicas)]
        self._numbers = {endpoint.address: endpoint.number for endpoint in self._endpoints}
        limits = IndexLimits()
        limits, ratio = limits.within(limits.blocks_in_all, kv_tokens), BLOCK_TOKENS // GATEWAY_BLOCK_TOKENS
        self._router = Router(IndexLimits(limits.blocks_per_replica // ratio, limits.blocks_in_all // ratio))

    def choose(self, request: Request, loads: Sequence[int], now_s: float) -> tuple[int, object]:
        """Ask the router, and tell it that the request was sent."""
        anchor = request.blocks[min(1, len(request.blocks) - 1)]
        prompt = PromptBlocks(request.blocks, request.input_tokens, BLOCK_TOKENS, anchor)
        decision = self._router.choose(
            policy=self._policy,
            endpoints=self._endpoints,
            load=lambda address: loads[self._numbers[address]],
            prompt=prompt,
            now_s=now_s,
            gateways=self._gateways,
        )
        assert decision is not None
        self._router.committed(decision, prompt)
        return decision.endpoint.number, decision

    def first_token(self, token: object) -> None:
        """Pass it on."""
        self._router.first_token(cast("Decision[Any]", token))

    def ended(self, token: object) -> None:
        """Pass it on."""
        self._router.finished(cast("Decision[Any]", token))
