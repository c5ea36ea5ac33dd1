"""Story 24: everything that quota can refuse, and what Tenants can do wrong, says what it is and what helps."""

from __future__ import annotations

import pytest

from e2e.cluster.node import PRETEND_GPUS
from e2e.support.api import Api
from e2e.support.objects import GPU_RESOURCE, PRETEND_CLASS, build_model, build_pool, read_condition, wait_ready
from e2e.support.operator import OperatorProcess
from e2e.support.source import Source
from e2e.support.tenants import build_tenant, tenants, wait_for_reason
from e2e.support.waiting import eventually
from llmos.api import Reason

pytestmark = [pytest.mark.core, pytest.mark.timeout(600)]

STRANGERS_ARE_OLD_S = 90
BIND_TIMEOUT_S = 240.0
"""The ledger's 120 s, and a busy machine."""


async def count_events(api: Api, namespace: str, reason: Reason) -> int:
    events = await api.list("Event", namespace)
    return sum(event["reason"] == reason and event["regarding"]["kind"] == "InferencePool" for event in events)


async def test_a_pool_says_what_it_waits_for(
    api: Api, operator: OperatorProcess, source: Source, namespace: str
) -> None:
    async with tenants(api, team=PRETEND_GPUS) as places:
        for place in (namespace, places["team"]):
            await wait_ready(api, await api.create(build_model(place, f"{source.url}/tiny")))
        await api.create(build_pool(namespace, accelerator=PRETEND_CLASS))
        message = await wait_for_reason(api, namespace, Reason.NoTenant)
        assert "belongs to no Tenant" in message
        assert "Add the namespace to a Tenant" in message

        # Three of four GPUs, and then two: the quota of another tenant allows them, the node has no room.
        await api.create(build_tenant("other", [namespace], guaranteed=0))
        try:
            await wait_ready(api, await api.create(build_pool(places["team"], accelerator=PRETEND_CLASS, count=3)))
            await api.create(build_pool(places["team"], name="second", accelerator=PRETEND_CLASS, count=2))
            message = await wait_for_reason(api, places["team"], Reason.QuotaExceeded, pool="second")
            assert "raise" in message or "guarantee" in message
        finally:
            await api.delete("Tenant", "other")
        for place, reason in ((namespace, Reason.NoTenant), (places["team"], Reason.QuotaExceeded)):
            assert await count_events(api, place, reason) == 1
            assert await count_events(api, place, Reason.Unschedulable) == 0

        # The Tenant goes when its pool has gone; until then it gets nothing more.
        await api.create(build_pool(namespace, name="late", accelerator=PRETEND_CLASS))
        message = await wait_for_reason(api, namespace, Reason.TenantClosed, pool="late")
        assert "Tenant other is being deleted" in message
        assert "delete the pool" in message


async def test_a_replica_that_finds_no_place_is_withdrawn_and_tried_again(
    api: Api, operator: OperatorProcess, source: Source, namespace: str
) -> None:
    """A pod that is none of LLMOS's takes the GPUs a moment before; the ledger looks for such pods now and then."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    async with tenants(api, team=PRETEND_GPUS, within={"team": namespace}):
        await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
        await wait_ready(api, await api.create(build_pool(namespace, name="first", accelerator=PRETEND_CLASS)))
        stranger = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "stranger", "namespace": namespace},
            "spec": {
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "sleeper",
                        "image": "localhost/llmos-worker-lite:dev",
                        "command": ["sleep", "3600"],
                        "resources": {"limits": {GPU_RESOURCE: str(PRETEND_GPUS - 1)}},
                        "securityContext": security,
                    }
                ],
            },
        }
        await api.create(stranger)
        await eventually(
            "the stranger has the GPUs",
            lambda: api.get("Pod", "stranger", namespace),
            lambda pod: pod and pod["spec"].get("nodeName"),
        )
        await api.create(build_pool(namespace, accelerator=PRETEND_CLASS))
        message = await wait_for_reason(api, namespace, Reason.NotBoundInTime, timeout_s=BIND_TIMEOUT_S)
        assert "did not all find their nodes; tried again at" in message
        message = await wait_for_reason(api, namespace, Reason.WaitsForRoom)
        assert "the nodes have no room" in message or "is kept for it" in message


async def test_a_tenant_says_what_it_was_not_given(api: Api, operator: OperatorProcess, namespace: str) -> None:
    async with tenants(api, elder=PRETEND_GPUS, within={"elder": namespace}):
        await api.create(build_tenant("younger", [namespace], guaranteed=2))
        try:
            # What the stranger of the test before had is known to be free again after a minute.
            found = await eventually(
                "the younger is told",
                lambda: api.get("Tenant", "younger"),
                lambda seen: (
                    read_condition(seen, "NamespacesOwned").get("status") == "False"
                    and f"the nodes have {PRETEND_GPUS}" in read_condition(seen, "Guaranteed").get("message", "")
                ),
                timeout_s=STRANGERS_ARE_OLD_S,
            )
            taken, guaranteed = read_condition(found, "NamespacesOwned"), read_condition(found, "Guaranteed")
            assert taken["reason"] == Reason.NamespaceTaken
            assert f"{namespace} belongs to Tenant elder" in taken["message"]
            assert guaranteed["reason"] == Reason.Overcommitted
            assert f"{PRETEND_GPUS + 2} {PRETEND_CLASS} are guaranteed" in guaranteed["message"]
            assert read_condition(found)["reason"] == Reason.NamespaceTaken
        finally:
            await api.delete("Tenant", "younger")
