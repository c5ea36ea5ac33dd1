"""The simulation around the ledger: nothing is lost, nothing is held twice, and what is reported was counted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from bench.quota.__main__ import RECLAIM_EVERY_S, SCENARIOS, main
from bench.quota.baseline import QUEUES, Track, build_jobs, build_pods, make_gang
from bench.quota.manifests import NO_SCHEDULER, Object
from bench.quota.policies import build_policies
from bench.quota.simulation import Result, Simulation
from bench.quota.workload import build_workload

PART = 0.02


def run_all(**options: bool) -> dict[str, Result]:
    workload = build_workload(part=PART, **options)
    return {
        name: Simulation(workload, policy).run()
        for name, policy in build_policies(workload, reclaim_every_s=RECLAIM_EVERY_S)
    }


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_job_is_done_and_ran_for_as_long_as_it_needs(scenario: str) -> None:
    for result in run_all(**SCENARIOS[scenario]).values():
        for track in result.tracks:
            assert track.finished_s is not None
            assert track.admitted_s is not None
            assert track.finished_s - track.admitted_s >= track.job.runtime_s - 1e-6
            assert track.waited_s >= 0
        assert 0 < result.use <= 1
        assert result.admissions == len(result.tracks) + sum(track.stops for track in result.tracks)


def test_the_whole_baseline_has_the_size_and_the_work_of_kueue_s() -> None:
    workload = build_workload()
    assert (len(workload.tenants), len(workload.jobs), workload.accelerators) == (30, 15_000, 600)
    assert workload.work_s / workload.accelerators == pytest.approx(66_000)
    assert build_workload(whole_nodes=True).work_s == workload.work_s


def test_only_the_ledger_asks_anybody_to_go() -> None:
    results = run_all(rush=True)
    assert results["FIFO"].asked == results["strict priority"].asked == 0
    assert results["LLMOS ledger"].asked > 0


def test_the_command_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "quota.json"
    main(json_out=out, part=PART)
    written = json.loads(out.read_text())
    assert len(written["rows"]) == 3 * len(SCENARIOS)
    assert "Kueue (commit ff69552e)" in capsys.readouterr().out


def build_seen(name: str, phase: str, **metadata: str) -> Object:
    return {"metadata": {"name": name, **metadata}, "spec": {}, "status": {"phase": phase}}


def test_a_workload_that_nobody_binds_has_begun_when_it_is_admitted() -> None:
    (job, *_) = build_jobs(1.0, "queue")
    (bound,), (free,) = build_pods(job, "default-scheduler"), build_pods(job, NO_SCHEDULER)
    for pod, begins in ((bound, False), (free, True)):
        track = Track(1)
        track.see({**pod, "status": {"phase": "Pending"}})
        assert not track.turned.is_set()
        track.see({**pod, "spec": {**pod["spec"], "schedulingGates": []}, "status": {"phase": "Pending"}})
        assert track.turned.is_set() is begins


def test_a_gang_has_begun_when_all_its_pods_run() -> None:
    track = Track(2)
    for pod in (build_seen("a", "Pending"), build_seen("a", "Running"), build_seen("a", "Running")):
        track.see(pod)
        assert not track.turned.is_set()
    track.see(build_seen("b", "Running"))
    assert track.turned.is_set()
    assert not track.lost.is_set()


@pytest.mark.parametrize(
    "pod", [build_seen("a", "Running", deletionTimestamp="2026-01-01T00:00:00Z"), build_seen("a", "Failed")]
)
def test_a_gang_is_lost_with_one_of_its_pods_also_before_it_has_begun(pod: Object) -> None:
    track = Track(2)
    track.see(pod)
    assert track.turned.is_set()
    assert track.lost.is_set()


def test_one_cohort_of_the_baseline_is_made_of_pods_that_hold_what_its_workloads_ask_for() -> None:
    jobs = build_jobs(1.0, "queue")
    assert len(jobs) == QUEUES * 500
    for job in jobs[:200]:
        limits = [
            pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
            for pod in build_pods(job, "default-scheduler")
        ]
        assert sum(map(int, limits)) == job.size.accelerators


async def test_the_leader_of_a_gang_is_made_when_all_its_workers_are_there() -> None:
    job = next(job for job in build_jobs(1.0, "q") if job.size.name == "large")
    pods, made = build_pods(job, "nobody"), list[str]()

    async def create(pod: Object) -> None:
        await asyncio.sleep(0.01 if pod is not pods[0] else 0)
        made.append(pod["metadata"]["name"])

    await make_gang(create, pods)
    assert made == [f"{job.replica}-1", job.replica]
