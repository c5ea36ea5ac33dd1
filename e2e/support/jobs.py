"""What the stories of FineTuneJobs share: waiting for a job's status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from e2e.support.api import Api, Object
from e2e.support.objects import read_condition
from e2e.support.waiting import eventually

OVER: Final = frozenset({"Succeeded", "Failed"})


async def wait_for_job(
    api: Api, namespace: str, name: str, what: str, is_so: Callable[[Any], object], *, timeout_s: float
) -> Object:
    """Wait until a job's status is as wanted, and return it. A job that ended otherwise is not waited for."""

    def is_wanted(job: Object | None) -> bool:
        status = (job or {}).get("status", {})
        if status.get("phase") in OVER and not is_so(status):
            raise AssertionError(f"{what}: the job ended before. {read_condition(job)}")
        return bool(is_so(status))

    job = await eventually(
        what, lambda: api.get("FineTuneJob", name, namespace), is_wanted, timeout_s=timeout_s, poll_s=1
    )
    assert job is not None
    status: Object = job["status"]
    return status
