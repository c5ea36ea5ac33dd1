"""Story 2 as a function, because story 3 tells it too, with an operator that is killed again and again."""

from __future__ import annotations

from e2e.support.api import Api, Object
from e2e.support.asking import Target
from e2e.support.load import Report, find_service_url, steady_load
from e2e.support.objects import build_model, build_pool, is_ready, pool_selector, wait_ready
from e2e.support.pods import follow_pods
from e2e.support.waiting import eventually

REPLICAS = 3
MAX_SURGE = 1
STEP_TIMEOUT_S = 180.0


async def start_pool(api: Api, namespace: str, uri: str) -> Object:
    """Three simulated replicas that answer at the speed of people reading."""
    await wait_ready(api, await api.create(build_model(namespace, uri)))
    args = {"max-num-seqs": 64, "decode-step-ms": 20}
    rollout = {"maxSurge": MAX_SURGE, "maxUnavailable": 0}
    pool = build_pool(namespace, replicas=REPLICAS, args=args, rollout=rollout, drain={"timeoutSeconds": 60})
    return await wait_ready(api, await api.create(pool), timeout_s=STEP_TIMEOUT_S)


async def change_and_settle(api: Api, namespace: str, change: Object, replicas: int) -> Object:
    """Change the spec of the pool, and wait until all is as it then should be."""
    before = await api.patch("InferencePool", "pool", namespace, {"spec": change})

    async def observe() -> tuple[Object | None, list[Object]]:
        return await api.get("InferencePool", "pool", namespace), await api.list(
            "Pod", namespace, pool_selector("pool")
        )

    def is_settled(seen: tuple[Object | None, list[Object]]) -> bool:
        pool, pods = seen
        return is_ready(pool) and len(pods) == replicas

    generation = before["metadata"]["generation"]
    pool, _ = await eventually(f"generation {generation} is rolled out", observe, is_settled, timeout_s=STEP_TIMEOUT_S)
    assert pool is not None
    return pool


async def roll_out_and_scale_down(api: Api, namespace: str) -> Report:
    """An argument changes, then 3 -> 1, under load. Asserts the bounds of surge and availability all the way."""
    url = await find_service_url(api, namespace)
    async with follow_pods(api, namespace) as pods, steady_load(Target(url, "tiny")) as report:
        await report.wait_for_more(REPLICAS)
        rollout = pods.mark()
        changed = await change_and_settle(api, namespace, {"engine": {"args": {"max-num-seqs": 32}}}, REPLICAS)
        assert changed["status"]["updatedReplicas"] == REPLICAS
        assert pods.most_holding(rollout) <= REPLICAS + MAX_SURGE
        assert pods.fewest_serving(rollout) >= REPLICAS

        scaling = pods.mark()
        scaled = await change_and_settle(api, namespace, {"replicas": 1}, 1)
        assert scaled["status"]["readyReplicas"] == 1
        assert pods.most_holding(scaling) <= REPLICAS
        assert pods.fewest_serving(scaling) >= 1
        await report.wait_for_more(5)
    return report
