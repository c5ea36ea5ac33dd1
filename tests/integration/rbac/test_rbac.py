"""The operator's rights are what it needs: it runs with them through all it ever does, and the audit log is compared.

kopf's own requests (discovery, lists, watches) count like all others. Not told is the forced deletion of a pod whose
node is gone, a minute of waiting for a request that differs from other deletions in its body only.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from kubernetes.aio.client import ApiClient, CoreV1Api

from e2e.cluster.controlplane import ControlPlane
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.config import load_configuration
from tests.integration.rbac.access import AccessRecord, find_events, find_refused, observe_grants
from tests.integration.rbac.conftest import build_token_kubeconfig
from tests.integration.rbac.kubelet import Kubelet, add_node
from tests.integration.rbac.names import ACCOUNT, NAMESPACE, OPERATOR_USER
from tests.integration.rbac.story import Story

pytestmark = pytest.mark.apiserver
MODELS = "models"
STOP_TIMEOUT_S = 20.0
DISCOVERY = ("/api", "/apis", "/version")


@dataclass(frozen=True)
class Record(AccessRecord):
    """What the operator may do, and what it did."""

    holder_during: str
    holder_after: str
    exit_code: int


@pytest.fixture(scope="module")
def record(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return asyncio.run(make_record(control_plane, tmp_path_factory.mktemp("operator")))


async def make_record(plane: ControlPlane, folder: Path) -> Record:
    configuration = await load_configuration(str(plane.kubeconfig))
    async with ApiClient(configuration) as client, AioKube(configuration) as admin, asyncio.TaskGroup() as tasks:
        await prepare(client, admin)
        kubelet = Kubelet(admin, MODELS)
        playing = tasks.create_task(kubelet.run())
        story = Story(plane, admin, kubelet, MODELS)
        async with run_operator(plane, client, folder) as operator:
            await tell(story, plane, folder)
            holder_during = await story.lease_holder()
            operator.terminate()
            exit_code = await asyncio.wait_for(operator.wait(), STOP_TIMEOUT_S)
        playing.cancel()
        holder_after = await story.lease_holder()
        grants = await observe_grants(client, ACCOUNT, NAMESPACE)
        return Record(
            grants, find_events(plane.read_audit_log(), OPERATOR_USER), holder_during, holder_after, exit_code
        )


async def tell(story: Story, plane: ControlPlane, folder: Path) -> None:
    """Tell the story; if it stands still, say what the operator was refused, for that is the likely cause."""
    try:
        await story.tell()
    except AssertionError as error:
        error.add_note(f"Refused to the operator: {sorted(find_refused(plane.read_audit_log())) or 'nothing'}.")
        error.add_note(f"The end of its log: {(folder / 'operator.log').read_text()[-2000:]}")
        raise


async def prepare(client: ApiClient, admin: AioKube) -> None:
    """Make what a cluster has: a node with GPUs, a namespace, volumes for the claims of a model and of a job."""
    core = CoreV1Api(client)
    await core.create_namespace({"metadata": {"name": MODELS}})
    for name, size in (("volume", "1Gi"), ("work", "20Gi")):
        volume = {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/nowhere"}}
        await core.create_persistent_volume({"metadata": {"name": name}, "spec": volume})
    await add_node(admin)


@asynccontextmanager
async def run_operator(
    plane: ControlPlane, client: ApiClient, folder: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the operator's program with the token of its service account."""
    request = {"spec": {"expirationSeconds": 3600}}
    answer = await CoreV1Api(client).create_namespaced_service_account_token(ACCOUNT, NAMESPACE, request)
    kubeconfig = folder / "operator.kubeconfig"
    kubeconfig.write_text(build_token_kubeconfig(plane, answer.status.token))
    command = ["run", "--kubeconfig", str(kubeconfig), "--namespace", NAMESPACE, "--metrics-port", "0"]
    command += ["--drain-settle-s", "0", "--image-pull-timeout-s", "1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMOS_")}
    with (folder / "operator.log").open("wb") as log:
        operator = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "llmos_operator.main", *command), env=environment, stdout=log, stderr=log
        )
        try:
            yield operator
        finally:
            if operator.returncode is None:
                operator.kill()
                await operator.wait()


def test_the_operator_led_and_gave_the_lease_back(record: Record) -> None:
    assert record.holder_during
    assert record.holder_after == ""
    assert record.exit_code == 0


def test_no_request_was_refused_for_lack_of_rights(record: Record) -> None:
    assert record.find_refused() == set()


def test_every_request_is_covered_by_a_rule_of_the_chart(record: Record) -> None:
    assert sorted(record.find_uncovered()) == []


def test_every_rule_of_the_chart_is_used(record: Record) -> None:
    assert sorted(record.find_unused()) == []


def test_nothing_else_is_asked_than_what_the_server_offers(record: Record) -> None:
    others = {event["requestURI"].partition("?")[0] for event in record.events if "objectRef" not in event}
    assert [path for path in others if not path.startswith(DISCOVERY)] == []


def test_no_rule_has_a_wildcard(record: Record) -> None:
    assert [grant for grant in record.grants if "*" in f"{grant.group}{grant.resource}{grant.verb}"] == []
