"""`llmos promote` and `rollback`, and canaries on the screens of a job."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sdk.cli.conftest import Run
from tests.sdk.client.support import SUCCEEDED, Json, Script, answer, condition, job

OUTPUT = {
    "name": "support-v2",
    "attachTo": [{"pool": "chat", "replaces": "support", "weight": 10}, {"pool": "more"}],
}

RUNNING = condition("False", "CanaryRunning", "Pool chat: No regression.")


def canary(state: str = "Running", **more: Any) -> Json:
    return {
        "pool": "chat",
        "replaces": "support",
        "weight": 10,
        "state": state,
        "result": {"name": "support-v2", "requests": 60, "failed": 1, "ttftMilliseconds": 120.5},
        "incumbent": {"name": "support", "requests": 540, "failed": 3},
        "message": "No regression.",
        **more,
    }


def tried(state: str = "Running", ready: Json = RUNNING, phase: str = "Canary") -> Json:
    found = job("support-v2", ready, phase=phase, canaries=[canary(state)])
    return {**found, "spec": {**found["spec"], "output": OUTPUT}}


def test_a_person_promotes_it_by_weight_100(llmos: Run) -> None:
    script = Script(answer(tried()), answer(tried()))
    result = llmos(script, "promote", "job/support-v2")
    assert (result.exit_code, "takes all requests in chat" in result.stdout) == (0, True)
    targets = [{"pool": "chat", "replaces": "support", "weight": 100}, {"pool": "more"}]
    assert script.body() == {"spec": {"output": {"attachTo": targets}}}


@pytest.mark.parametrize("state", ["Running", "Promoted"])
def test_a_person_detaches_it_also_when_it_was_promoted(llmos: Run, state: str) -> None:
    script = Script(answer(tried(state)), answer(tried(state)))
    result = llmos(script, "rollback", "support-v2", "--pool", "chat")
    assert (result.exit_code, "is detached from chat" in result.stdout) == (0, True)
    assert script.body() == {"spec": {"output": {"attachTo": [{"pool": "more"}]}}}


@pytest.mark.parametrize(
    ("words", "state"),
    [(("promote",), "Promoted"), (("rollback",), "RolledBack"), (("promote", "--pool", "more"), "Running")],
)
def test_what_is_decided_or_no_canary_is_refused(llmos: Run, words: tuple[str, ...], state: str) -> None:
    script = Script(answer(tried(state, SUCCEEDED, "Succeeded")))
    result = llmos(script, words[0], "job/support-v2", *words[1:])
    assert result.exit_code == 1
    assert f"chat: {state}" in result.stderr


def test_both_adapters_stand_side_by_side(llmos: Run) -> None:
    result = llmos(Script(answer(tried())), "get", "job/support-v2")
    for words in ("CANARIES", "chat (replaces support), more", "10 %", "support-v2: 1 of 60 failed", "TTFT 120.5 ms"):
        assert words in " ".join(result.stdout.split()), words


def test_why_tells_of_the_canary_only_where_there_is_one(llmos: Run) -> None:
    result = llmos(Script(answer(tried())), "why", "job/support-v2")
    assert "canary        not reached" in result.stdout
    assert "Running: 10 % of the requests for support. No regression." in result.stdout
    told = json.loads(llmos(Script(answer(tried())), "why", "job/support-v2", "--json").stdout)
    assert told["canaries"][0]["incumbent"]["requests"] == 540
    assert "canary" not in llmos(Script(answer(job("plain", SUCCEEDED))), "why", "job/plain").stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--replaces", "support"), "name one"),
        (("--attach", "chat", "--weight", "5"), "only a canary has it"),
        (("--attach", "chat", "--replaces", "v2"), "the name of the result itself"),
        (("--attach", "chat", "--replaces", "support", "--promote-after", "soon"), "soon"),
    ],
)
def test_a_wish_for_a_canary_that_makes_no_sense_is_refused(llmos: Run, options: tuple[str, ...], words: str) -> None:
    asked = ("tune", "--base", "smol", "--data", "https://a/b", "--name", "v2", "--class", "cpu", "--dry-run")
    result = llmos(Script(), *asked, *options)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.replace("│", " ").split())


def test_a_canary_is_asked_for_by_options(llmos: Run) -> None:
    asked = ("tune", "--base", "smol", "--data", "https://a/b", "--name", "v2", "--class", "cpu", "--dry-run", "--json")
    canary = ("--attach", "chat", "--replaces", "support", "--weight", "5", "--promote-after", "2h")
    told = json.loads(llmos(Script(), *asked, *canary).stdout)
    assert told["spec"]["output"] == {
        "name": "v2",
        "attachTo": [{"pool": "chat", "replaces": "support", "weight": 5, "promoteAfter": "2h"}],
    }


def test_brackets_in_what_a_replica_says_are_shown_as_they_are(llmos: Run) -> None:
    found = tried()
    found["status"]["canaries"] = [canary(message="No replica serves it. AdapterTooLarge: [red] and [/model] differ.")]
    result = llmos(Script(answer(found)), "get", "job/support-v2")
    assert result.exit_code == 0
    assert "[red] and [/model] differ" in " ".join(result.stdout.split())
