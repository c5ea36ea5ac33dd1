"""Search for hyperparameters: what may vary, and which values a trial gets.

The values of a trial follow from the spec and the trial's number alone, but for `tpe`, which learns from the trials
before it (`llmos_operator.planning.finetune_proposals`). Those of each stand in the status before its pod is made.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from pydantic import Field

from llmos.api.meta import ApiModel, ListMap, Rule

if TYPE_CHECKING:
    from llmos.api.finetunejob import FineTuneJobSpec

ParameterName = Literal[
    "learningRate", "weightDecay", "warmupFraction", "maxGradNorm", "batchTokens", "rank", "alpha", "dropout"
]
_OF_LORA: Final = frozenset({"rank", "alpha", "dropout"})
_WHOLE: Final = frozenset({"batchTokens", "rank", "alpha"})
MOST_TRIALS: Final = 64


class SearchParameter(ApiModel):
    """A hyperparameter that varies."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.values) && size(self.values) > 0) != (has(self.min) && has(self.max))",
            "name either values, or min and max",
        ),
        Rule("!(has(self.min) && has(self.max)) || self.min < self.max", "min must be below max"),
        Rule("!self.log || (has(self.min) && self.min > 0.0)", "log needs min above 0"),
    )

    name: ParameterName
    """One of trainer.hyperparameters, or rank, alpha or dropout of method.lora."""
    values: Annotated[tuple[float, ...], Field(max_length=32)] = ()
    """Values to choose from."""
    min: Annotated[float, Field(ge=0, le=16777216)] | None = None
    """Lowest value,"""
    max: Annotated[float, Field(ge=0, le=16777216)] | None = None
    """and highest."""
    log: bool = False
    """Draw between min and max evenly on a logarithmic scale, as learning rates want it."""


class Search(ApiModel):
    """Trials with different hyperparameters, of which the best one's result is taken."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.algorithm != 'grid' || self.parameters.all(each, has(each.values) && size(each.values) > 0)",
            "a grid needs values for each parameter",
            field_path=".parameters",
        ),
        Rule("self.parallelism <= self.maxTrials", "parallelism must not be above maxTrials"),
    )

    algorithm: Literal["asha", "random", "grid", "tpe"] = "asha"
    """random: values are drawn. grid: all combinations, in order. asha: drawn, and trials that are behind at a rung are
    stopped (asynchronous successive halving, Li et al., 2020). tpe: drawn until a quarter of maxTrials (4 to 10) are
    complete, then proposed from what these found (tree-structured Parzen estimator, Bergstra et al., 2011)."""
    max_trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = 16
    """Trials at most."""
    parallelism: Annotated[int, Field(ge=1, le=16)] = 1
    """Trials that go on at the same time. Their pods share the claim: with ReadWriteOnce they need the same node."""
    budget_accelerator_hours: Annotated[float, Field(gt=0, le=1000000)] | None = None
    """Accelerator hours that all pods of all trials may hold together, lost time included; `cpu` counts one for each
    pod. Trials are asked to save and go in time not to exceed it. Absent = no limit."""
    reduction_factor: Annotated[int, Field(ge=2, le=10)] = 3
    """asha: at each rung one of so many goes on. Rungs are after 1, n, n x n ... evaluations (evaluate.everySteps)."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] = 42
    """Another seed draws other values."""
    parameters: Annotated[tuple[SearchParameter, ...], Field(min_length=1, max_length=8), ListMap(("name",))]
    """What varies. All else is as in method and trainer."""


def count_trials(search: Search) -> int:
    """Return how many trials there are at most: a grid may have fewer combinations than maxTrials."""
    if search.algorithm != "grid":
        return search.max_trials
    return min(search.max_trials, math.prod(len(parameter.values) for parameter in search.parameters))


def propose_parameters(search: Search, number: int) -> dict[str, float]:
    """Return the values of a trial, from 1 on; the same for the same spec, whoever asks. For tpe those of a trial that
    has nothing to learn from."""
    if search.algorithm == "grid":
        return _pick_combination(search, number - 1)
    return {parameter.name: _draw(parameter, search.seed, number) for parameter in search.parameters}


def apply_parameters(spec: FineTuneJobSpec, values: Mapping[str, float]) -> FineTuneJobSpec:
    """Return the spec of a job that trains with these values.

    Raises:
        ValidationError: a value is outside of what the hyperparameter may be.
    """
    changed = {name: int(value) if name in _WHOLE else value for name, value in values.items()}
    lora = {name: value for name, value in changed.items() if name in _OF_LORA}
    others = {name: value for name, value in changed.items() if name not in _OF_LORA}
    hyperparameters, method = spec.trainer.hyperparameters, spec.method
    trainer = {"hyperparameters": type(hyperparameters).model_validate({**hyperparameters.to_manifest(), **others})}
    tuned = {"lora": type(method.lora).model_validate({**method.lora.to_manifest(), **lora})}
    return spec.model_copy(
        update={"trainer": spec.trainer.model_copy(update=trainer), "method": method.model_copy(update=tuned)}
    )


def list_values(parameter: SearchParameter) -> tuple[float, ...]:
    """Return the values to choose from, as trials have them, each once."""
    return tuple(dict.fromkeys(_as_number(parameter.name, value) for value in parameter.values))


def round_value(parameter: SearchParameter, value: float) -> float:
    """Return a value between min and max, or one of the values, as a trial has it."""
    rounded = _as_number(parameter.name, value)
    return rounded if parameter.values else min(max(rounded, parameter.min or 0.0), parameter.max or 0.0)


def _pick_combination(search: Search, index: int) -> dict[str, float]:
    values: dict[str, float] = {}
    # The last parameter varies fastest, as in nested loops.
    for parameter in reversed(search.parameters):
        index, place = divmod(index, len(parameter.values))
        values[parameter.name] = _as_number(parameter.name, parameter.values[place])
    return dict(reversed(values.items()))


def _draw(parameter: SearchParameter, seed: int, number: int) -> float:
    digest = hashlib.sha256(f"{seed}:{number}:{parameter.name}".encode()).digest()
    share = int.from_bytes(digest[:8]) / 2**64
    if parameter.values:
        return _as_number(parameter.name, parameter.values[int(share * len(parameter.values))])
    low, high = parameter.min or 0.0, parameter.max or 0.0
    drawn = low * (high / low) ** share if parameter.log else low + (high - low) * share
    return round_value(parameter, drawn)


def _as_number(name: str, value: float) -> float:
    # Three digits say all that a learning rate has to say, and people can read them.
    return float(round(value)) if name in _WHOLE else float(f"{value:.4g}")
