"""`llmos get`, `llmos wait job/...`, `llmos why job/...` and `llmos logs`: a job from all sides."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from llmos.cli.reading_logs import render_text
from tests.sdk.cli.conftest import Run
from tests.sdk.client.support import (
    BORN,
    GATE_FAILED,
    JOBS,
    PODS,
    READY,
    SUCCEEDED,
    TRAINING,
    Json,
    Script,
    accelerator,
    answer,
    condition,
    events,
    job,
    log,
    model,
    objects,
    pod,
    pool,
    refusal,
)

REPORT: Json = {
    "lines": 210,
    "broken": 2,
    "duplicates": 8,
    "trainExamples": 190,
    "evalExamples": 10,
    "trainTokens": 9000,
    "lengthP50": 40,
    "lengthP99": 90,
    "lengthMax": 99,
    "lengths": [{"upTo": 64, "examples": 150}, {"upTo": 128, "examples": 50}],
    "examples": [{"line": "support.jsonl:17", "problem": "no assistant in messages [0]"}],
}
EVALUATION: Json = {
    "metrics": [
        {"name": "eval_loss", "base": 2.0, "result": 2.1, "examples": 10},
        {"name": "qa_exact_match", "base": 0.0, "result": 0.75, "examples": 40},
    ],
    "gates": [{"metric": "eval_loss", "passed": False, "message": "2.1 is above 0.95 x 2 = 1.9"}],
}
GATES: Json = {"gates": [{"metric": "eval_loss", "maxRelativeToBase": 0.95}]}


def step(kind: str, status: str, reason: str, message: str = "") -> Json:
    return {**condition(status, reason, message), "type": kind}


def failed() -> Json:
    return job(
        "support",
        GATE_FAILED,
        step("DatasetReady", "True", "Prepared", "190 examples."),
        step("Admitted", "True", "Admitted"),
        step("Trained", "True", "Trained"),
        step("Evaluated", "False", "GateFailed", "eval_loss 2.1 is above 1.9."),
        evaluate=GATES,
        phase="Failed",
        attempt=3,
        attempts={"preemptions": 1, "infrastructure": 1},
        lostAcceleratorSeconds=95,
        datasetReport=REPORT,
        metrics=[{"step": 40, "loss": 1.875, "evalLoss": 1.9}, {"step": 80, "evalLoss": 1.625}],
        evaluation=EVALUATION,
        progress={"step": 80, "totalSteps": 80, "loss": 1.5, "tokensPerSecond": 512, "etaSeconds": 0},
        lastCheckpoint={"step": 80, "time": BORN.isoformat(), "uri": "pvc://support/checkpoints", "sha256": "ab"},
        startTime=BORN.isoformat(),
        completionTime=(BORN + timedelta(minutes=3)).isoformat(),
    )


def test_one_job_is_shown_with_everything_that_was_found(llmos: Run) -> None:
    result = llmos(Script(answer(failed())), "get", "job/support")
    assert result.exit_code == 0
    for words in (
        "✗ FineTuneJob team/support: GateFailed",
        "what to do: Look at status.evaluation",
        "step 80/80, loss 1.5",
        "1 preempted or suspended, 1 of 20 lost with node or pod; 95 accelerator seconds lost",
        "DatasetReady",
        "190 examples.",
        "lines read",
        "190 (9000 tokens)",
        "TOKENS UP TO",
        "40    1.875  1.9",
        "80           1.625",
        "#" * 30,
        "#" * 10,
        "support.jsonl:17",
        "no assistant in messages [0]",
        "+5.0 %, worse",
        "+0.75, better",
        "eval_loss <= 0.95 x base",
        "2.1 is above 0.95 x 2 = 1.9",
        "0:03:00",
    ):
        assert words in result.stdout, words


def test_warnings_and_attempts_that_ended_are_shown(llmos: Run) -> None:
    ended = {
        "number": 2,
        "stage": "train",
        "countsAs": "infrastructure",
        "reason": "TrainingStalled",
        "step": 40,
        "endedAt": BORN.isoformat(),
    }
    warning = "output.attachTo: there is no InferencePool chat"
    trouble = job("support", condition("False", "Training"), phase="Training", warnings=[warning], history=[ended])
    shown = llmos(Script(answer(trouble)), "get", "job/support").stdout
    assert f"warning: {warning}" in shown
    assert "ENDED ATTEMPTS" in shown
    assert "TrainingStalled" in shown
    assert warning in llmos(Script(answer(trouble)), "why", "job/support").stdout
    told = json.loads(llmos(Script(answer(trouble)), "why", "job/support", "--json").stdout)
    assert (told["warnings"], told["history"][0]["step"]) == ([warning], 40)


def test_attempts_of_trials_say_whose_they_are(llmos: Run) -> None:
    ended = {"stage": "train", "countsAs": "user", "reason": "LossNotFinite", "endedAt": BORN.isoformat()}
    history = [{**ended, "number": 7, "trial": 3}, {**ended, "number": 1}]
    shown = llmos(Script(answer(job("support", condition("False", "Training"), history=history))), "get", "job/support")
    lines = shown.stdout.splitlines()
    head = next(index for index, line in enumerate(lines) if "TRIAL" in line)
    assert lines[head].split()[:2] == ["TRIAL", "NUMBER"]
    assert lines[head + 1].split()[:3] == ["3", "7", "train"]
    assert lines[head + 2].split()[:2] == ["1", "train"]


def test_a_teacher_stands_beside_base_and_result(llmos: Run) -> None:
    metrics = [
        {"name": "eval_loss", "base": 2.0, "result": 1.5, "teacher": 1.25, "examples": 10},
        {"name": "eval_kl", "base": 0.8, "result": 0.2, "teacher": 0.0, "examples": 10},
        {"name": "old_loss", "base": 2.0, "result": 1.5, "examples": 10},
    ]
    taught = job("support", SUCCEEDED, phase="Succeeded", evaluation={"metrics": metrics}, teacherDigest="sha256:4567")
    taught["spec"]["method"] = {"task": "distill", "distill": {"teacherRef": {"name": "big"}}}
    shown = llmos(Script(answer(taught)), "get", "job/support").stdout
    assert "taught by big sha256:4567" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["METRIC", "BASE", "RESULT", "CHANGE", "TEACHER", "EXAMPLES"] in lines
    assert ["eval_kl", "0.8", "0.2", "-75.0", "%,", "better", "0", "10"] in lines
    assert ["eval_loss", "2", "1.5", "-25.0", "%,", "better", "1.25", "10"] in lines
    assert ["old_loss", "2", "1.5", "-25.0", "%,", "better", "10"] in lines


def test_a_new_job_is_shown_before_anybody_looked_at_it(llmos: Run) -> None:
    result = llmos(Script(answer(job("support"))), "get", "ftj", "support")
    assert (result.exit_code, "CONDITIONS  none" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ({"nodes": 2}, "2 nodes, 1 x h100 each"),
        ({"acceleratorsPerNode": 8}, "8 x h100"),
        ({"nodes": 4, "acceleratorsPerNode": 8}, "4 nodes, 8 x h100 each"),
    ],
)
def test_where_a_job_trains_is_told(llmos: Run, trainer: Json, words: str) -> None:
    thing = job("support", class_name="h100")
    thing["spec"]["trainer"] |= trainer
    assert words in llmos(Script(answer(thing)), "get", "job/support").stdout


@pytest.mark.parametrize(
    ("kind", "thing"),
    [
        ("jobs", job("support", TRAINING)),
        ("models", model("support", condition("True", "Available"))),
        ("pools", pool("support", READY)),
        ("accelerators", accelerator("support", "80Gi", condition("True", "NodesFound"))),
    ],
)
def test_all_of_a_kind_are_a_table_and_one_has_its_conditions(llmos: Run, kind: str, thing: Json) -> None:
    table = llmos(Script(objects(thing)), "get", kind)
    assert (table.exit_code, "support" in table.stdout) == (0, True)
    assert json.loads(llmos(Script(objects(thing)), "get", kind, "--json").stdout)[0]["kind"] == thing["kind"]
    one = llmos(Script(answer(thing)), "get", f"{kind}/support")
    assert (one.exit_code, "CONDITIONS" in one.stdout) == (0, True)


def test_get_names_what_it_knows_and_what_is_missing(llmos: Run) -> None:
    result = llmos(Script(), "get", "cat/felix")
    assert (result.exit_code, "none of model, pool, job, accelerator" in result.stderr) == (2, True)
    assert llmos(Script(refusal(404, "no")), "get", "job/none").exit_code == 3


def test_jobs_of_all_namespaces_are_one_question(llmos: Run) -> None:
    script = Script(objects())
    llmos(script, "get", "jobs", "-A")
    assert script.asked == ["GET /apis/llmos.dev/v1alpha1/finetunejobs"]


@pytest.mark.parametrize("words", [("job/support",), ("ftj", "support"), ("finetunejobs/support",)])
def test_a_job_is_waited_for(llmos: Run, words: tuple[str, ...]) -> None:
    script = Script(answer(job("support", TRAINING, phase="Training")), events(("MODIFIED", job("support", SUCCEEDED))))
    result = llmos(script, "wait", *words)
    assert (result.exit_code, result.stdout) == (0, "FineTuneJob support has succeeded.\n")
    assert "support: Training: Step 20 of 80." in result.stderr


def test_waiting_for_a_job_that_failed_ends_at_once_with_4(llmos: Run) -> None:
    result = llmos(Script(answer(failed())), "wait", "job/support")
    assert (result.exit_code, "has failed (GateFailed)" in result.stderr) == (4, True)


def test_why_a_job_failed_stands_first_then_its_steps(llmos: Run) -> None:
    result = llmos(Script(answer(failed())), "why", "job/support", age_s=240)
    assert result.exit_code == 1
    for words in (
        "FineTuneJob team/support: Failed (GateFailed), ended 1 minute ago\n  eval_loss 2.1",
        "what to do: Look at status.evaluation",
        "dataset       done: Prepared: 190 examples.",
        "evaluation    not done: GateFailed: eval_loss 2.1 is above 1.9.",
        "registration  not reached",
        "ended before  1 preempted or suspended",
        "done twice    95 accelerator seconds",
        "checkpoint    step 80, 4 minutes ago",
        "fails         eval_loss: 2.1 is above 0.95 x 2 = 1.9",
    ):
        assert words in result.stdout, words


def test_why_tells_what_a_job_waits_for_and_what_will_be_asked(llmos: Run) -> None:
    waits = condition("False", "WaitsForReclaim", "4 accelerators are being given back.")
    queued = job("support", waits, evaluate=GATES, phase="Queued", startTime=BORN.isoformat())
    result = llmos(Script(answer(queued)), "why", "ftj/support", age_s=90)
    assert result.exit_code == 0
    assert "Queued (WaitsForReclaim), begun 1 minute ago" in result.stdout
    assert "asked         eval_loss <= 0.95 x base" in result.stdout
    told = json.loads(llmos(Script(answer(queued)), "why", "job/support", "--json").stdout)
    assert (told["state"], told["steps"][0]) == ("working", {"step": "dataset", "condition": None})


def test_why_before_the_operator_looked_ends_with_4(llmos: Run) -> None:
    assert llmos(Script(answer(job("support"))), "why", "job/support").exit_code == 4


@pytest.mark.parametrize("words", [("model/smollm2",), ("job/support", "--samples", "x.jsonl")])
def test_why_refuses_what_it_cannot_explain(llmos: Run, words: tuple[str, ...]) -> None:
    assert llmos(Script(), "why", *words).exit_code == 2


def line(step: int, **more: object) -> str:
    progress = {"step": step, "totalSteps": 80, "loss": 1.5}
    return json.dumps({"event": "progress", "phase": "training", "progress": progress, "lastCheckpoint": None, **more})


def test_logs_show_progress_in_words_unless_raw(llmos: Run) -> None:
    def script() -> Script:
        return Script(answer(job("support")), objects(pod("t-1")), log((1, "loading"), (2, line(20))))

    assert llmos(script(), "logs", "job/support").stdout == "loading\ntraining: step 20/80, loss 1.5\n"
    assert line(20) in llmos(script(), "logs", "job/support", "--raw").stdout
    told = [json.loads(each) for each in llmos(script(), "logs", "job/support", "--json").stdout.splitlines()]
    assert told[0] == {"pod": "t-1", "container": "train", "time": "2026-01-01T00:00:01.5Z", "text": "loading"}


def test_a_sign_of_life_is_shown_in_words() -> None:
    assert render_text('{"event": "progress", "phase": "loading", "activeAt": "2026-01-01T00:00:00+00:00"}') == (
        "loading: goes on"
    )


@pytest.mark.parametrize(
    "text", ["{torn", '{"event": "other"}', '{"event": "progress"}', '{"event":"progress","progress":3}']
)
def test_other_lines_stay_as_they_are(text: str) -> None:
    assert render_text(text) == text


def test_a_checkpoint_is_named_with_its_step() -> None:
    assert render_text(line(40, lastCheckpoint={"step": 40})).endswith("checkpoint at step 40")


def test_lines_of_several_replicas_are_told_apart(llmos: Run) -> None:
    engines = [pod(name, component="replica", states={"engine": {"running": {}}}) for name in ("a", "b")]
    script = Script(answer(pool("smol", READY)), objects(*engines), log((1, "one")), log((1, "two")))
    assert llmos(script, "logs", "pool/smol").stdout == "one\n==> b engine <==\ntwo\n"


def test_a_model_has_logs_of_its_steps_and_options_reach_the_server(llmos: Run) -> None:
    fetch = pod("fetch-1", component="fetch", states={"fetch": {"running": {}}})
    script = Script(answer(model("smollm2")), objects(fetch), log((1, "41 %")))
    assert llmos(script, "logs", "model/smollm2", "--tail", "3", "--since", "5m").stdout == "41 %\n"
    asked = script.requests[2].url.params
    assert (asked["tailLines"], asked["sinceSeconds"]) == ("3", "300")
    assert script.requests[1].url.params["labelSelector"].endswith("in (inspect,fetch)")


def test_following_says_what_it_waits_for_and_ends_with_the_job(llmos: Run) -> None:
    script = Script(answer(job("support", SUCCEEDED)), objects(), answer(job("support", SUCCEEDED)))
    result = llmos(script, "logs", "-f", "job/support")
    assert (result.exit_code, script.asked) == (0, [f"GET {JOBS}/support", f"GET {PODS}", f"GET {JOBS}/support"])
    assert "-- FineTuneJob support: Registered" in result.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("accelerator/gold",), "none of job/NAME, pool/NAME, model/NAME"),
        (("support",), "none of job/NAME"),
        (("job/support", "-f", "--previous"), "leave -f out"),
        (("job/support", "--since", "yesterday"), "is no time such as 30s"),
    ],
)
def test_wrong_usage_of_logs_is_told(llmos: Run, words: tuple[str, ...], told: str) -> None:
    result = llmos(Script(), "logs", *words)
    assert (result.exit_code, told in " ".join(result.stderr.split())) == (2, True), result.stderr
