"""Names that several adapters of a pool answer: who has which share, and whose turn a request is. Values, no I/O.

A share is a chance: each request of a name is dealt out by a number that nobody chose, so that whoever asks in a
rhythm does not always meet the same adapter, and both see the same kinds of requests. An adapter that no replica serves
has no share meanwhile; what would be its goes to the others. A name whose own adapter is gone belongs to whoever has
most of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from llmos_gateway.pools import Pool

Views: TypeAlias = Mapping[str, Pool]
"""How requests see a pool, by the name of the adapter."""


@dataclass(frozen=True, slots=True)
class Arm:
    """An adapter that answers a part of a name's requests."""

    weight: int
    """Per cent."""
    view: Pool


Split: TypeAlias = tuple[Arm, ...]
"""All arms of a name, the one that bears it last."""


def build_views(pool: Pool) -> dict[str, Pool]:
    """Return how requests for each name see the pool: its adapters, and names that those have taken over."""
    own = {adapter.name: pool.see(adapter) for adapter in pool.adapters}
    heirs: dict[str, Pool] = {}
    for view in own.values():
        name, weight = view.adapter.replaces, view.adapter.weight  # type: ignore[union-attr]  # see() gave it one
        if name and name not in own and name != pool.model and weight > _weigh(heirs.get(name)):
            heirs[name] = view
    return own | {name: replace(view, asked=name) for name, view in heirs.items()}


def build_splits(pool: Pool, views: Views) -> dict[str, Split]:
    """Return the names that more than one adapter may answer."""
    found: dict[str, list[Arm]] = {}
    for adapter in pool.adapters:
        if adapter.replaces in views and adapter.weight:
            found.setdefault(adapter.replaces, []).append(Arm(adapter.weight, views[adapter.name]))
    return {name: (*arms, *_find_bearer(views[name], arms)) for name, arms in found.items()}


def choose_arm(split: Split, draw: float) -> Pool | None:
    """Return whose turn it is, None if no replica serves any of them.

    Args:
        split: all arms of the name.
        draw: a number from 0 to below 100, by chance.
    """
    left = draw
    for arm in split:
        if left < arm.weight and arm.view.endpoints:
            return arm.view
        left -= arm.weight
    serving = [arm for arm in split if arm.view.endpoints]
    return max(serving, key=lambda arm: arm.weight).view if serving else None


def _weigh(view: Pool | None) -> int:
    return view.adapter.weight if view is not None and view.adapter is not None else 0


def _find_bearer(view: Pool, arms: list[Arm]) -> tuple[Arm, ...]:
    """Return the arm of the adapter that bears the name, if it is still there: it has the rest."""
    return () if view.asked else (Arm(max(0, 100 - sum(arm.weight for arm in arms)), view),)
