"""The status screen: what a person reads first, and what a script decides by."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.sdk.cli.conftest import Run
from tests.sdk.client.support import (
    GATE_FAILED,
    READY,
    STARTING,
    TOO_BIG,
    TRAINING,
    Json,
    Script,
    accelerator,
    condition,
    job,
    model,
    objects,
    pool,
    refusal,
)

AVAILABLE = condition("True", "Available")
NODES = condition("True", "NodesFound")
L4 = accelerator("nvidia-l4", "23034Mi", NODES, nodes=2, capacity=8)


def cluster(models: list[Json], pools: list[Json], accelerators: list[Json], jobs: list[Json] | None = None) -> Script:
    return Script(objects(*models), objects(*pools), objects(*(jobs or [])), objects(*accelerators))


def serving(name: str, *conditions: Json, **status: Any) -> Json:
    counts = {"replicas": 2, "readyReplicas": 2, "updatedReplicas": 2, "desiredReplicas": 2, "accelerators": 2}
    return pool(name, *conditions, **{**counts, **status})


def test_a_cluster_in_order_shows_everything_and_ends_with_0(llmos: Run) -> None:
    summary = "LlamaForCausalLM, 134.5 M parameters, bfloat16"
    result = llmos(cluster([model("smollm2", AVAILABLE, summary=summary)], [serving("smol", READY)], [L4]), "status")
    assert result.exit_code == 0
    for words in (
        "MODELS",
        "● Available",
        summary,
        "POOLS",
        "team/smol",
        "● Ready",
        "2/2",
        "2 x nvidia-l4",
        "ACCELERATORS",
        "23034Mi",
        "● NodesFound",
        "Nothing is wrong in namespace team.",
    ):
        assert words in result.stdout, words


def test_a_problem_is_told_with_its_remedy_and_ends_with_1(llmos: Run) -> None:
    result = llmos(cluster([model("smollm2", AVAILABLE)], [pool("big", TOO_BIG)], []), "status")
    assert result.exit_code == 1
    assert "✗ InferencePool team/big: DoesNotFit" in result.stdout
    assert "Needs 40 GiB on 1 x 24 GiB: use count 2." in result.stdout
    assert "what to do: Do what the message says" in result.stdout
    assert "1 problem in namespace team." in result.stdout


def test_work_in_progress_is_shown_but_is_no_problem(llmos: Run) -> None:
    fetch = {"bytesDone": 4 * 2**30, "bytesTotal": 16 * 2**30, "bytesPerSecond": 10**8, "etaSeconds": 125}
    fetching = model("smollm2", condition("False", "Fetching", "The files are being fetched."), fetch=fetch)
    result = llmos(cluster([fetching], [serving("smol", STARTING, readyReplicas=0)], []), "status")
    assert result.exit_code == 0
    assert "25 % of 16.0 GiB, 0:02:05 to go" in result.stdout
    assert "◌ InferencePool team/smol: Replica smol-1 is starting." in result.stdout


def test_a_pool_that_waits_for_a_fetching_model_is_no_second_problem(llmos: Run) -> None:
    waiting = pool("smol", condition("False", "ModelNotReady", "LLMModel smollm2 says Fetching."))
    fetching = model("smollm2", condition("False", "Fetching", "The files are being fetched."))
    assert llmos(cluster([fetching], [waiting], []), "status").exit_code == 0
    denied = model("smollm2", condition("False", "AccessDenied", "401 from the source."))
    result = llmos(cluster([denied], [waiting], []), "status")
    assert result.exit_code == 1
    assert "2 problems" in result.stdout


def test_rollouts_and_drains_are_counted(llmos: Run) -> None:
    rolling = serving("smol", READY, replicas=3, updatedReplicas=1, drainingReplicas=1)
    assert "3 (2 of an old revision, 1 draining)" in llmos(cluster([], [rolling], []), "status").stdout


def test_an_object_that_nobody_looked_at_is_a_problem_only_after_a_while(llmos: Run) -> None:
    assert llmos(cluster([], [pool("new")], []), "status", age_s=5).exit_code == 0
    result = llmos(cluster([], [pool("old")], []), "status", age_s=500)
    assert result.exit_code == 1
    assert "Check that the operator runs" in result.stdout


def test_a_reason_of_a_newer_operator_is_a_problem(llmos: Run) -> None:
    result = llmos(cluster([], [pool("smol", condition("False", "MoonPhase", "Wrong moon."))], []), "status")
    assert (result.exit_code, "Wrong moon." in result.stdout) == (1, True)


def test_an_empty_namespace_says_where_else_to_look(llmos: Run) -> None:
    result = llmos(cluster([], [], []), "status", "-n", "empty")
    assert result.exit_code == 0
    assert "Nothing is served in namespace empty" in result.stdout
    assert "-A" in result.stdout


def test_a_user_who_may_not_see_accelerators_sees_the_rest(llmos: Run) -> None:
    script = Script(objects(), objects(serving("smol", READY)), refusal(403, "forbidden"), refusal(403, "forbidden"))
    result = llmos(script, "status")
    assert result.exit_code == 0
    assert "you may not list finetunejobs" in result.stdout
    assert "you may not list acceleratorclasses" in result.stdout


def test_all_namespaces_are_one_question_for_each_kind(llmos: Run) -> None:
    script = cluster([], [], [])
    llmos(script, "status", "-A")
    assert script.asked[0] == "GET /apis/llmos.dev/v1alpha1/llmmodels"
    assert len(script.requests) == 4


def test_jobs_are_shown_with_their_progress_and_hold_accelerators(llmos: Run) -> None:
    progress = {"step": 20, "totalSteps": 80, "loss": 1.5}
    training = job("support", TRAINING, class_name="nvidia-l4", phase="Training", progress=progress)
    result = llmos(cluster([], [serving("smol", READY)], [L4], [training]), "status")
    assert result.exit_code == 0
    for words in ("JOBS", "team/support", "◌ Training", "step 20/80, loss 1.5"):
        assert words in result.stdout, words
    used = next(line for line in result.stdout.splitlines() if line.startswith("nvidia-l4"))
    assert used.split()[-2:] == ["3", "8"]


def test_a_job_that_failed_is_a_problem_with_its_remedy(llmos: Run) -> None:
    result = llmos(cluster([], [], [], [job("support", GATE_FAILED, phase="Failed")]), "status")
    assert result.exit_code == 1
    assert "✗ FineTuneJob team/support: GateFailed" in result.stdout
    assert "what to do: Look at status.evaluation" in result.stdout


def test_a_job_that_waits_for_a_fetching_model_is_no_problem(llmos: Run) -> None:
    waiting = job("support", condition("False", "ModelNotReady", "LLMModel smollm2 says Fetching."))
    fetching = model("smollm2", condition("False", "Fetching", "The files are being fetched."))
    assert llmos(cluster([fetching], [], [], [waiting]), "status").exit_code == 0


FULL = condition("False", "QuotaExceeded", "Tenant a holds 1 of at most 1.")


@pytest.mark.parametrize(
    ("conditions", "attempts", "code"),
    [
        (condition("False", "Preempted", "team-b/chat-0 takes its place."), {"preemptions": 1}, 0),
        (FULL, {"preemptions": 1}, 0),
        (FULL, {}, 1),
    ],
)
def test_a_job_that_is_queued_again_after_a_preemption_is_no_problem(
    llmos: Run, conditions: Json, attempts: Json, code: int
) -> None:
    queued = job("support", conditions, phase="Queued", attempts=attempts)
    result = llmos(cluster([], [], [], [queued]), "status")
    assert result.exit_code == code
    assert "Lower replicas" not in result.stdout.replace("lower", "Lower"), "a job has none"


def test_an_older_llmos_that_knows_no_jobs_shows_the_rest(llmos: Run) -> None:
    script = Script(
        objects(), objects(serving("smol", READY)), httpx.Response(404, text="404 page not found"), objects()
    )
    assert llmos(script, "status").exit_code == 0


def test_json_holds_objects_and_judgements(llmos: Run) -> None:
    result = llmos(cluster([model("smollm2", AVAILABLE)], [pool("big", TOO_BIG)], [L4]), "status", "--json")
    screen = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [health["state"] for health in screen["health"]] == ["ready", "problem", "ready"]
    assert screen["pools"][0]["spec"]["accelerator"]["class"] == "nvidia-l4"


def test_a_cluster_that_is_away_ends_with_5_and_json_errors_are_json(llmos: Run) -> None:
    result = llmos(Script(httpx.ConnectError("refused")), "status")
    assert result.exit_code == 5
    assert "error: Cannot connect to https://cluster.test: refused." in result.stderr
    assert "what to do: Check that the cluster runs" in result.stderr
    result = llmos(Script(httpx.ConnectError("refused")), "status", "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]["type"]) == (5, "Unreachable")


def test_a_cluster_without_llmos_says_how_to_install_it(llmos: Run) -> None:
    result = llmos(Script(httpx.Response(404, text="404 page not found")), "status")
    assert result.exit_code == 1
    assert "helm install" in result.stderr
