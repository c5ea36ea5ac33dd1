"""The autoscaler in whole operator processes: a gateway speaks, a real kube-apiserver keeps what was decided."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.controlplane import ControlPlane
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.resources import EVENTS, INFERENCE_POOLS
from llmos_operator.planning.scaling_record import read_records, replay
from llmos_operator.planning.scaling_status import WRITE_INTERVAL_S
from tests.integration.operator.process import OperatorProcess, count_writes, run_operator, wait_for_rest, wait_until
from tests.operator.runtime.load_world import FakeGateway, serve

pytestmark = pytest.mark.apiserver


def scaled_pool(namespace: str) -> dict[str, Any]:
    # Without a model there are no pods, whose comings and goings would be writes of their own.
    scaling = {"minReplicas": 0, "maxReplicas": 5, "target": {"queueDepth": 4}, "scaleDownDelaySeconds": 3600}
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": "chat", "namespace": namespace},
        "spec": {"modelRef": {"name": "absent"}, "accelerator": {"class": "cpu"}, "scaling": scaling},
    }


class Cluster:
    """What the API server has of the pool."""

    def __init__(self, kube: AioKube, namespace: str) -> None:
        self._kube, self._namespace = kube, namespace

    async def pool(self) -> dict[str, Any]:
        found = await self._kube.get(INFERENCE_POOLS, "chat", self._namespace)
        assert found is not None
        return found

    async def status(self) -> dict[str, Any]:
        return dict((await self.pool()).get("status") or {})

    async def wait_for_desired(self, replicas: int) -> dict[str, Any]:
        async def is_so() -> bool:
            return (await self.status()).get("desiredReplicas") == replicas

        await wait_until(is_so)
        return await self.status()

    async def notes(self) -> list[str]:
        """Notes of the Events about scaling, in order."""
        events = await self._kube.list(EVENTS, namespace=self._namespace)
        about = [event for event in events if event["reason"] == "Scaling"]
        return [event["note"] for event in sorted(about, key=lambda event: event["eventTime"])]


async def test_a_pool_sleeps_without_a_write_wakes_at_once_and_survives_a_change_of_leaders(
    control_plane: ControlPlane, real_kube: AioKube, namespace: str, tmp_path: Path
) -> None:
    gateway, cluster, pool_id = FakeGateway(), Cluster(real_kube, namespace), f"{namespace}/chat"
    async with serve(gateway.load) as port:
        arguments = ("--gateway-url", f"http://127.0.0.1:{port}", "--workers", "2")
        async with run_operator(control_plane, namespace, tmp_path, *arguments) as first:
            await wait_until(first.is_leader)
            await real_kube.apply(scaled_pool(namespace))
            await wait_until(lambda: is_true(cluster, "Ready", "ScaledToZero"))
            await wait_until(lambda: has_status(cluster))

            writes = await wait_for_rest(first)
            before = await cluster.pool()
            await asyncio.sleep(WRITE_INTERVAL_S + 2)
            assert await count_writes(first) == writes, "a pool at rest is not written"
            assert (await cluster.pool())["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]

            await gateway.tell(pool_id=pool_id, queued=9)
            status = await cluster.wait_for_desired(3)
            assert status["scaling"]["desired"] == 3
            assert status["scaling"]["inputs"]["queued"] == 9
            assert status["scaling"]["demands"][0]["name"] == "queueDepth"
            assert (await cluster.notes())[0].startswith("Scaled 0 -> 3: 3 replicas are needed: 9 requests")

            lines = (await first.ask(f"/scaling/{namespace}/chat"))[1].splitlines()
            assert [plan.desired for _, plan in replay(read_records(lines))][-1] == 3
            assert (await first.ask(f"/scaling/{namespace}/other"))[0] == 404
            assert "llmos_operator_pool_desired_replicas" in (await first.ask("/metrics"))[1]

            async with run_operator(control_plane, namespace, tmp_path, *arguments) as second:
                await wait_until(second.is_ready)
                assert (await second.ask(f"/scaling/{namespace}/chat"))[0] == 404, "a standby decides nothing"
                await gateway.tell(pool_id=pool_id, queued=0)
                assert await first.end() == 0
                await wait_until(second.is_leader)
                await wait_until(lambda: has_recorded(second, namespace, 3))
                records = list(read_records((await second.ask(f"/scaling/{namespace}/chat"))[1].splitlines()))
                assert {record.desired for record in records} == {3}, "it goes on from status"
                assert (await cluster.status())["desiredReplicas"] == 3
                assert len(await cluster.notes()) == 1

                await real_kube.delete(INFERENCE_POOLS, "chat", namespace)

                async def is_forgotten() -> bool:
                    return (await second.ask(f"/scaling/{namespace}/chat"))[0] == 404

                await wait_until(is_forgotten)


async def is_true(cluster: Cluster, kind: str, reason: str) -> bool:
    conditions = (await cluster.status()).get("conditions", ())
    return any(c["type"] == kind and c["status"] == "True" and c["reason"] == reason for c in conditions)


async def has_status(cluster: Cluster) -> bool:
    return "scaling" in await cluster.status()


async def has_recorded(operator: OperatorProcess, namespace: str, decisions: int) -> bool:
    code, text = await operator.ask(f"/scaling/{namespace}/chat")
    return code == 200 and text.count("\n") >= decisions
