"""The chart's rules about Kueue are what the operator's look at Kueue needs, and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio.client import ApiClient, CoreV1Api, RbacAuthorizationV1Api

from e2e.cluster.controlplane import ControlPlane
from llmos.api import Reason
from llmos.api.names import KUEUE_GATE, KUEUE_MANAGED
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.config import load_configuration
from llmos_operator.kube.errors import Forbidden
from llmos_operator.kube.resources import LOCAL_QUEUES, OF_KUEUE
from llmos_operator.planning.settings import Settings
from llmos_operator.reconcilers.base import Context
from llmos_operator.reconcilers.kueue import look_at_kueue
from tests.chart.helm import find, render
from tests.integration.operator.test_kueue import StandIn
from tests.integration.rbac.conftest import build_token_kubeconfig

pytestmark = pytest.mark.apiserver
ACCOUNT, PLACE = "kueue-reader", "default"


def build_role() -> dict[str, Any]:
    """The rules that following Kueue adds to the operator's."""
    role = find(render({"quota": {"admission": "kueue"}}), "ClusterRole", "llmos-operator")
    groups = {resource.group for resource in OF_KUEUE}
    return {"metadata": {"name": ACCOUNT}, "rules": [r for r in role["rules"] if groups.intersection(r["apiGroups"])]}


@pytest.fixture
async def reader(control_plane: ControlPlane, tmp_path: Path) -> AsyncIterator[AioKube]:
    """A client with just these rights."""
    async with ApiClient(await load_configuration(str(control_plane.kubeconfig))) as admin:
        core, rbac = CoreV1Api(admin), RbacAuthorizationV1Api(admin)
        await core.create_namespaced_service_account(PLACE, {"metadata": {"name": ACCOUNT}})
        await rbac.create_cluster_role(build_role())
        await rbac.create_cluster_role_binding(
            {
                "metadata": {"name": ACCOUNT},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ACCOUNT},
                "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": PLACE}],
            }
        )
        request = {"spec": {"expirationSeconds": 3600}}
        answer = await core.create_namespaced_service_account_token(ACCOUNT, PLACE, request)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(build_token_kubeconfig(control_plane, answer.status.token))
    async with AioKube(await load_configuration(str(kubeconfig))) as kube:
        yield kube


async def test_the_operator_may_read_why_replicas_wait_for_kueue(control_plane: ControlPlane, reader: AioKube) -> None:
    context = Context(kube=reader, settings=Settings(), now=lambda: datetime.now(UTC))
    metadata = {"name": "p", "namespace": PLACE, "uid": "u", "labels": {KUEUE_MANAGED: "true"}}
    pod = {"metadata": metadata, "spec": {"schedulingGates": [{"name": KUEUE_GATE}]}}

    async def find_reason() -> Reason | None:
        waits = (await look_at_kueue(context, "queue", [pod])).waits
        return waits.reason if waits else None

    async with AioKube(await load_configuration(str(control_plane.kubeconfig))) as admin:
        kueue = StandIn(admin, PLACE, quota=0)
        assert await find_reason() is Reason.KueueNotInstalled
        await kueue.install()
        try:
            assert await find_reason() is Reason.QueueNotFound
            queue = {"apiVersion": LOCAL_QUEUES.api_version, "kind": "LocalQueue"}
            await admin.create({**queue, "metadata": {"name": "queue", "namespace": PLACE}})
            assert await find_reason() is Reason.WaitsForKueue
            with pytest.raises(Forbidden):
                await reader.list(LOCAL_QUEUES)
        finally:
            await kueue.remove()
