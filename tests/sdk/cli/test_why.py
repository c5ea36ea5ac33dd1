"""`llmos why` and `llmos replay`: a decision in words, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmos.api.scaling import ReplicaCapacity
from llmos_operator.planning.scaling import ScalingMemory, ScalingPolicy, plan_scaling
from llmos_operator.planning.scaling_inputs import GatewaySample, PoolSample, ReplicaSample
from llmos_operator.planning.scaling_record import ScalingRecord, write_record
from tests.sdk.cli.conftest import Run
from tests.sdk.client.support import BORN, READY, Json, Script, answer, condition, objects, pool, refusal

DECISION: Json = {
    "desired": 4,
    "raw": 3.75,
    "boundedBy": "",
    "message": "4 replicas are needed: 15 requests queued or running / 4 for each replica (queueDepth).",
    "since": BORN.isoformat(),
    "inputs": {"queued": 3, "running": 12, "ready": 1, "starting": 3, "stale": ["gateway g-2"]},
    "demands": [{"name": "queueDepth", "replicas": 3.75, "message": "15 requests queued or running / 4"}],
    "capacity": {"revision": "abc", "stepMilliseconds": 20.5, "samples": 512, "startSeconds": 40},
}


def scaled(decision: Json | None = DECISION, **scaling: Any) -> Json:
    thing = pool("smol", READY, desiredReplicas=4, readyReplicas=1)
    told = {"scaling": decision} if decision else {}
    return {**thing, "spec": {**thing["spec"], "scaling": scaling}, "status": {**thing["status"], **told}}


def test_the_decision_comes_first_then_what_it_rests_on(llmos: Run) -> None:
    result = llmos(Script(answer(scaled())), "why", "smol", age_s=150)
    assert result.exit_code == 0
    for words in (
        "InferencePool team/smol: 4 replicas since 2026-01-01 00:00:00 UTC (2 minutes ago); the load asks for 3.75, "
        "1 answer.",
        "15 requests queued or running / 4 for each replica",
        "1 to 8 (spec.scaling)",
        "3 queued, 12 running",
        "1 answer, 3 start",
        "missing     gateway g-2",
        "queueDepth  3.75",
        "over 512 busy seconds, revision abc",
        "40 s from creation to readiness",
    ):
        assert words in result.stdout, words


def test_a_program_gets_the_whole_status(llmos: Run) -> None:
    result = llmos(Script(answer(scaled(minReplicas=2))), "why", "smol", "--json")
    told = json.loads(result.stdout)
    assert told["limits"] == {"minReplicas": 2, "maxReplicas": 8, "window": ""}
    assert told["scaling"]["demands"] == DECISION["demands"]
    assert (told["mode"], told["desiredReplicas"], told["readyReplicas"]) == ("active", 4, 1)


@pytest.mark.parametrize("bound", ["unschedulable", "staleInputs"])
def test_what_is_not_as_it_should_be_ends_with_1(bound: str, llmos: Run) -> None:
    result = llmos(Script(answer(scaled({**DECISION, "boundedBy": bound}))), "why", "smol")
    assert result.exit_code == 1
    assert f"bounded by {bound}" in result.stdout


def test_limits_of_a_window_are_named(llmos: Run) -> None:
    window = {"name": "night", "start": "00:00", "end": "06:00", "maxReplicas": 1}
    result = llmos(Script(answer(scaled(schedule=[window]))), "why", "smol")
    assert "1 to 1 (window night of the schedule)" in result.stdout


def test_advice_says_that_nobody_follows_it(llmos: Run) -> None:
    result = llmos(Script(answer(scaled(mode="advisory"))), "why", "smol")
    assert "Only advice: 4 are desired." in result.stdout


def test_before_the_first_decision_it_ends_with_4(llmos: Run) -> None:
    result = llmos(Script(answer(scaled(None))), "why", "smol")
    assert result.exit_code == 4
    assert "has not decided yet" in result.stdout


def test_a_fixed_number_is_explained_by_who_fixed_it(llmos: Run) -> None:
    fixed = pool("smol", READY)
    fixed["spec"]["replicas"] = 3
    result = llmos(Script(answer(fixed)), "why", "smol")
    assert result.exit_code == 0
    assert "spec.replicas fixes the number at 3" in result.stdout
    assert json.loads(llmos(Script(answer(fixed)), "why", "smol", "--json").stdout)["mode"] == "fixed"


def test_a_pool_that_cannot_answer_says_so_whoever_decides_its_size(llmos: Run) -> None:
    trouble = condition("False", "AcceleratorClassNotFound", "There is no AcceleratorClass nvidia-h1000.")
    for thing in (pool("smol", trouble), {**scaled(), "status": {**scaled()["status"], "conditions": [trouble]}}):
        told = llmos(Script(answer(thing)), "why", "smol").stdout
        assert "Not ready (AcceleratorClassNotFound): There is no AcceleratorClass nvidia-h1000." in told
    assert "Not ready" not in llmos(Script(answer(pool("smol", READY))), "why", "smol").stdout


def operator_pod(name: str) -> Json:
    return {"metadata": {"name": name, "namespace": "llmos-system"}}


def recorded(*running: int) -> str:
    """Lines as the operator writes them."""
    policy = ScalingPolicy(1, 8, 4, None, None, None, scale_down_delay_s=3, scale_to_zero_after_s=600)
    memory, lines = ScalingMemory.restore(ReplicaCapacity(), 1, 0.0), []
    desired = 1
    for second, requests in enumerate(running):
        told = (ReplicaSample("r", running=requests),)
        sample = PoolSample(float(second), float(second > 0), GatewaySample(running=requests), told)
        plan = plan_scaling(policy, memory, sample)
        facts = (plan.desired, plan.raw, plan.bounded_by, plan.message)
        time = f"2026-01-01T00:00:{second:02}+00:00"
        lines.append(write_record(ScalingRecord(time, policy, memory.capacity, desired, sample, *facts)).decode())
        memory, desired = plan.memory, plan.desired
    return "".join(f"{line}\n" for line in lines)


def test_samples_come_from_the_leader_and_can_be_replayed(llmos: Run, tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    text = recorded(2, 2, 16, 16, 2, 2, 2, 2, 2)
    script = Script(
        objects(operator_pod("standby"), operator_pod("leader")),
        httpx.Response(404, text="this replica of the operator has decided nothing about such a pool"),
        httpx.Response(200, text=text),
    )
    result = llmos(script, "why", "smol", "--samples", str(file))
    assert (result.exit_code, result.stdout) == (0, f"{file}: 9 decisions\n")
    assert script.asked == [
        "GET /api/v1/pods",
        "GET /api/v1/namespaces/llmos-system/pods/standby:8080/proxy/scaling/team/smol",
        "GET /api/v1/namespaces/llmos-system/pods/leader:8080/proxy/scaling/team/smol",
    ]
    replayed = llmos(Script(), "replay", str(file))
    assert replayed.exit_code == 0
    lines = replayed.stdout.splitlines()
    assert lines[-1] == "9 decisions, all as they were recorded."
    assert "->  4: 4 replicas are needed: 16 requests" in lines[1]
    assert "->  4 [scaleDownDelay]" in lines[2]
    every = llmos(Script(), "replay", str(file), "--all", "--json").stdout.splitlines()
    assert [json.loads(line)["desired"] for line in every] == [1, 1, 4, 4, 4, 4, 4, 1, 1]


def test_a_replay_that_decides_otherwise_says_so(llmos: Run, tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text(recorded(16, 16).replace('"desired":4', '"desired":2'))
    result = llmos(Script(), "replay", str(file))
    assert "(recorded: 2)" in result.stdout
    assert "2 decisions, 2 differ from what was recorded" in result.stdout


@pytest.mark.parametrize("line", ["{}", "no json", '{"time": 3}'])
def test_a_file_that_holds_something_else_is_told_with_its_line(line: str, llmos: Run, tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text(recorded(1) + line)
    result = llmos(Script(), "replay", str(file))
    assert result.exit_code == 1
    assert "line 2 is no recorded decision" in result.stderr


def test_a_cluster_without_an_operator_is_told(llmos: Run, tmp_path: Path) -> None:
    result = llmos(Script(objects()), "why", "smol", "--samples", str(tmp_path / "x"), "--operator-namespace", "ai")
    assert result.exit_code == 3
    assert "No pod of the operator was found in namespace ai." in result.stderr


def test_a_pool_that_nobody_decides_about_is_told(llmos: Run, tmp_path: Path) -> None:
    script = Script(objects(operator_pod("leader")), httpx.Response(404, text="nothing"))
    result = llmos(script, "why", "smol", "--samples", str(tmp_path / "x"))
    assert result.exit_code == 3
    assert "Only pools with spec.scaling are decided about" in result.stderr


def test_a_user_who_may_not_reach_the_operator_learns_which_right_is_missing(llmos: Run, tmp_path: Path) -> None:
    result = llmos(Script(refusal(403, "pods is forbidden")), "why", "smol", "--samples", str(tmp_path / "x"))
    assert result.exit_code == 1
    assert "`get` on pods/proxy" in result.stderr
