"""`llmos promote` and `rollback`: a person decides about a canary; and how canaries are shown."""

from __future__ import annotations

import json

from rich.console import RenderableType
from rich.text import Text

from llmos.api import ArmStatus, AttachTo, CanaryStatus, FineTuneJob
from llmos.cli.screen import build_table
from llmos.client import Client, InvalidError


def run_promote(client: Client, name: str, pool: str | None, *, as_json: bool) -> None:
    """Have the result take all requests for the name that it replaces, now.

    Raises:
        InvalidError: there is no canary that goes on.
    """
    job = client.jobs.get(name)
    chosen = _choose(job, pool, also_ended=False)
    targets = [
        target.model_copy(update={"weight": 100}) if target.pool in chosen else target
        for target in job.spec.output.attach_to
    ]
    changed = client.jobs.attach(name, targets)
    _print(changed, f"The result of {name} takes all requests in {', '.join(chosen)}.", as_json=as_json)


def run_rollback(client: Client, name: str, pool: str | None, *, as_json: bool) -> None:
    """Take the result out of pools where it replaces another adapter.

    Raises:
        InvalidError: it replaces nothing there.
    """
    job = client.jobs.get(name)
    chosen = _choose(job, pool, also_ended=True)
    targets = [target for target in job.spec.output.attach_to if target.pool not in chosen]
    changed = client.jobs.attach(name, targets)
    _print(changed, f"The result of {name} is detached from {', '.join(chosen)}.", as_json=as_json)


def _choose(job: FineTuneJob, pool: str | None, *, also_ended: bool) -> list[str]:
    """Return the pools that are meant.

    Raises:
        InvalidError: there are none.
    """
    ended = {"RolledBack"} if also_ended else {"Promoted", "RollingBack", "RolledBack"}
    found = [each.pool for each in job.status.canaries if each.state not in ended and pool in (None, each.pool)]
    if found:
        return found
    name, where = job.metadata.name, f" in pool {pool}" if pool else ""
    told = ", ".join(f"{each.pool}: {each.state}" for each in job.status.canaries)
    raise InvalidError(
        f"FineTuneJob {name} has no canary{where} about which something is to be decided.",
        f"Its canaries: {told}." if told else "Its output.attachTo names nothing in replaces, or it has not ended yet.",
    )


def _print(job: FineTuneJob, words: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(job.to_manifest(), indent=2))
        return
    where = f" -n {job.metadata.namespace}" if job.metadata.namespace else ""
    print(f"{words} See it with: llmos get job/{job.metadata.name}{where}")


def draw_canaries(job: FineTuneJob) -> list[RenderableType]:
    """One line for each pool, and the two adapters side by side."""
    if not job.status.canaries:
        return []
    table = build_table("CANARIES", "POOL", "REPLACES", "STATE", "SHARE", "RESULT", "INCUMBENT", "WHY")
    for each in job.status.canaries:
        share = f"{each.weight} %"
        # What replicas say may have brackets, which are no markup.
        why = Text(each.message)
        table.add_row(each.pool, each.replaces, each.state, share, _say_arm(each.result), _say_arm(each.incumbent), why)
    return [table, ""]


def list_canary_rows(job: FineTuneJob) -> list[tuple[str, str]]:
    """Pool and state, in words."""
    return [(each.pool, _say_canary(each)) for each in job.status.canaries]


def list_attached_words(targets: tuple[AttachTo, ...]) -> str:
    """The pools, with what is replaced there."""
    return ", ".join(target.pool + (f" (replaces {target.replaces})" if target.replaces else "") for target in targets)


def _say_canary(canary: CanaryStatus) -> str:
    return f"{canary.state}: {canary.weight} % of the requests for {canary.replaces}. {canary.message}"


def _say_arm(arm: ArmStatus | None) -> str:
    if arm is None or not arm.name:
        return "none"
    parts = [f"{arm.name}: {arm.failed} of {arm.requests} failed"]
    if arm.ttft_milliseconds is not None:
        parts.append(f"TTFT {arm.ttft_milliseconds:.4g} ms")
    if arm.tpot_milliseconds is not None:
        parts.append(f"TPOT {arm.tpot_milliseconds:.4g} ms")
    return ", ".join(parts)
