"""The status of a pool: numbers and four conditions from its plan and its replicas."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import InferencePool, InferencePoolStatus, PoolPlan, Reason
from llmos.api.job_reasons import find_info
from llmos.api.reasons import REASONS
from llmos.api.scaling import ScalingStatus
from llmos_operator.planning.failures import Failure, build_failure
from llmos_operator.planning.pools import Layout, build_pool_status, compute_size, differs_in_details_only
from llmos_operator.planning.replicas import Replica, ReplicaState
from tests.operator.reconcilers.world import build_pool

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLAN = Layout(plan=PoolPlan(max_model_len=4096, message="fits"))
STARTING, READY, FAILED = ReplicaState.STARTING, ReplicaState.READY, ReplicaState.FAILED
OUT_OF_MEMORY = build_failure(Reason.OutOfMemory, "CUDA said so.")


def replica(state: ReplicaState, ordinal: int = 0, revision: str = "new", **more: Any) -> Replica:
    return Replica(f"chat-{revision}-{ordinal}", ordinal, revision, state, NOW, **more)


def status_of(
    *replicas: Replica,
    desired: int = 1,
    layout: Layout = PLAN,
    refused: Failure | None = None,
    previous: InferencePoolStatus | None = None,
    **spec: Any,
) -> InferencePoolStatus:
    body = build_pool(replicas=desired, **spec)
    body["metadata"]["generation"] = 7
    pool = InferencePool.model_validate(body).model_copy(update={"status": previous or InferencePoolStatus()})
    return build_pool_status(
        pool,
        layout=layout,
        size=compute_size(pool, None, NOW),
        revision="new",
        selector="a=b",
        url="http://chat",
        replicas=replicas,
        refused=refused,
        now=NOW,
    )


def read(status: InferencePoolStatus) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in status.conditions}


STORIES: dict[str, tuple[InferencePoolStatus, dict[str, tuple[str, str]]]] = {
    "nothing exists yet": (
        status_of(),
        {
            "Planned": ("True", "Fits"),
            "Available": ("False", "Starting"),
            "Progressing": ("True", "Scaling"),
            "Ready": ("False", "Starting"),
        },
    ),
    "one of two answers": (
        status_of(replica(READY), replica(STARTING, 1), desired=2),
        {
            "Planned": ("True", "Fits"),
            "Available": ("True", "Available"),
            "Progressing": ("True", "Scaling"),
            "Ready": ("False", "Starting"),
        },
    ),
    "all answer": (
        status_of(replica(READY), replica(READY, 1), desired=2),
        {
            "Planned": ("True", "Fits"),
            "Available": ("True", "Available"),
            "Progressing": ("False", "Complete"),
            "Ready": ("True", "Ready"),
        },
    ),
    "a change rolls out": (
        status_of(replica(READY, revision="old"), replica(STARTING)),
        {
            "Planned": ("True", "Fits"),
            "Available": ("True", "Available"),
            "Progressing": ("True", "RollingOut"),
            "Ready": ("False", "RollingOut"),
        },
    ),
    "the last old replica drains while the new one answers": (
        status_of(replica(ReplicaState.DRAINING, revision="old"), replica(READY)),
        {
            "Planned": ("True", "Fits"),
            "Available": ("True", "Available"),
            "Progressing": ("True", "Draining"),
            "Ready": ("True", "Ready"),
        },
    ),
    "a change fails while the old replica answers": (
        status_of(replica(READY, revision="old"), replica(FAILED, failure=OUT_OF_MEMORY)),
        {
            "Planned": ("True", "Fits"),
            "Available": ("True", "Available"),
            "Progressing": ("False", "OutOfMemory"),
            "Ready": ("False", "OutOfMemory"),
        },
    ),
    "the only replica failed": (
        status_of(replica(FAILED, failure=OUT_OF_MEMORY)),
        {
            "Planned": ("True", "Fits"),
            "Available": ("False", "OutOfMemory"),
            "Progressing": ("False", "OutOfMemory"),
            "Ready": ("False", "OutOfMemory"),
        },
    ),
    "an old replica that failed is no news": (
        status_of(replica(READY), replica(FAILED, 1, "old", failure=OUT_OF_MEMORY)),
        {
            "Planned": ("True", "Fits"),
            "Available": ("True", "Available"),
            "Progressing": ("False", "Complete"),
            "Ready": ("True", "Ready"),
        },
    ),
    "nothing is wanted": (
        status_of(desired=0),
        {
            "Planned": ("True", "Fits"),
            "Available": ("True", "ScaledToZero"),
            "Progressing": ("False", "Complete"),
            "Ready": ("True", "ScaledToZero"),
        },
    ),
    "there is no plan, but the old replicas answer": (
        status_of(replica(READY), layout=Layout(refusal=build_failure(Reason.DoesNotFit))),
        {
            "Planned": ("False", "DoesNotFit"),
            "Available": ("True", "Available"),
            "Progressing": ("False", "Complete"),
            "Ready": ("False", "DoesNotFit"),
        },
    ),
    "nothing is wanted, but what is asked for could not be": (
        status_of(desired=0, layout=Layout(refusal=build_failure(Reason.ModelNotFound))),
        {
            "Planned": ("False", "ModelNotFound"),
            "Available": ("True", "ScaledToZero"),
            "Progressing": ("False", "Complete"),
            "Ready": ("True", "ScaledToZero"),
        },
    ),
}


@pytest.mark.parametrize(("status", "conditions"), STORIES.values(), ids=STORIES.keys())
def test_the_conditions_tell_the_story(status: InferencePoolStatus, conditions: dict[str, tuple[str, str]]) -> None:
    assert read(status) == conditions
    assert {c.observed_generation for c in status.conditions} == {7}


PROBLEMS = [reason for reason, info in REASONS.items() if info.problem and "InferencePool" in info.kinds]


@pytest.mark.parametrize("reason", PROBLEMS)
@pytest.mark.parametrize("how", ["failed", "stuck", "refused", "no plan"])
def test_every_failure_reaches_ready_with_its_cause_and_its_remedy(reason: Reason, how: str) -> None:
    failure = build_failure(reason, "These numbers: 42.")
    status = {
        "failed": lambda: status_of(replica(FAILED, failure=failure)),
        "stuck": lambda: status_of(replica(STARTING, stuck=failure)),
        "refused": lambda: status_of(refused=failure),
        "no plan": lambda: status_of(layout=Layout(refusal=failure)),
    }[how]()
    (ready,) = [c for c in status.conditions if c.type == "Ready"]
    assert (ready.status, ready.reason) == ("False", reason.value)
    info = find_info(reason, "InferencePool")
    for words in (info.cause, "These numbers: 42.", info.remedy):
        assert words in ready.message


@pytest.mark.parametrize("how", ["failed", "no plan"])
def test_a_field_of_the_model_is_not_looked_for_in_the_pool(how: str) -> None:
    told = Failure(Reason.DiskFull, "The model needs 3 GiB more. Raise spec.storage.size to at least 9Gi.")
    once = status_of(replica(FAILED, failure=told)) if how == "failed" else status_of(layout=Layout(refusal=told))
    assert "Raise the LLMModel's spec.storage.size to at least 9Gi." in once.conditions[-1].message
    again = status_of(replica(STARTING, 1, attempt=1), previous=once)
    assert again.conditions[-1].message.count("the LLMModel's") <= 1


def test_a_failure_says_how_many_replicas_answer_meanwhile() -> None:
    status = status_of(replica(READY, revision="old"), replica(FAILED, failure=OUT_OF_MEMORY))
    assert "Meanwhile 1 replicas answer." in status.conditions[-1].message


def test_while_another_attempt_runs_the_last_failure_stays_and_goes_when_it_answers() -> None:
    failed = status_of(replica(FAILED, failure=OUT_OF_MEMORY))
    again = status_of(replica(STARTING, 1, attempt=1), previous=failed)
    assert again == failed.model_copy(update={"replicas": 1, "updated_replicas": 1})
    assert read(status_of(replica(READY, 1, attempt=1), previous=again))["Ready"] == ("True", "Ready")


def test_the_numbers_count_what_their_names_say() -> None:
    status = status_of(
        replica(READY),
        replica(STARTING, 1),
        replica(READY, 0, "old"),
        replica(ReplicaState.DRAINING, 1, "old"),
        replica(ReplicaState.TERMINATING, 2, "old"),
        replica(ReplicaState.LOST, 3, "old"),
        replica(FAILED, 4, failure=OUT_OF_MEMORY),
        desired=3,
        accelerator={"class": "h100", "count": 2},
    )
    assert (status.replicas, status.ready_replicas, status.updated_replicas, status.desired_replicas) == (3, 2, 2, 3)
    assert (status.draining_replicas, status.accelerators) == (2, 10)
    assert (status.selector, status.url, status.revision, status.observed_generation) == (
        "a=b",
        "http://chat",
        "new",
        7,
    )


replicas = st.lists(
    st.builds(
        replica,
        st.sampled_from([s for s in ReplicaState if s is not FAILED]),
        st.integers(0, 9),
        st.sampled_from(["old", "new"]),
        attempt=st.integers(0, 3),
        stuck=st.sampled_from([None, OUT_OF_MEMORY]),
    ),
    max_size=6,
)


@given(observed=replicas, desired=st.integers(0, 4))
def test_ready_is_true_only_if_all_desired_replicas_of_the_newest_revision_answer(
    observed: list[Replica], desired: int
) -> None:
    status = status_of(*observed, desired=desired)
    if read(status)["Ready"][0] == "True":
        newest = [r for r in observed if r.revision == "new" and r.state is READY]
        assert len(newest) >= desired
    assert all(c.message for c in status.conditions)
    again = status_of(*observed, desired=desired, previous=status)
    assert all(c.last_transition_time <= NOW + timedelta(0) for c in again.conditions)


def test_a_pool_without_room_names_the_accelerators_that_each_replica_asks_for() -> None:
    body = build_pool(scaling={"maxReplicas": 4}, accelerator={"class": "h100", "count": 4})
    pool = InferencePool.model_validate(body)
    decided = ScalingStatus(desired=1, raw=2.0, bounded_by="unschedulable", message="1 instead.")
    status = build_pool_status(
        pool,
        layout=PLAN,
        size=compute_size(pool, decided, NOW),
        revision="new",
        selector="a=b",
        url="http://chat",
        replicas=[replica(READY)],
        refused=None,
        now=NOW,
    )
    (ready,) = [condition for condition in status.conditions if condition.type == "Ready"]
    assert ready.reason == Reason.Unschedulable
    assert "asks for 4 x h100 (AcceleratorClass), and no node has that free" in ready.message


TOLD_CONDITION: dict[str, Any] = {
    "type": "Ready",
    "status": "False",
    "reason": "Starting",
    "message": "2 of 3 replicas answer.",
    "observedGeneration": 7,
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}
TOLD_CLASS: dict[str, Any] = {
    "class": "h100",
    "replicas": 3,
    "readyReplicas": 2,
    "accelerators": 6,
    "revision": "new",
}
TOLD: dict[str, Any] = {
    "observedGeneration": 7,
    "replicas": 3,
    "readyReplicas": 2,
    "updatedReplicas": 3,
    "drainingReplicas": 1,
    "desiredReplicas": 3,
    "accelerators": 6,
    "url": "http://chat",
    "revision": "new",
    "plan": {"maxModelLen": 4096},
    "acceleratorClasses": [TOLD_CLASS],
    "scaling": {"desired": 3, "message": "as it was"},
    "conditions": [TOLD_CONDITION],
}
DETAILS_OF_STATUS = [
    {"replicas": 4},
    {"readyReplicas": 1},
    {"updatedReplicas": 0},
    {"drainingReplicas": 0},
    {"accelerators": 8},
    {"replicas": 4, "accelerators": 8, "conditions": [TOLD_CONDITION | {"message": "2 of 4 replicas answer."}]},
    {"acceleratorClasses": [TOLD_CLASS | {"replicas": 4, "readyReplicas": 3, "accelerators": 8}]},
]
NEWS_OF_STATUS = [
    {"observedGeneration": 8},
    {"readyReplicas": 0},
    {"desiredReplicas": 4},
    {"revision": "newer"},
    {"url": "http://other"},
    {"plan": {"maxModelLen": 2048}},
    {"acceleratorClasses": []},
    {"acceleratorClasses": [TOLD_CLASS | {"revision": "newer"}]},
    {"acceleratorClasses": [TOLD_CLASS | {"message": "No node of it is left."}]},
    {"scaling": {"desired": 3, "message": "for another reason"}},
    {"conditions": [TOLD_CONDITION | {"reason": "OutOfMemory"}]},
    {"conditions": [TOLD_CONDITION | {"status": "True"}]},
    {"conditions": [TOLD_CONDITION | {"observedGeneration": 8}]},
    {"conditions": [TOLD_CONDITION, TOLD_CONDITION | {"type": "Admitted"}]},
    {"replicas": 4, "conditions": [TOLD_CONDITION | {"status": "True"}]},
]


@pytest.mark.parametrize("change", DETAILS_OF_STATUS)
def test_counts_and_words_are_details(change: dict[str, Any]) -> None:
    assert differs_in_details_only(TOLD, TOLD | change)
    assert differs_in_details_only(TOLD | change, TOLD)


@pytest.mark.parametrize("change", NEWS_OF_STATUS)
def test_what_somebody_waits_for_is_no_detail(change: dict[str, Any]) -> None:
    assert not differs_in_details_only(TOLD, TOLD | change)
    assert not differs_in_details_only(TOLD | change, TOLD)


def test_the_same_status_and_the_first_one_differ_in_no_details() -> None:
    assert not differs_in_details_only(TOLD, dict(TOLD))
    assert not differs_in_details_only({}, TOLD)


@given(before=replicas, after=replicas, wanted=st.tuples(st.integers(0, 4), st.integers(0, 4)))
def test_statuses_that_differ_in_details_say_the_same_to_whoever_waits(
    before: list[Replica], after: list[Replica], wanted: tuple[int, int]
) -> None:
    was, now = status_of(*before, desired=wanted[0]), status_of(*after, desired=wanted[1])
    if differs_in_details_only(was.to_manifest(), now.to_manifest()):
        assert read(was) == read(now)
        assert (was.ready_replicas > 0, was.desired_replicas) == (now.ready_replicas > 0, now.desired_replicas)
