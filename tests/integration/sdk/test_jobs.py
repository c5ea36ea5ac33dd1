"""FineTuneJobs and logs through a real API server: what it refuses, what `llmos tune` makes, what it asks kubelets."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from e2e.cluster.controlplane import ControlPlane
from llmos.api import FineTuneJob, LLMModel
from llmos.cli.app import app
from llmos.client import Client, ConflictError, InvalidError, LogLine, LogOptions, NotReadyError
from tests.integration.sdk.kubelet import Kubelet, run_kubelet

Kubectl = Callable[..., str]
Json = dict[str, Any]
WORDS = ("tune", "--base", "smollm2", "--data", "https://example.com/a.jsonl", "--name", "support", "--class", "cpu")
HOST = "127.0.0.1"
JOBS = "finetunejobs.llmos.dev"


@pytest.fixture
def llmos(control_plane: ControlPlane, namespace: str) -> Callable[..., Result]:
    target = ["--kubeconfig", str(control_plane.kubeconfig), "-n", namespace]
    return lambda *arguments: CliRunner().invoke(app, [*arguments, *target])


@pytest.fixture
def base(client: Client) -> str:
    source = {"uri": "https://example.com/model"}
    client.models.apply(LLMModel.model_validate({"metadata": {"name": "smollm2"}, "spec": {"source": source}}))
    return "smollm2"


def build_job(name: str = "support", **spec: Any) -> FineTuneJob:
    smallest = {
        "baseModelRef": {"name": "smollm2"},
        "dataset": {"source": {"uri": "https://example.com/a.jsonl"}},
        "trainer": {"accelerator": {"class": "cpu"}},
        "output": {"name": name},
    }
    return FineTuneJob.model_validate({"metadata": {"name": name}, "spec": {**smallest, **spec}})


def set_status(kubectl: Kubectl, namespace: str, name: str, status: str, reason: str, **further: Any) -> None:
    """Play the operator."""
    job = json.loads(kubectl("get", JOBS, name, "-n", namespace, "-o", "json"))
    ready = {"type": "Ready", "status": status, "reason": reason, "lastTransitionTime": "2026-01-01T00:00:00Z"}
    ready["observedGeneration"] = job["metadata"]["generation"]
    patch = json.dumps({"status": {"conditions": [ready], **further}})
    kubectl("patch", JOBS, name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


def test_a_job_is_made_once_suspended_and_resumed(client: Client) -> None:
    assert client.jobs.create(build_job()).spec.trainer.hyperparameters.batch_tokens == 16384
    with pytest.raises(ConflictError, match="exists already"):
        client.jobs.create(build_job())
    assert client.jobs.suspend("support").spec.suspend
    assert not client.jobs.resume("support").spec.suspend


def test_the_server_refuses_in_its_own_words(client: Client) -> None:
    full = {"tuning": "full"}
    with pytest.raises(InvalidError, match="only adapters are attached to pools"):
        client.jobs.create(build_job(method=full, output={"name": "x", "attachTo": [{"pool": "chat"}]}))
    with pytest.raises(InvalidError, match="DNS label of at most 40"):
        client.jobs.create(build_job("a" * 41))


def test_waiting_sees_success_and_failure(client: Client, kubectl: Kubectl, namespace: str) -> None:
    client.jobs.create(build_job())
    timer = threading.Timer(0.3, set_status, (kubectl, namespace, "support", "True", "Registered"))
    timer.start()
    client.jobs.wait_ready("support", 30)
    timer.join()
    set_status(kubectl, namespace, "support", "False", "DatasetInvalid", phase="Failed")
    with pytest.raises(NotReadyError, match="has failed"):
        client.jobs.wait_ready("support", 30)


def test_tune_makes_what_its_dry_run_says(
    llmos: Callable[..., Result], base: str, client: Client, kubectl: Kubectl, namespace: str
) -> None:
    options = (
        "--suite",
        "qa",
        "--gate",
        "qa_exact_match>=0.5",
        "--near-dedup",
        "0.9",
        "--patience",
        "2",
        "--seed",
        "7",
    )
    printed = llmos(*WORDS, *options, "--dry-run").stdout
    assert llmos(*WORDS, *options, "--no-wait").exit_code == 0
    made = client.jobs.get("support").spec
    kubectl("delete", JOBS, "support", "-n", namespace)
    kubectl("create", "-n", namespace, "--validate=strict", "-f", "-", given=printed)
    assert client.jobs.get("support").spec == made
    assert yaml.safe_load(printed)["metadata"] == {"name": "support"}


def test_tune_of_a_base_that_is_not_there_makes_nothing(llmos: Callable[..., Result], client: Client) -> None:
    result = llmos(*WORDS)
    assert (result.exit_code, "Apply an LLMModel for it first" in result.stderr) == (3, True)
    assert client.jobs.list() == ()


def test_get_and_why_show_what_the_real_server_holds(
    llmos: Callable[..., Result], client: Client, kubectl: Kubectl, namespace: str
) -> None:
    client.jobs.create(build_job())
    metrics = [{"name": "eval_loss", "base": 2.0, "result": 1.5, "examples": 10}]
    further = {"phase": "Succeeded", "evaluation": {"metrics": metrics}, "datasetReport": {"lines": 210}}
    set_status(kubectl, namespace, "support", "True", "Registered", **further)
    result = llmos("get", "job/support")
    assert (result.exit_code, "-25.0 %, better" in result.stdout, "210" in result.stdout) == (0, True, True)
    assert llmos("why", "job/support").exit_code == 0
    assert "● Registered" in llmos("get", "jobs").stdout


@pytest.fixture
def kubelet(kubectl: Kubectl, namespace: str, control_plane: ControlPlane) -> Iterator[Kubelet]:
    """A node whose kubelet is ours."""
    with run_kubelet(HOST, control_plane.spec.pki) as running:
        kubectl(
            "create", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": namespace}})
        )
        endpoints = {"kubeletEndpoint": {"Port": running.port}}
        status = {"addresses": [{"type": "InternalIP", "address": HOST}], "daemonEndpoints": endpoints}
        kubectl("patch", "node", namespace, "--subresource=status", "-p", json.dumps({"status": status}))
        kubectl("create", "serviceaccount", "default", "-n", namespace)
        yield running
        kubectl("delete", "node", namespace)


def start_pod(kubectl: Kubectl, namespace: str, name: str) -> None:
    labels = {"llmos.dev/job": "support", "llmos.dev/component": "train"}
    spec = {"nodeName": namespace, "containers": [{"name": "train", "image": "none"}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
    kubectl("create", "-n", namespace, "-f", "-", given=json.dumps(pod))
    set_pod(kubectl, namespace, name, "Running", {"running": {"startedAt": "2026-01-01T00:00:00Z"}})


def set_pod(kubectl: Kubectl, namespace: str, name: str, phase: str, state: Json) -> None:
    facts = {"restartCount": 0, "ready": False, "image": "none", "imageID": ""}
    status = {"phase": phase, "containerStatuses": [{"name": "train", "state": state, **facts}]}
    kubectl("patch", "pod", name, "-n", namespace, "--subresource=status", "-p", json.dumps({"status": status}))


def test_logs_are_followed_over_attempts_through_the_real_server(
    client: Client, kubelet: Kubelet, kubectl: Kubectl, namespace: str
) -> None:
    client.jobs.create(build_job())
    start_pod(kubectl, namespace, "support-train-1")
    kubelet.write("support-train-1", "train", "one", "two")
    lines = (item for item in client.jobs.logs("support", LogOptions(follow=True)) if isinstance(item, LogLine))
    assert [line.text for line in islice(lines, 2)] == ["one", "two"]
    kubelet.write("support-train-1", "train", "killed")
    assert next(lines).text == "killed"
    set_pod(kubectl, namespace, "support-train-1", "Failed", {"terminated": {"exitCode": 137}})
    kubelet.ended.add("support-train-1")
    start_pod(kubectl, namespace, "support-train-2")
    kubelet.write("support-train-2", "train", "goes on")
    assert next(lines).text == "goes on"
    set_pod(kubectl, namespace, "support-train-2", "Succeeded", {"terminated": {"exitCode": 0}})
    kubelet.ended.add("support-train-2")
    set_status(kubectl, namespace, "support", "True", "Registered")
    assert list(lines) == []
    asked = [query for pod, query in kubelet.asked if pod == "support-train-1"]
    assert (asked[0]["follow"], asked[0]["timestamps"]) == ("true", "true")


def test_the_command_line_reads_the_last_lines(
    llmos: Callable[..., Result], client: Client, kubelet: Kubelet, kubectl: Kubectl, namespace: str
) -> None:
    client.jobs.create(build_job())
    assert llmos("logs", "job/support").exit_code == 3
    start_pod(kubectl, namespace, "support-train-1")
    kubelet.write("support-train-1", "train", "one", "two", "three")
    result = llmos("logs", "job/support", "--tail", "2")
    assert (result.exit_code, result.stdout) == (0, "two\nthree\n"), result.output
