"""Story 33: a FineTuneJob searches: six trials with other learning rates, two at a time, within a budget.

The operator is killed in the middle. The best trial's result passes its gate and is registered. Training is real, of a
real small model.
"""

from __future__ import annotations

import pytest

from e2e.support.api import Api, Object
from e2e.support.jobs import OVER, read_base_model
from e2e.support.objects import is_active, is_ready, read_condition
from e2e.support.operator import OperatorProcess, OperatorSettings
from e2e.support.source import Source
from e2e.support.waiting import eventually
from e2e.test_27_finetune import JOB, build_job
from llmos.api.names import LABEL_JOB, LABEL_TRIAL
from llmos.api.search import Search, propose_parameters

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(4200)]

SEARCH_S = 3600.0
TRIALS, AT_ONCE, BUDGET_HOURS = 6, 2, 2.0
STEPS = 12
SEARCH = {
    "algorithm": "asha",
    "maxTrials": TRIALS,
    "parallelism": AT_ONCE,
    "budgetAcceleratorHours": BUDGET_HOURS,
    "reductionFactor": 2,
    "parameters": [{"name": "learningRate", "min": 0.0003, "max": 0.01, "log": True}],
}


async def observe(api: Api, namespace: str) -> Object:
    """The job's status, with what must hold at any time."""
    job = await api.get("FineTuneJob", JOB, namespace) or {}
    status: Object = job.get("status", {})
    trials = status.get("trials", [])
    pods = [pod for pod in await api.list("Pod", namespace, f"{LABEL_JOB}={JOB},{LABEL_TRIAL}") if is_active(pod)]
    assert len({pod["metadata"]["labels"][LABEL_TRIAL] for pod in pods}) == len(pods), "two pods of one trial"
    assert len([pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]) <= AT_ONCE
    assert len(trials) <= TRIALS
    assert sum(trial["acceleratorSeconds"] for trial in trials) <= BUDGET_HOURS * 3600
    return status


async def test_six_trials_two_at_a_time_outlive_the_operator(
    api: Api, vllm_image: None, operator_process: OperatorProcess, source: Source, namespace: str
) -> None:
    operator_process.ensure(OperatorSettings(start_timeout_s=1200, resync_s=30))
    await api.create(read_base_model(namespace))
    await eventually(
        "the base model is known", lambda: api.get("LLMModel", "smollm2", namespace), is_ready, timeout_s=300
    )
    gate = {"metric": "eval_loss", "maxRelativeToBase": 0.95}
    job = build_job(namespace, f"{source.url}/support-set", gate=gate, max_steps=STEPS)
    del job["spec"]["trainer"]["hyperparameters"]["learningRate"]
    job["spec"]["evaluate"]["everySteps"] = 4
    job["spec"]["checkpoint"]["onPreempt"] = {"deadlineSeconds": 60}
    job["spec"]["search"] = SEARCH
    await api.create(job)

    async def look() -> Object:
        return await observe(api, namespace)

    before = await eventually(
        "two trials train and one is over",
        look,
        lambda status: any(trial["state"] in {"Complete", "Stopped"} for trial in status.get("trials", ())),
        timeout_s=SEARCH_S,
        poll_s=1,
    )
    operator_process.kill()
    operator_process.ensure(OperatorSettings(start_timeout_s=1200, resync_s=30))

    status = await eventually(
        "the search is over", look, lambda status: status.get("phase") in OVER, timeout_s=SEARCH_S, poll_s=2
    )
    assert status["phase"] == "Succeeded", read_condition(await api.get("FineTuneJob", JOB, namespace))
    trials = {trial["number"]: trial for trial in status["trials"]}
    assert sorted(trials) == list(range(1, TRIALS + 1))
    assert {trial["state"] for trial in trials.values()} <= {"Complete", "Stopped"}
    assert all(trial["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 0} for trial in trials.values())
    search = Search.model_validate(SEARCH)
    for number, trial in trials.items():
        assert {each["name"]: each["value"] for each in trial["parameters"]} == propose_parameters(search, number)
    for trial in before["trials"]:
        assert trials[trial["number"]]["parameters"] == trial["parameters"]

    complete = [trial for trial in trials.values() if trial["state"] == "Complete"]
    best = min(complete, key=lambda trial: trial["evalLoss"])
    assert status["bestTrial"] == best["number"]
    metric = next(each for each in status["evaluation"]["metrics"] if each["name"] == "eval_loss")
    assert metric["result"] == best["evalLoss"] <= 0.95 * metric["base"]
    model = await eventually(
        "the best result is ready", lambda: api.get("LLMModel", "smollm2-support", namespace), is_ready, timeout_s=300
    )
    assert model is not None
    assert model["spec"]["source"]["uri"].endswith(f"/trials/{best['number']}/output")
