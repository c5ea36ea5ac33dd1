"""Which share of another adapter's requests an adapter answers in a pool: from what LLMModels ask for. Pure.

Each `spec.adapter.replaces` asks for per cent of a name's requests. The youngest LLMModel has what it asks for, the
next one takes of what is left, and the adapter that bears the name has the rest. So a canary takes its share from
whoever answers now, and one that was promoted long ago makes room for the next by itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from llmos.api import LLMModel, Replacement

Weights = dict[str, tuple[str, int]]
"""By the name of the adapter that answers: the name that is asked for, and per cent of its requests."""


def compute_weights(models: Iterable[LLMModel], pool: str) -> Weights:
    """Return what each of the models has of another one's requests.

    Args:
        models: that the pool loads, the oldest first.
        pool: its name.
    """
    left: dict[str, int] = {}
    weights: Weights = {}
    for model in reversed(tuple(models)):
        wish = find_replacement(model, pool)
        if wish is not None:
            rest = left.get(wish.name, 100)
            weights[model.metadata.name] = wish.name, min(wish.weight, rest)
            left[wish.name] = rest - min(wish.weight, rest)
    return weights


def find_replacement(model: LLMModel, pool: str) -> Replacement | None:
    """Return what a model asks for in a pool; nothing of itself."""
    wishes = model.spec.adapter.replaces if model.spec.adapter is not None else ()
    return next((wish for wish in wishes if wish.pool == pool and wish.name != model.metadata.name), None)
