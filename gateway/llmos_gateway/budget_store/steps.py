"""The words of `budget.lua`: what is sent for each step, and what its answer says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from llmos_gateway.limits import WINDOWS, Granted, Refused, Terms, Use

SCRIPT: Final = files("llmos_gateway.budget_store").joinpath("budget.lua").read_text(encoding="utf-8")
KEYS: Final = ("counters", "open", "leases", "closed", "graves")
PROBE: Final = "probe"
FORGET: Final = "forget"
_PREFIX: Final = "llmos:budget"


@dataclass(eq=False, slots=True)
class Step:
    """One step on its way to the store."""

    name: str
    tenant: str
    arguments: tuple[str, ...]
    outcome: asyncio.Future[Sequence[Any]] | None = None
    """Of steps that somebody waits for; the others are tried until they are done."""
    refusals: int = 0
    """How often the server answered that it cannot, and did others."""

    @property
    def is_kept(self) -> bool:
        """Return whether it is tried until it is done: nobody waits for it, and nothing tells it anew."""
        return self.name in {"settle", "charge"}

    def build_keys(self) -> list[str]:
        """Return the keys of the tenant, all in one slot of a cluster."""
        return [f"{_PREFIX}:{{{self.tenant}}}:{part}" for part in KEYS]


def build_take(name: str, tenant: str, terms: Terms, number: str, *, least: int, most: int, spent: int) -> Step:
    """Return the step `reserve` or `grow`."""
    limits = (*terms.limits, terms.concurrency)
    words = ("" if limit is None else str(limit) for limit in limits)
    arguments = (number, str(int(terms.is_enforced)), *words, str(least), str(most), str(spent))
    return Step(name, tenant, arguments)


def build_settle(tenant: str, number: str, used: int) -> Step:
    """Return the step that ends a request."""
    return Step("settle", tenant, (number, str(used)))


def build_charge(tenant: str, number: str, starts: Sequence[int], used: int) -> Step:
    """Return the step that counts what was granted while the store was away, once."""
    return Step("charge", tenant, (number, *(str(start_s) for start_s in starts), str(used)))


def build_report(tenant: str, spent: Sequence[tuple[str, int]]) -> Step:
    """Return the step that keeps running requests alive, with what they have used so far."""
    return Step("report", tenant, tuple(word for number, amount in spent for word in (number, str(amount))))


def build_forget(tenant: str) -> Step:
    """Return the step that drops the account of a tenant of which nothing runs."""
    return Step(FORGET, tenant, ())


def build_probe() -> Step:
    """Return a step that counts nothing, and is done only by a server that would do the others: it writes."""
    return Step(PROBE, "", ())


def read_uses(answer: Sequence[Any]) -> tuple[Use, ...]:
    """Return the windows that an answer tells."""
    numbers = [int(number) for number in answer[6:]]
    return tuple(Use(window, *numbers[3 * index : 3 * index + 3]) for index, window in enumerate(WINDOWS))


def read_running(answer: Sequence[Any]) -> int:
    """Return how many requests of the tenant are open."""
    return int(answer[5])


def read_outcome(answer: Sequence[Any], terms: Terms, least: int) -> Granted | Refused:
    """Return what became of a step that asks for something."""
    status, amount, bound, is_brief, is_never, running = answer[:6]
    if _decode(status) == "granted":
        return Granted(int(amount), read_uses(answer), int(running), terms, _decode(bound) or None)  # type: ignore[arg-type]  # the script's words
    return Refused(
        _decode(bound),  # type: ignore[arg-type]  # the script's words
        read_uses(answer),
        int(running),
        terms,
        least,
        is_brief=bool(is_brief),
        is_never=bool(is_never),
    )


def _decode(word: Any) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)
