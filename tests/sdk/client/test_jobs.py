"""FineTuneJobs: made once, waited for until they end, suspended and resumed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmos.api import REASONS, FineTuneJob, Reason
from llmos.client import ConflictError, NotReadyError, Verdict, judge
from tests.sdk.client.support import (
    GATE_FAILED,
    JOBS,
    SUCCEEDED,
    TRAINING,
    Handler,
    Script,
    Twin,
    answer,
    condition,
    events,
    job,
    refusal,
)

Make = Callable[[Handler], Twin]
OTHERS_CAN_HELP = {
    Reason.ModelNotFound,
    Reason.ModelNotReady,
    Reason.AcceleratorClassNotFound,
    Reason.NoNodeHasAccelerator,
}


def build(name: str = "support") -> FineTuneJob:
    spec = {key: value for key, value in job(name)["spec"].items() if key not in ("suspend", "evaluate")}
    return FineTuneJob.model_validate({"metadata": {"name": name}, "spec": spec})


async def test_create_sends_only_what_is_set(client_for: Make) -> None:
    script = Script(answer(job("support"), 201))
    made = await client_for(script).call("jobs", "create", build())
    assert (made.metadata.namespace, script.asked) == ("team", [f"POST {JOBS}"])
    assert script.requests[0].url.params["fieldManager"] == "llmos-cli"
    assert set(script.body()["spec"]) == {"baseModelRef", "dataset", "trainer", "output"}


async def test_a_name_that_is_taken_changes_nothing_and_is_told(client_for: Make) -> None:
    with pytest.raises(ConflictError, match=r"FineTuneJob team/support exists already\. Choose another name"):
        await client_for(Script(refusal(409, "already exists"))).call("jobs", "create", build())


async def test_waiting_ends_with_success(client_for: Make) -> None:
    seen: list[str] = []
    script = Script(answer(job("support", TRAINING)), events(("MODIFIED", job("support", SUCCEEDED))))
    done = await client_for(script).call(
        "jobs", "wait_ready", "support", 60, on_change=lambda thing: seen.append(thing.status.conditions[0].reason)
    )
    assert (seen, judge(done)) == (["Training", "Registered"], Verdict.READY)


async def test_waiting_ends_at_once_with_the_failure_and_its_remedy(client_for: Make) -> None:
    with pytest.raises(NotReadyError, match=r"FineTuneJob support has failed \(GateFailed\): eval_loss 2\.1") as caught:
        await client_for(Script(answer(job("support", GATE_FAILED, phase="Failed")))).call(
            "jobs", "wait_ready", "support", 3600
        )
    assert caught.value.remedy == REASONS[Reason.GateFailed].remedy


async def test_a_deadline_is_no_failure(client_for: Make) -> None:
    with pytest.raises(NotReadyError, match=r"has not ended after 0 s \(Training\)"):
        await client_for(Script(answer(job("support", TRAINING)))).call("jobs", "wait_ready", "support", 0)


@pytest.mark.parametrize("reason", [r for r in Reason if "FineTuneJob" in REASONS[r].kinds and REASONS[r].problem])
def test_a_failure_is_final_where_the_phase_says_it_or_only_a_person_can_help(reason: Reason) -> None:
    def judge_in(phase: str) -> Verdict:
        return judge(FineTuneJob.model_validate(job("support", condition("False", reason), phase=phase)))

    needs_person = REASONS[reason].retry == "on-change" and reason not in OTHERS_CAN_HELP
    assert judge_in("Failed") is Verdict.FAILED
    assert judge_in("Pending") is (Verdict.FAILED if needs_person else Verdict.WAIT)


async def test_what_cannot_go_on_has_not_failed(client_for: Make) -> None:
    refused = answer(job("support", condition("False", "DoesNotFit", "Needs 40 GiB."), phase="Pending"))
    with pytest.raises(NotReadyError, match=r"FineTuneJob support cannot go on \(DoesNotFit\): Needs 40 GiB"):
        await client_for(Script(refused)).call("jobs", "wait_ready", "support", 3600)


@pytest.mark.parametrize(("method", "value"), [("suspend", True), ("resume", False)])
async def test_suspend_and_resume_change_one_field(client_for: Make, method: str, value: bool) -> None:
    script = Script(answer(job("support", suspend=value)))
    changed = await client_for(script).call("jobs", method, "support")
    assert (changed.spec.suspend, script.asked) == (value, [f"PATCH {JOBS}/support"])
    assert script.body() == {"spec": {"suspend": value}}
