"""Which values the next trial of a search gets. Pure.

`random`, `asha` and `grid` follow from the spec and the trial's number alone (`llmos.api.search`). `tpe` learns from
the trials before it (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011, section 4): of what was
tried, the best ones have the density l(x), the others g(x), and what maximises l(x) / g(x) is tried next. optuna's
sampler does that, over all parameters together. What is told to it:

- complete trials: their eval_loss;
- trials that cannot train with their values (no finite loss, no room in memory): the worst of all;
- trials that go on: the sampler takes them for bad ones ("constant liar", Ginsbourger et al., 2010), so that several
  at a time do not try the same;
- trials that were lost to infrastructure, or to something that was not looked at: nothing.

Until a few trials are complete, values are drawn as for `random`. The sampler's seed is made of the search's and the
trial's number, so the same trials lead to the same proposal. Other ones do not: a proposal is written to the status
before its pod is made, and never made again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from llmos.api import ParameterValue, Reason, TrialStatus
from llmos.api.search import Search, SearchParameter, list_values, propose_parameters, round_value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

LIBRARY: Final = "optuna"
"""What `tpe` needs. To import it takes 0.6 s and 50 MiB, so only a search that needs it does."""
_COMPLETE: Final = "Complete"
_FAILED: Final = "Failed"
_BAD_VALUES: Final = frozenset({Reason.LossNotFinite, Reason.OutOfMemory, Reason.DoesNotFit})


def propose_values(search: Search, number: int, trials: Sequence[TrialStatus]) -> dict[str, float]:
    """Return the values of trial `number`, which has not begun, where these trials have."""
    if search.algorithm != "tpe" or _count_complete(trials) < count_drawn(search):
        return propose_parameters(search, number)
    return _sample(search, number, trials)


def build_values(values: Mapping[str, float]) -> tuple[ParameterValue, ...]:
    """Return values as the status has them."""
    return tuple(ParameterValue(name=name, value=value) for name, value in values.items())


def read_values(trial: TrialStatus) -> dict[str, float]:
    """Return the values of a trial, by name."""
    return {each.name: each.value for each in trial.parameters}


def count_drawn(search: Search) -> int:
    """Return how many trials must be complete before `tpe` learns from them: a quarter, of 4 to 10."""
    return min(10, max(4, search.max_trials // 4))


def _count_complete(trials: Sequence[TrialStatus]) -> int:
    return sum(trial.state == _COMPLETE and trial.eval_loss is not None for trial in trials)


def _sample(search: Search, number: int, trials: Sequence[TrialStatus]) -> dict[str, float]:
    import optuna  # noqa: PLC0415  (memory: most operators never need it)

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = int.from_bytes(hashlib.sha256(f"{search.seed}:{number}".encode()).digest()[:4])
    space: dict[str, BaseDistribution] = {each.name: _build_distribution(each) for each in search.parameters}
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=0))
    for trial in trials:
        _tell(study, trial, space)
    proposed = study.ask(space).params
    return {parameter.name: round_value(parameter, proposed[parameter.name]) for parameter in search.parameters}


def _build_distribution(parameter: SearchParameter) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution  # noqa: PLC0415

    if parameter.values:
        return CategoricalDistribution(list_values(parameter))
    # Whole numbers are rounded afterwards: the ranges are wide, and the trial's own value is what is learned from.
    return FloatDistribution(parameter.min or 0.0, parameter.max or 0.0, log=parameter.log)


def _tell(study: Study, trial: TrialStatus, space: dict[str, BaseDistribution]) -> None:
    from optuna.trial import TrialState, create_trial  # noqa: PLC0415

    values = read_values(trial)
    if trial.state == _COMPLETE and trial.eval_loss is not None:
        state, value = TrialState.COMPLETE, trial.eval_loss
    elif trial.state == _FAILED and trial.reason in _BAD_VALUES:
        state, value = TrialState.COMPLETE, math.inf
    elif trial.state in {_COMPLETE, _FAILED}:
        return
    else:
        state, value = TrialState.RUNNING, None
    study.add_trial(create_trial(state=state, value=value, params=values, distributions=space))
