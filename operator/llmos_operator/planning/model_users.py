"""Who still needs an LLMModel that is to be deleted. Pure.

A pool needs the model that it serves, and its adapters. A FineTuneJob needs its base model, and the teacher of task
distill, until it is over: each attempt reads them, and an adapter is registered for the base that it was learned on.
One that succeeded or failed needs neither, and one that is being deleted makes no attempt any more.

Bodies are read as they are: what a newer version wrote holds a model back all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

JsonObject = Mapping[str, Any]

_OVER: Final = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True)
class Users:
    """Names of those who use a model, sorted."""

    pools: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()

    @property
    def is_any(self) -> bool:
        """Whether there is one."""
        return bool(self.pools or self.jobs)

    def __str__(self) -> str:
        """Who they are, in sentences."""
        kinds = (("Pools", self.pools), ("FineTuneJobs", self.jobs))
        return " ".join(f"{kind} that use it: {', '.join(names)}." for kind, names in kinds if names)


def find_users(name: str, pools: Iterable[JsonObject], jobs: Iterable[JsonObject]) -> Users:
    """Return which of the pools and jobs of a namespace use the model `name`."""
    return Users(
        tuple(sorted(pool["metadata"]["name"] for pool in pools if name in _models_of_pool(pool))),
        tuple(sorted(job["metadata"]["name"] for job in jobs if not _is_over(job) and name in _models_of_job(job))),
    )


def _models_of_pool(pool: JsonObject) -> set[str]:
    spec = pool["spec"]
    adapters = (spec.get("adapters") or {}).get("models") or ()
    return {spec["modelRef"]["name"], *(reference["name"] for reference in adapters)}


def _models_of_job(job: JsonObject) -> set[str]:
    spec = job["spec"]
    distill = (spec.get("method") or {}).get("distill")
    return {spec["baseModelRef"]["name"], *([distill["teacherRef"]["name"]] if distill else ())}


def _is_over(job: JsonObject) -> bool:
    return "deletionTimestamp" in job["metadata"] or (job.get("status") or {}).get("phase") in _OVER
