"""The pods of a job: who sees which Secret, who writes where, and that they pass the strictest Pod Security level."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from llmos.api import AcceleratorClass, FineTuneJob, LLMModel
from llmos.api.names import LABEL_FETCHES
from llmos_operator.manifests.finetune import (
    JobTemplate,
    build_job_config,
    build_prepare_pod,
    build_train_pod,
    build_work_claim,
    read_node_labels,
)
from llmos_operator.manifests.finetune_gang import build_peers_service
from llmos_operator.manifests.finetune_output import build_output_model
from llmos_operator.manifests.finetune_trials import build_trial_pod
from llmos_operator.planning.settings import Settings
from tests.operator.reconcilers.job_world import build_base, build_job

SUITE = {"name": "support_set", "source": {"uri": "pvc://suites/a", "secretRef": {"name": "suite-secret"}}}
DATA = {"source": {"uri": "https://data/$(HOME)", "secretRef": {"name": "data-secret"}}}


def job(**spec: Any) -> FineTuneJob:
    return FineTuneJob.model_validate(build_job(dataset=DATA, evaluate={"suites": [SUITE]}, **spec))


def template(accelerator: AcceleratorClass | None = None, **spec: Any) -> JobTemplate:
    base = build_base()
    base["spec"]["source"]["secretRef"] = {"name": "base-secret"}
    settings = Settings(ca_bundle_config_map="authorities", image_pull_secrets=("pull",))
    return JobTemplate(job(**spec), LLMModel.model_validate(base), accelerator, "sha256:0123", settings)


def taught(storage: dict[str, Any] | None = None, uri: str = "hf://org/big") -> JobTemplate:
    """The pods of a student whose teacher comes from `uri`."""
    method = {"task": "distill", "distill": {"teacherRef": {"name": "big"}}}
    teacher = build_base("sha256:4567")
    teacher["metadata"]["name"] = "big"
    source = {"uri": uri, "secretRef": {"name": "teacher-secret"}}
    teacher["spec"] = {"source": source, "storage": storage or {"mode": "ephemeral", "size": "20Gi"}}
    found = LLMModel.model_validate(teacher)
    return replace(template(method=method), teacher=found, teacher_digest="sha256:4567")


def secrets_of(container: dict[str, Any]) -> list[str]:
    return [each["secretRef"]["name"] for each in container.get("envFrom", ())]


def test_each_container_sees_its_own_secret_and_the_one_that_reads_data_sees_none() -> None:
    spec = build_prepare_pod(template(), 1)["spec"]
    assert {each["name"]: secrets_of(each) for each in spec["initContainers"]} == {
        "fetch-dataset": ["data-secret"],
        "fetch-suite-support-set-1": ["suite-secret"],
        "fetch": ["base-secret"],
    }
    (main,) = spec["containers"]
    mounted = {mount["name"] for mount in main["volumeMounts"]}
    assert secrets_of(main) == []
    assert mounted == {"tmp", "work", "job", "model"}


STORE = {"uri": "s3://bucket/ml", "secretRef": {"name": "store-secret"}}


def test_without_a_claim_what_was_prepared_is_put_away_by_a_container_that_read_nothing() -> None:
    spec = build_prepare_pod(template(checkpoint={"storage": {**STORE, "size": "5Gi"}}), 1)["spec"]
    init = {each["name"]: secrets_of(each) for each in spec["initContainers"]}
    assert [*init][-1] == "prepare"
    assert "store-secret" not in [name for names in init.values() for name in names]
    (main,) = spec["containers"]
    assert (main["name"], secrets_of(main)) == ("keep", ["store-secret"])
    assert main["command"][3:] == ["put", "--uri", "s3://bucket/ml/team-a/tune/dataset", "--folder", "/job/dataset"]
    assert {"name": "work", "emptyDir": {"sizeLimit": "5Gi"}} in spec["volumes"]


@pytest.mark.parametrize("mode", ["claim", "ephemeral"])
def test_the_trainer_and_what_brings_its_checkpoints_see_the_secret_of_the_store(mode: str) -> None:
    pod = build_train_pod(template(checkpoint={"storage": {**STORE, "mode": mode}}), 3, has_quota=False)
    restore = pod["spec"]["initContainers"][-1]
    (main,) = pod["spec"]["containers"]
    assert {each["name"]: secrets_of(each) for each in (restore, main)} == {
        "restore": ["store-secret"],
        "train": ["store-secret"],
    }
    assert ("--has-claim" in restore["command"]) == (mode == "claim")
    assert main["command"][main["command"].index("--store-uri") + 1] == "s3://bucket/ml/team-a/tune"
    assert pod["metadata"]["labels"][LABEL_FETCHES] == "true"
    names = [each["name"] for each in main["env"]]
    assert len(names) == len(set(names))
    trial = build_trial_pod(pod, "tune", 4, 1, {"learningRate": 0.1})["spec"]
    assert trial["initContainers"][-1]["command"][-2:] == ["--trial", "4"]
    assert trial["containers"][0]["command"][-4:] == ["--trial", "4", "--parameters", '{"learningRate": 0.1}']


def test_only_rank_0_of_a_gang_reads_and_writes_the_store() -> None:
    storage = {**STORE, "mode": "claim", "accessMode": "ReadWriteMany"}
    on_two = template(trainer={"accelerator": {"class": "cpu"}, "nodes": 2}, checkpoint={"storage": storage})
    worker = build_train_pod(on_two, 3, has_quota=False, rank=1, size=2)["spec"]
    assert secrets_of(worker["containers"][0]) == []
    assert [each["name"] for each in worker["initContainers"]] == ["fetch"]


@pytest.mark.parametrize(
    "make",
    [
        template,
        lambda: template(checkpoint={"storage": STORE}),
        lambda: template(checkpoint={"storage": {**STORE, "mode": "claim"}}),
        taught,
        lambda: taught({"mode": "claim"}),
        lambda: taught(uri="pvc://c/m"),
    ],
    ids=["claim", "store", "both", "taught", "taught from a claim", "taught from a volume"],
)
@pytest.mark.parametrize("build", [lambda t: build_prepare_pod(t, 1), lambda t: build_train_pod(t, 1, has_quota=True)])
def test_every_mount_has_its_volume_and_every_name_is_there_once(build: Any, make: Any) -> None:
    spec = build(make())["spec"]
    names = [volume["name"] for volume in spec["volumes"]]
    assert len(names) == len(set(names))
    containers = [*spec.get("initContainers", ()), *spec["containers"]]
    assert len({each["name"] for each in containers}) == len(containers)
    for container in containers:
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(names)
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert spec["restartPolicy"] == "Never"


def test_what_a_user_writes_reaches_the_program_as_it_stands() -> None:
    command = build_prepare_pod(template(), 1)["spec"]["initContainers"][0]["command"]
    assert "https://data/$$(HOME)" in command
    assert command[command.index("--dest") + 1] == "/job/source/dataset"


def test_the_trainer_is_told_what_it_needs() -> None:
    pod = build_train_pod(template(), 3, has_quota=False)
    command = pod["spec"]["containers"][0]["command"]
    assert command[:3] == ["python", "-m", "llmos_workers.train"]
    told = dict(zip(command[3::2], command[4::2], strict=True))
    assert told == {
        "--job": "/etc/llmos/job/job.json",
        "--model": "/model/model",
        "--work": "/job",
        "--base-digest": "sha256:0123",
        "--attempt": "3",
        "--accelerators": "1",
    }
    assert pod["metadata"]["name"] == "tune-train-3"
    assert pod["metadata"]["labels"][LABEL_FETCHES] == "true"
    assert "schedulingGates" not in pod["spec"]


def test_the_ranks_of_a_gang_are_told_who_they_are_and_have_names_that_dns_knows() -> None:
    on_two = template(trainer={"accelerator": {"class": "cpu"}, "nodes": 2})
    leader, worker = (build_train_pod(on_two, 3, has_quota=True, rank=rank, size=2) for rank in (0, 1))
    assert [pod["metadata"]["name"] for pod in (leader, worker)] == ["tune-train-3", "tune-train-3-1"]
    commands = [pod["spec"]["containers"][0]["command"] for pod in (leader, worker)]
    told = [dict(zip(command[3::2], command[4::2], strict=True)) for command in commands]
    assert [each["--rank"] for each in told] == ["0", "1"]
    assert {each["--leader"] for each in told} == {"tune-train-3.tune-train.team-a.svc"}
    assert {each["--accelerators"] for each in told} == {"2"}
    assert (leader["spec"]["hostname"], leader["spec"]["subdomain"]) == ("tune-train-3", "tune-train")
    assert "hostname" not in worker["spec"]
    assert "podAntiAffinity" in worker["spec"]["affinity"], "two pods of one node would share its cores"
    assert leader["spec"]["schedulingGates"] == worker["spec"]["schedulingGates"]
    service = build_peers_service(job(trainer={"accelerator": {"class": "cpu"}, "nodes": 2}))
    assert service["metadata"]["name"] == leader["spec"]["subdomain"]
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"].items() <= leader["metadata"]["labels"].items()
    assert not service["spec"]["selector"].items() <= worker["metadata"]["labels"].items()


def test_a_pod_with_several_accelerators_has_a_process_for_each() -> None:
    accelerator = AcceleratorClass.model_validate({"metadata": {"name": "h100"}, "spec": {"memory": "80Gi"}})
    trainer = {"accelerator": {"class": "h100"}, "nodes": 2, "acceleratorsPerNode": 8}
    pod = build_train_pod(template(accelerator, trainer=trainer), 1, has_quota=True, rank=1, size=2)
    (container,) = pod["spec"]["containers"]
    command = container["command"]
    told = dict(zip(command[3::2], command[4::2], strict=True))
    assert (told["--processes"], told["--accelerators"], told["--rank"]) == ("8", "16", "1")
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert "podAffinity" in pod["spec"]["affinity"]


@pytest.mark.parametrize("is_sharded", [False, True])
def test_the_ranks_are_told_to_shard_where_the_plan_says_so(*, is_sharded: bool) -> None:
    trainer = {"accelerator": {"class": "cpu"}, "nodes": 2}
    pod = build_train_pod(template(trainer=trainer), 1, has_quota=True, size=2, is_sharded=is_sharded)
    assert ("--sharded" in pod["spec"]["containers"][0]["command"]) is is_sharded


def test_a_base_model_in_a_claim_is_mounted_and_nothing_is_fetched() -> None:
    base = build_base()
    base["spec"]["storage"] = {"mode": "claim"}
    with_claim = JobTemplate(job(), LLMModel.model_validate(base), None, "d", Settings())
    pod = build_train_pod(with_claim, 1, has_quota=False)
    assert "initContainers" not in pod["spec"]
    assert LABEL_FETCHES not in pod["metadata"]["labels"]


def test_the_prepare_pod_goes_where_training_goes_and_asks_for_no_accelerator() -> None:
    accelerator = AcceleratorClass.model_validate(
        {"metadata": {"name": "h100"}, "spec": {"memory": "80Gi", "nodeSelector": {"gpu": "h100"}}}
    )
    spec = build_prepare_pod(template(accelerator), 1)["spec"]
    assert spec["nodeSelector"] == {"gpu": "h100"}
    assert "nvidia.com/gpu" not in json.dumps(spec)


def test_a_whole_model_is_no_adapter() -> None:
    assert "adapter" not in build_output_model(job(method={"tuning": "full"}))["spec"]
    assert "adapter" not in build_output_model(job(output={"name": "support", "kind": "merged"}))["spec"]
    assert "adapter" in build_output_model(job())["spec"]


@pytest.mark.parametrize(
    ("mode", "kind", "size"), [("ephemeral", "merged", "200Gi"), ("ephemeral", None, None), ("claim", "merged", None)]
)
def test_a_whole_model_that_is_fetched_has_the_room_that_its_job_had(
    mode: str, kind: str | None, size: str | None
) -> None:
    storage = {**STORE, "mode": mode, "size": "200Gi"}
    output = {"name": "support"} | ({"kind": kind} if kind else {})
    spec = build_output_model(job(checkpoint={"storage": storage}, output=output))["spec"]
    assert spec.get("storage", {}).get("size") == size


def test_the_config_holds_the_job_as_the_pods_parse_it() -> None:
    told = FineTuneJob.model_validate_json(build_job_config(job())["data"]["job.json"])
    assert told.spec == job().spec


def test_the_claim_asks_for_what_the_user_says() -> None:
    storage = {"size": "1Ti", "storageClassName": "fast", "accessMode": "ReadWriteMany"}
    claim = build_work_claim(job(checkpoint={"storage": storage}), None)
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Ti"}},
        "storageClassName": "fast",
    }


@pytest.mark.parametrize(
    ("terms", "labels"),
    [
        ([], {}),
        ([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}], {"zone": "a"}),
        ([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}], {}),
        ([{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}], {}),
        ([{"matchExpressions": []}, {"matchExpressions": []}], {}),
    ],
)
def test_of_a_volume_only_what_a_node_selector_can_say_is_taken(terms: Any, labels: dict[str, str]) -> None:
    assert read_node_labels({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}}) == labels
    assert read_node_labels(None) == {}


@pytest.mark.parametrize(
    ("trainer", "request_", "threads"),
    [({}, "500m", "2"), ({"cpu": "8"}, "8", "8"), ({"cpu": "1500m"}, "1500m", "2"), ({"cpu": "100m"}, "100m", "1")],
)
def test_an_attempt_computes_with_the_same_threads_on_every_node(trainer: Any, request_: str, threads: str) -> None:
    pod = build_train_pod(template(trainer={"accelerator": {"class": "cpu"}, **trainer}), 1, has_quota=False)
    (main,) = pod["spec"]["containers"]
    assert main["resources"]["requests"]["cpu"] == request_
    assert {"name": "OMP_NUM_THREADS", "value": threads} in main["env"]


def test_a_teacher_comes_as_the_base_does_to_a_place_of_its_own() -> None:
    for pod in (build_prepare_pod(taught(), 1), build_train_pod(taught(), 1, has_quota=False)):
        fetches = {each["name"]: each for each in pod["spec"]["initContainers"]}
        assert secrets_of(fetches["fetch-teacher"]) == ["teacher-secret"]
        assert "hf://org/big" in fetches["fetch-teacher"]["command"]
        assert secrets_of(fetches["fetch"]) == ["base-secret"]
        (main,) = pod["spec"]["containers"]
        told = dict(zip(main["command"][3::2], main["command"][4::2], strict=True))
        assert (told["--model"], told["--teacher"]) == ("/model/model", "/teacher/model")
        mounts = {mount["mountPath"]: mount["name"] for mount in main["volumeMounts"]}
        assert (mounts["/model"], mounts["/teacher"]) == ("model", "teacher-model")
        # Each step writes into the volume that the other container reads.
        written = {name: fetch["volumeMounts"][-1]["name"] for name, fetch in fetches.items() if "dataset" not in name}
        assert written["fetch-teacher"] == "teacher-model"
    train = build_train_pod(taught(), 1, has_quota=False)["spec"]["containers"][0]["command"]
    assert train[train.index("--teacher-digest") + 1] == "sha256:4567"


@pytest.mark.parametrize(
    ("make", "place", "claim"),
    [
        (lambda: taught({"mode": "claim"}), "/teacher/model", "big-h"),
        (lambda: taught(uri="pvc://shared/models/big"), "/teacher-source/models/big", "shared"),
    ],
)
def test_a_teacher_in_a_claim_is_read_where_it_is(make: Any, place: str, claim: str) -> None:
    spec = build_train_pod(make(), 1, has_quota=False)["spec"]
    command = spec["containers"][0]["command"]
    assert command[command.index("--teacher") + 1] == place
    claims = {
        volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"] if "persistentVolumeClaim" in volume
    }
    assert claim in claims
    assert [each["name"] for each in spec.get("initContainers", ())] == ["fetch"]
