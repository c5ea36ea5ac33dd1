"""The trials of a search on the screen of a job."""

from __future__ import annotations

from tests.sdk.cli.conftest import Run
from tests.sdk.client.support import TRAINING, Json, Script, answer, job

SEARCH = {
    "algorithm": "grid",
    "budgetAcceleratorHours": 2,
    "parameters": [{"name": "learningRate", "values": [0.001, 0.01, 0.1]}],
}


def trial(number: int, state: str, loss: float, **more: object) -> Json:
    values = [{"name": "learningRate", "value": 0.001 * number}]
    steps = {"step": 10 * number, "totalSteps": 100, "evalLoss": loss, "acceleratorSeconds": 900}
    return {"number": number, "state": state, "parameters": values, **steps, **more}


def test_each_trial_has_a_line_and_the_best_is_marked(llmos: Run) -> None:
    trials = [trial(1, "Stopped", 2.5, message="Behind at rung 0."), trial(2, "Complete", 1.25)]
    progress = {"display": "2/3 trials", "evalLoss": 1.25}
    found = job("support", TRAINING, trials=trials, bestTrial=2, progress=progress)
    result = llmos(Script(answer({**found, "spec": {**found["spec"], "search": SEARCH}})), "get", "job/support")
    told = " ".join(result.stdout.split())
    for words in (
        "2/3 trials, best eval_loss 1.25",
        "TRIALS (grid, 2 of 3 begun, 0.50 of 2 accelerator hours)",
        "1 Stopped learningRate 0.001 10/100 2.5 900 s Behind at rung 0.",
        "best 2 Complete learningRate 0.002 20/100 1.25 900 s",
    ):
        assert words in told, words
    assert "TRIALS" not in llmos(Script(answer(job("support", TRAINING))), "get", "job/support").stdout
