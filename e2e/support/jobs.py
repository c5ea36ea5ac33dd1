"""What the stories of FineTuneJobs share: their base model, and waiting for what becomes of a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import yaml

from e2e.cluster.paths import repository_dir
from e2e.support.api import Api, Object
from e2e.support.objects import is_ready, read_condition
from e2e.support.waiting import eventually

OVER: Final = frozenset({"Succeeded", "Failed"})


async def wait_for_job(
    api: Api, namespace: str, name: str, what: str, is_so: Callable[[Any], object], *, timeout_s: float
) -> Object:
    """Wait until a job's status is as wanted, and return it. A job that ended otherwise is not waited for."""

    def is_wanted(job: Object | None) -> bool:
        status = (job or {}).get("status", {})
        if "phase" not in status:
            return False  # It was not looked at yet.
        if status["phase"] in OVER and not is_so(status):
            raise AssertionError(f"{what}: the job ended before. {read_condition(job)}")
        return bool(is_so(status))

    job = await eventually(
        what, lambda: api.get("FineTuneJob", name, namespace), is_wanted, timeout_s=timeout_s, poll_s=1
    )
    assert job is not None
    status: Object = job["status"]
    return status


def read_base_model(namespace: str) -> Object:
    """The real model of the quick start."""
    documents = yaml.safe_load_all((repository_dir() / "examples" / "quickstart.yaml").read_text())
    model: Object = next(each for each in documents if each["kind"] == "LLMModel")
    return {**model, "metadata": {**model["metadata"], "namespace": namespace}}


async def complete_job(api: Api, job: Object, *, timeout_s: float) -> tuple[dict[str, Any], Object]:
    """Wait for a job that must succeed; return its metrics by name, and the LLMModel that it made."""
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    status = await wait_for_job(
        api, namespace, name, "success", lambda status: status.get("phase") == "Succeeded", timeout_s=timeout_s
    )
    output = job["spec"]["output"]["name"]
    model = await eventually(
        "its model is known", lambda: api.get("LLMModel", output, namespace), is_ready, timeout_s=300
    )
    assert model is not None
    return {metric["name"]: metric for metric in status["evaluation"]["metrics"]}, model
