"""Runs that keep their checkpoints in a real S3 server: beside the claim, and with nothing else that survives."""

from __future__ import annotations

import io
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmos_workers.fetch.fetching import FetchRequest, fetch_model
from llmos_workers.fetch.inspection import inspect_model
from llmos_workers.fetch.sources import open_source
from llmos_workers.fetch.volume import Volume
from llmos_workers.offsite.main import main as offsite
from llmos_workers.train import keeping
from llmos_workers.train.arguments import build_parser
from llmos_workers.train.attempt import Attempt
from llmos_workers.train.errors import KeepingError
from llmos_workers.train.main import build_options
from tests.authority import make_authority
from tests.object_store import Door, open_door, serve_bucket
from tests.training.train.gang_world import build_ranks, complete, start
from tests.training.train.world import World, finish, start_attempt, steps_done, wait_for

MakeWorld = Callable[..., World]
MakeKept = Callable[..., World]
BUCKET = "runs"

# peft asks transformers by a former name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_bucket(tmp_path_factory.mktemp("moto"), BUCKET) as url:
        yield url


@pytest.fixture
def door(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    with open_door(server) as door:
        door.enter(monkeypatch)
        yield door


@pytest.fixture
def make_kept(make_world: MakeWorld, door: Door, request: pytest.FixtureRequest) -> MakeKept:
    """Make a run whose job names the object store."""

    def make(*, mode: str, checkpoint: dict[str, Any] | None = None, **changes: Any) -> World:
        storage = {"uri": f"s3://{BUCKET}", "mode": mode}
        world = make_world("kept", checkpoint={"everySteps": 3, **(checkpoint or {}), "storage": storage}, **changes)
        uri = f"s3://{BUCKET}/{request.node.name.replace('[', '-').replace(']', '')}"
        return replace(world, store_uri=uri, environment=tuple(door.environment().items()))

    return make


def bring(world: World, work: Path) -> World:
    """The next attempt's pod: an empty volume, and the init container."""
    after = replace(world, work=work, attempt=world.attempt + 1)
    words = ["restore", "--uri", world.store_uri, "--work", str(work), "--attempt", str(after.attempt)]
    assert offsite(words) == 0
    return after


def keep_dataset(world: World) -> None:
    """What the prepare pod does at its end."""
    assert offsite(["put", "--uri", f"{world.store_uri}/dataset", "--folder", str(world.work / "dataset")]) == 0


def complete_steps(door: Door, world: World) -> list[int]:
    """Steps of the checkpoints that are complete in the store."""
    prefix = world.store_uri.removeprefix(f"s3://{BUCKET}/") + "/checkpoints/"
    names = [name.removeprefix(prefix) for name in door.names(BUCKET) if name.startswith(prefix)]
    return sorted({int(name[5:13]) for name in names if name.endswith("/manifest.json")})


def said(world: World) -> list[dict[str, Any]]:
    lines = world.log_path.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"event"')]


def test_beside_a_claim_checkpoints_and_result_are_in_both_places(make_kept: MakeKept, door: Door) -> None:
    world = make_kept(mode="claim", checkpoint={"keep": 2})
    message = world.complete()
    assert message["lastCheckpoint"]["uri"].startswith(world.store_uri)
    steps = complete_steps(door, world)
    assert steps[-1] == message["progress"]["totalSteps"]
    assert len(steps) <= 3, "the newest two and the best one"
    folder = world.store_uri.removeprefix(f"s3://{BUCKET}/")
    result = {name.removeprefix(f"{folder}/output/") for name in door.names(BUCKET) if f"{folder}/output/" in name}
    assert result == {path.name for path in (world.work / "output").iterdir()}


def test_a_run_whose_pod_and_volume_are_lost_ends_as_if_nothing_had_been(
    make_world: MakeWorld, make_kept: MakeKept, door: Door, tmp_path: Path
) -> None:
    calm, world = make_world("calm"), make_kept(mode="ephemeral")
    calm.complete()
    keep_dataset(world)
    process = start_attempt(world)
    assert wait_for(lambda: len(complete_steps(door, world)) > 0, process)
    process.kill()
    finish(process)
    after = bring(world, tmp_path / "next")
    message = after.complete()
    assert "going on from step-" in after.log_path.read_text()
    assert after.result_files() == calm.result_files()
    assert message["lastCheckpoint"]["uri"].startswith(world.store_uri)
    assert message["lostAcceleratorSeconds"] >= 0


def test_a_kill_in_mid_upload_leaves_the_checkpoint_before_and_what_is_half_there_goes(
    make_world: MakeWorld, make_kept: MakeKept, door: Door, tmp_path: Path
) -> None:
    calm, world = make_world("calm"), make_kept(mode="ephemeral", checkpoint={"keepBest": False})
    calm.with_job(checkpoint={"everySteps": 3, "keepBest": False}).complete()
    keep_dataset(world)
    process = start_attempt(world)
    assert wait_for(lambda: bool(complete_steps(door, world)), process)
    door.holds = lambda path: path.endswith("/weights.pt")
    door.held.clear()
    assert wait_for(door.held.is_set, process)
    process.kill()
    finish(process)
    before, whole = door.names(BUCKET), complete_steps(door, world)
    door.holds = lambda _path: False
    half = {name.split("/")[-2] for name in before if name.endswith("/training.pt")} - {
        name.split("/")[-2] for name in before if name.endswith("/manifest.json")
    }
    assert half, "the upload was cut off between two files"
    after = bring(world, tmp_path / "next")
    after.complete()
    assert f"going on from step-{max(whole):08d}" in after.log_path.read_text()
    assert after.result_files() == calm.result_files()
    assert not any(name.split("/")[-2] in half for name in door.names(BUCKET) if "/checkpoints/" in name)


def test_a_result_that_was_put_is_a_models_source_and_is_reported_by_the_next_pod(
    make_kept: MakeKept, tmp_path: Path
) -> None:
    world = make_kept(mode="ephemeral")
    keep_dataset(world)
    first = world.complete()
    uri = f"{world.store_uri}/output"
    with open_source(uri) as source:
        facts = inspect_model(source, "auto", is_adapter=True)
        folder = fetch_model(FetchRequest(uri, is_adapter=True), source, Volume(tmp_path / "volume"), io.StringIO())
    assert facts.adapter is not None
    assert facts.adapter.rank == 4
    assert (folder / "adapter_model.safetensors").read_bytes() == world.result_files()["adapter_model.safetensors"]
    after = bring(world, tmp_path / "next")
    again = after.complete()
    assert again["output"] == first["output"]
    assert "the result is there already" in after.log_path.read_text()


def test_wrong_credentials_stop_no_training_that_has_a_claim_and_are_said(make_kept: MakeKept, door: Door) -> None:
    world = make_kept(mode="claim", hyperparameters={"epochs": 10})
    world = replace(world, environment=tuple(door.environment("of-somebody-else").items()))
    process = start_attempt(world)
    assert wait_for(lambda: any("storageTrouble" in line for line in said(world)), process)
    told = next(line["storageTrouble"] for line in said(world) if "storageTrouble" in line)
    assert "checkpoint.storage.secretRef" in told
    assert wait_for((world.work / "output").is_dir, process)
    process.kill()
    finish(process)
    steps = [line["lastCheckpoint"] for line in said(world) if line["lastCheckpoint"]]
    assert {each["uri"].partition("://")[0] for each in steps} == {"file"}


def test_without_a_claim_a_result_that_cannot_be_put_is_no_result(
    make_kept: MakeKept, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "RESULT_S", 0.0)
    monkeypatch.setattr(keeping, "LAST_CHECKPOINT_S", 0.0)
    world = make_kept(mode="ephemeral")
    world = replace(world, store_uri=world.store_uri.replace(BUCKET, "no-such-bucket"))
    attempt = Attempt(build_options(build_parser().parse_args(world.arguments)))
    try:
        with pytest.raises(KeepingError, match="Create the bucket") as raised:
            attempt.run()
    finally:
        attempt.close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert raised.value.reason == "SourceNotFound"
    assert attempt.facts["lastCheckpoint"] is None, "a checkpoint that goes with the pod is none"


def test_sigterm_waits_until_the_last_checkpoint_is_in_the_store(make_kept: MakeKept, door: Door) -> None:
    world = make_kept(mode="ephemeral", checkpoint={"everySteps": 1000}, hyperparameters={"epochs": 20})
    process = start_attempt(world)
    assert wait_for(lambda: steps_done(world) >= 5, process)
    door.holds = lambda path: path.endswith("/manifest.json")
    process.terminate()
    assert wait_for(door.held.is_set, process)
    time.sleep(0.5)
    assert process.exitcode is None
    door.holds = lambda _path: False
    assert finish(process) == 143
    last = world.message["lastCheckpoint"]
    assert last["step"] == world.message["progress"]["step"]
    assert complete_steps(door, world)[-1] == last["step"]


def test_sigterm_does_not_wait_longer_than_its_deadline(make_kept: MakeKept, door: Door) -> None:
    grace = {"everySteps": 1000, "onPreempt": {"deadlineSeconds": 5}}
    world = make_kept(mode="claim", checkpoint=grace, hyperparameters={"epochs": 20})
    process = start_attempt(world)
    assert wait_for(lambda: steps_done(world) >= 5, process)
    door.holds = lambda _path: True
    process.terminate()
    code = finish(process)
    door.holds = lambda _path: False
    assert code == 143
    assert world.message["lastCheckpoint"]["uri"].startswith("file://")
    assert "there was no time to upload" in world.log_path.read_text()


def test_of_ranks_with_shares_the_first_puts_the_result_when_the_others_are_gone(
    make_kept: MakeKept, door: Door
) -> None:
    world = make_kept(mode="claim")
    complete(world, is_sharded=True)
    place = f"{world.store_uri.removeprefix('s3:/')}/output/"
    assert f"{place}manifest.json" in door.uploads
    # Where the result is there already, nobody meets anybody, and still one alone puts it.
    door.uploads.clear()
    elsewhere = replace(world, store_uri=f"{world.store_uri}-again")
    assert build_ranks(elsewhere, is_sharded=True)[1].run() == 0
    assert door.uploads == []
    assert build_ranks(elsewhere, is_sharded=True)[0].run() == 0
    assert door.uploads[-1].endswith("-again/output/manifest.json")


def test_the_first_rank_waits_for_its_upload_whoever_was_asked_to_stop(make_kept: MakeKept, door: Door) -> None:
    world = make_kept(mode="claim", checkpoint={"everySteps": 1000}, hyperparameters={"epochs": 20})
    processes = start(build_ranks(world))
    door.holds = lambda path: path.endswith("/manifest.json")
    processes[1].terminate()
    assert wait_for(door.held.is_set, processes[0])
    time.sleep(0.5)
    assert processes[0].exitcode is None
    door.holds = lambda _path: False
    assert [finish(process) for process in processes] == [143, 143]
    assert complete_steps(door, world)[-1] == world.checkpoints()[-1]


def test_ranks_that_are_stopped_while_they_compare_leave_the_first_one_time_to_upload(
    make_kept: MakeKept, door: Door
) -> None:
    suites = [{"name": f"again_{number}", "metrics": ["exact_match"]} for number in range(16)]
    world = make_kept(mode="claim", evaluate={"suites": suites})
    ranks = build_ranks(world, is_sharded=True)
    processes = start(ranks)
    door.holds = lambda path: path.endswith("/manifest.json")
    assert wait_for(lambda: '"phase": "evaluating"' in ranks[0].log_path.read_text(), processes[0])
    processes[1].terminate()
    assert finish(processes[1]) == 143
    time.sleep(0.5)
    assert processes[0].exitcode is None
    door.holds = lambda _path: False
    assert finish(processes[0]) == 143
    assert "PeerLost" not in ranks[0].log_path.read_text()
    assert complete_steps(door, world)[-1] == world.checkpoints()[-1]


def test_the_trainer_trusts_the_authority_that_the_operator_was_told_of(
    make_kept: MakeKept, server: str, tmp_path: Path
) -> None:
    authority = make_authority(tmp_path)
    with open_door(server, authority.tls) as door:
        told = {**door.environment(), "LLMOS_CA_BUNDLE": str(authority.bundle), "SSL_CERT_FILE": ""}
        world = replace(make_kept(mode="claim"), environment=tuple(told.items()))
        assert world.complete()["lastCheckpoint"]["uri"].startswith(world.store_uri)
