"""What Kubernetes counts of a ResourceQuota, as its status says it: the reason QuotaNotCounted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmos.api import REASONS, Reason
from llmos_operator.planning.quota_counted import FIRST_COUNT_S, build_counted_fact, find_uncounted

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HARD = {"count/llmmodels.llmos.dev": "500", "requests.nvidia.com/gpu": "8"}


def quota(namespace: str = "team-a", *, age_s: float = 0, **status: Any) -> dict[str, Any]:
    made = (NOW - timedelta(seconds=age_s)).isoformat()
    metadata = {"name": "llmos-quota", "namespace": namespace, "creationTimestamp": made}
    return {"metadata": metadata, "spec": {"hard": HARD}, **({"status": status} if status else {})}


def judge(*quotas: dict[str, Any]) -> tuple[str, Reason, str]:
    fact = build_counted_fact(find_uncounted(quotas, {}), NOW)
    return fact.status, fact.reason, fact.message


def test_a_quota_whose_status_has_all_of_its_names_is_counted() -> None:
    assert judge(quota(hard=HARD, used=dict.fromkeys(HARD, "0")))[:2] == ("True", Reason.QuotaCounted)
    assert judge()[:2] == ("True", Reason.QuotaCounted)


def test_a_kind_that_the_quota_controller_does_not_know_is_refused_by_the_api_server_and_named() -> None:
    status, reason, message = judge(quota(hard=HARD, used={"requests.nvidia.com/gpu": "0"}))
    assert (status, reason) == ("False", Reason.QuotaNotCounted)
    assert "team-a/llmos-quota: status.used lacks count/llmmodels.llmos.dev, so new objects of that" in message
    assert "requests.nvidia.com/gpu" not in message
    assert message.endswith(REASONS[Reason.QuotaNotCounted].remedy)


@pytest.mark.parametrize(
    ("age_s", "status"), [(0, "Unknown"), (FIRST_COUNT_S - 1, "Unknown"), (FIRST_COUNT_S, "False")]
)
def test_a_quota_without_a_status_bounds_nothing_which_is_a_problem_once_it_is_not_new(
    age_s: float, status: str
) -> None:
    told, reason, message = judge(quota(age_s=age_s))
    assert (told, reason) == (status, Reason.QuotaNotCounted)
    assert "status.hard lacks count/llmmodels.llmos.dev, requests.nvidia.com/gpu, so that is not bounded" in message


def test_a_name_that_was_added_is_not_bounded_until_it_is_counted() -> None:
    before = {"requests.nvidia.com/gpu": "8"}
    status, _, message = judge(quota(age_s=600, hard=before, used=before))
    assert status == "False"
    assert "status.hard lacks count/llmmodels.llmos.dev, so" in message


def test_of_many_namespaces_some_are_named_and_the_others_numbered() -> None:
    message = judge(*(quota(f"team-{number}") for number in range(64)))[2]
    assert "team-0/llmos-quota" in message
    assert "So it is with 59 more." in message
