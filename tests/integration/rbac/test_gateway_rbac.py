"""The gateway's rights are what it needs: it runs with them, and the audit log is compared."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from kubernetes.aio.client import ApiClient, CoreV1Api

from e2e.cluster.controlplane import ControlPlane, find_free_ports
from llmos.api.apikeys import build_key_secret
from llmos.kubeconfig import load_configuration
from tests.gateway.values import key_text, stored_key
from tests.integration.rbac.access import AccessRecord, find_events, observe_grants
from tests.integration.rbac.conftest import build_token_kubeconfig
from tests.integration.rbac.names import GATEWAY_ACCOUNT, GATEWAY_USER, NAMESPACE

pytestmark = pytest.mark.apiserver
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Record(AccessRecord):
    """What the gateway may do, what it did, and how it answered a caller before and after the key was made."""

    answers: tuple[int, int]
    exit_code: int


@pytest.fixture(scope="module")
def record(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return asyncio.run(make_record(control_plane, tmp_path_factory.mktemp("gateway")))


async def make_record(plane: ControlPlane, folder: Path) -> Record:
    port, admin_port = find_free_ports(2)
    configuration = await load_configuration(str(plane.kubeconfig))
    async with ApiClient(configuration) as client:
        core = CoreV1Api(client)
        request = {"spec": {"expirationSeconds": 3600}}
        answer = await core.create_namespaced_service_account_token(GATEWAY_ACCOUNT, NAMESPACE, request)
        kubeconfig = folder / "gateway.kubeconfig"
        kubeconfig.write_text(build_token_kubeconfig(plane, answer.status.token))
        gateway = await start_gateway(kubeconfig, port, admin_port, folder / "gateway.log")
        try:
            await wait_for_status(f"http://127.0.0.1:{admin_port}/readyz", 200)
            models = f"http://127.0.0.1:{port}/v1/models"
            before = await wait_for_status(models, 401)
            await core.create_namespaced_secret(NAMESPACE, build_key_secret(stored_key(), NAMESPACE))
            after = await wait_for_status(models, 200)
            gateway.terminate()
            exit_code = await asyncio.wait_for(gateway.wait(), PATIENCE_S)
        finally:
            if gateway.returncode is None:
                gateway.kill()
                await gateway.wait()
        grants = await observe_grants(client, GATEWAY_ACCOUNT, NAMESPACE)
    return Record(grants, find_events(plane.read_audit_log(), GATEWAY_USER), (before, after), exit_code)


async def start_gateway(kubeconfig: Path, port: int, admin_port: int, log: Path) -> asyncio.subprocess.Process:
    command = ["run", "--kubeconfig", str(kubeconfig), "--namespace", NAMESPACE, "--settle-s", "0"]
    command += ["--port", str(port), "--admin-port", str(admin_port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LLMOS_", "OTEL_"))}
    with log.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "llmos_gateway.main", *command), env=environment, stdout=output, stderr=output
        )


async def wait_for_status(url: str, wanted: int) -> int:
    """Ask, with the key, until the answer has the status; return the last one."""
    headers, status = {"Authorization": f"Bearer {key_text()}"}, 0
    async with aiohttp.ClientSession(headers=headers) as session, asyncio.timeout(PATIENCE_S):
        while status != wanted:
            try:
                async with session.get(url) as response:
                    status = response.status
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)
            else:
                await asyncio.sleep(0.02)
    return status


def test_a_caller_is_let_in_by_the_key_and_not_without(record: Record) -> None:
    assert record.answers == (401, 200)
    assert record.exit_code == 0


def test_no_request_was_refused_for_lack_of_rights(record: Record) -> None:
    assert record.find_refused() == set()


def test_every_request_is_covered_by_a_rule_of_the_chart(record: Record) -> None:
    assert sorted(record.find_uncovered()) == []


def test_every_rule_of_the_chart_is_used(record: Record) -> None:
    assert sorted(record.find_unused()) == []


def test_the_gateway_only_reads(record: Record) -> None:
    assert {grant.verb for grant in record.grants} == {"list", "watch"}
