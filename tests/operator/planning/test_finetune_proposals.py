"""What `tpe` proposes: the same for the same trials, within what was asked for, and better than what is drawn."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.api import Search, TrialStatus
from llmos.api.search import propose_parameters
from llmos_operator.planning.finetune_proposals import build_values, count_drawn, propose_values, read_values

RATE = {"name": "learningRate", "min": 1e-5, "max": 1e-1, "log": True}
RANK = {"name": "rank", "values": [4, 8, 16, 32, 64]}
DROPOUT = {"name": "dropout", "min": 0.0, "max": 0.5}
BATCH = {"name": "batchTokens", "min": 1000, "max": 1000000, "log": True}

Loss = Callable[[Mapping[str, float]], float]


def search(*parameters: Mapping[str, object], algorithm: str = "tpe", **fields: object) -> Search:
    return Search.model_validate({"parameters": list(parameters), "algorithm": algorithm, **fields})


def trial(number: int, values: Mapping[str, float], loss: float | None, state: str = "Complete") -> TrialStatus:
    return TrialStatus(number=number, parameters=build_values(values), state=state, eval_loss=loss)


def run(asked: Search, loss: Loss, count: int) -> list[TrialStatus]:
    """Trials one after another, each with the values that are proposed after the others."""
    trials: list[TrialStatus] = []
    for number in range(1, count + 1):
        values = propose_values(asked, number, trials)
        trials.append(trial(number, values, loss(values)))
    return trials


def best(trials: list[TrialStatus]) -> float:
    return min(each.eval_loss for each in trials if each.eval_loss is not None)


def bowl(values: Mapping[str, float]) -> float:
    """A learning rate of 2e-3 and little dropout are best, as losses go."""
    return (math.log10(values["learningRate"]) + 2.7) ** 2 + 4 * (values["dropout"] - 0.1) ** 2


def valley(values: Mapping[str, float]) -> float:
    """The best learning rate depends on the batch, as it does."""
    rate, batch = math.log10(values["learningRate"]), math.log10(values["batchTokens"])
    return (rate + 5.5 - batch / 2) ** 2 + 0.1 * (batch - 4.5) ** 2


def choice(values: Mapping[str, float]) -> float:
    """Rank 16 is best, the further away the worse."""
    return abs(math.log2(values["rank"]) - 4) + (math.log10(values["learningRate"]) + 3) ** 2


@pytest.mark.parametrize(
    ("loss", "parameters"), [(bowl, [RATE, DROPOUT]), (valley, [RATE, BATCH]), (choice, [RATE, RANK])]
)
def test_it_finds_better_values_than_drawing(loss: Loss, parameters: list[dict[str, object]]) -> None:
    found: dict[str, list[float]] = {"tpe": [], "random": []}
    for seed in range(7):
        for algorithm, values in found.items():
            asked = search(*parameters, algorithm=algorithm, seed=seed, maxTrials=24)
            values.append(best(run(asked, loss, 24)))
    assert statistics.median(found["tpe"]) < statistics.median(found["random"])
    assert statistics.fmean(found["tpe"]) < statistics.fmean(found["random"])


LOSSES = st.lists(st.floats(0, 10), min_size=4, max_size=12)
STATES = st.sampled_from(["Complete", "Complete", "Complete", "Training", "Failed", "Queued"])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(STATES, st.floats(0, 10)), max_size=14), st.integers(0, 2**31 - 1))
def test_a_proposal_lies_within_and_depends_on_nothing_but_what_it_is_told(
    history: list[tuple[str, float]], seed: int
) -> None:
    asked = search(RATE, RANK, DROPOUT, BATCH, seed=seed)
    trials = [
        trial(number, propose_parameters(asked, number), loss if state != "Queued" else None, state)
        for number, (state, loss) in enumerate(history, 1)
    ]
    number = len(trials) + 1
    values = propose_values(asked, number, trials)
    assert values == propose_values(asked.model_copy(deep=True), number, [each.model_copy() for each in trials])
    assert list(values) == ["learningRate", "rank", "dropout", "batchTokens"]
    assert 1e-5 <= values["learningRate"] <= 1e-1
    assert values["rank"] in {4, 8, 16, 32, 64}
    assert 0 <= values["dropout"] <= 0.5
    assert 1000 <= values["batchTokens"] <= 1000000
    assert values["batchTokens"] == int(values["batchTokens"])
    # What was proposed can be told again: it is one of the search's own values.
    propose_values(asked, number + 1, [*trials, trial(number, values, 1.0)])


def test_until_enough_are_complete_values_are_drawn() -> None:
    asked = search(RATE, RANK, maxTrials=16)
    assert count_drawn(asked) == 4
    assert [count_drawn(search(RATE, maxTrials=count)) for count in (1, 32, 64)] == [4, 8, 10]
    drawn = [trial(number, propose_parameters(asked, number), float(number)) for number in range(1, 5)]
    assert propose_values(asked, 4, drawn[:3]) == propose_parameters(asked, 4)
    assert propose_values(asked, 5, drawn) != propose_parameters(asked, 5)
    running = [*drawn[:3], drawn[3].model_copy(update={"state": "Training"})]
    assert propose_values(asked, 5, running) == propose_parameters(asked, 5)


def test_several_at_a_time_do_not_try_the_same() -> None:
    asked = search(RATE, maxTrials=64, parallelism=8)
    trials = run(asked, lambda values: abs(math.log10(values["learningRate"]) + 3), 16)
    for number in range(17, 25):
        trials.append(trial(number, propose_values(asked, number, trials), None, "Training"))
    at_once = [read_values(each)["learningRate"] for each in trials[16:]]
    assert len(set(at_once)) == len(at_once)
    # One that is asked eight times for the seventeenth knows nothing of the others.
    alone = [propose_values(asked, number, trials[:16])["learningRate"] for number in range(17, 25)]
    assert _spread(at_once) > _spread(alone)


def _spread(rates: list[float]) -> float:
    return statistics.pstdev(math.log10(rate) for rate in rates)


def test_values_that_cannot_train_are_avoided_and_lost_trials_say_nothing() -> None:
    asked = search(RATE, maxTrials=16)
    good = [trial(number, {"learningRate": rate}, 1.0) for number, rate in enumerate([1e-4, 2e-4, 4e-4, 8e-4, 1e-3], 1)]
    failed = {"state": "Failed", "eval_loss": None}
    high = [trial(number, {"learningRate": 10 ** (-1 - number / 20)}, None, "Failed") for number in range(6, 14)]
    lost = [each.model_copy(update={**failed, "reason": "RetriesExhausted"}) for each in high]
    broken = [each.model_copy(update={**failed, "reason": "LossNotFinite"}) for each in high]
    assert propose_values(asked, 14, [*good, *lost]) == propose_values(asked, 14, good)
    rates = [propose_values(asked, number, [*good, *broken])["learningRate"] for number in range(14, 24)]
    assert sum(rate > 1e-2 for rate in rates) <= 1


def test_only_a_search_that_learns_loads_the_library() -> None:
    code = (
        "import sys; from llmos.api import Search; from llmos_operator.planning.finetune_proposals import *;"
        "s = Search.model_validate({'algorithm': 'asha', 'parameters': [{'name': 'rank', 'values': [8]}]});"
        "propose_values(s, 1, ()); import llmos_operator.reconcilers.search;"
        "assert 'optuna' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
