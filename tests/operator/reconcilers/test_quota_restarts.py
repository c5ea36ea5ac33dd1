"""The quota over operators that are killed and restarted: nothing is given twice, nothing is counted twice."""

from __future__ import annotations

from typing import Any

from llmos_operator.kube.errors import Unavailable
from llmos_operator.planning.settings import Settings
from tests.operator.reconcilers.quota_world import Cluster, gpu_pool, tenant
from tests.operator.reconcilers.world import NAMESPACE


async def test_an_operator_that_is_killed_after_any_write_ends_where_it_would_have_ended() -> None:
    for survived in range(12):
        world = Cluster(tenant("a", NAMESPACE), tenant("b", "team-b"), gpu_pool("burst", "team-b", replicas=4))
        await world.settle()
        world.kube.put(gpu_pool("chat", replicas=2))
        await world.reconcile("InferencePool", "chat")
        await cut_off(world, survived)
        reborn = restart(world)
        for _ in range(6):
            await reborn.turn()
            reborn.end_pods()
            reborn.bind()
            assert len(reborn.held(NAMESPACE)) + len(reborn.held("team-b")) <= 4
        assert (len(reborn.held("team-b")), len(reborn.held(NAMESPACE))) == (2, 2), f"after {survived} writes"


async def cut_off(world: Cluster, survived: int) -> None:
    """A pass of which only the first writes reach the API server."""
    merge, left = world.kube.merge, [survived]

    async def refuse(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Unavailable("killed")
        return await merge(*arguments)

    world.kube.merge = refuse  # type: ignore[method-assign,assignment]  # the process ends here
    try:
        await world.quota()
    except Unavailable:
        pass
    finally:
        world.kube.merge = merge  # type: ignore[method-assign]  # and another begins


def restart(world: Cluster) -> Cluster:
    """The same cluster, seen by a new operator."""
    reborn = Cluster()
    reborn.kube, reborn.time = world.kube, world.time
    reborn.kube.now = lambda: reborn.time
    reborn.context = type(reborn.context)(
        kube=reborn.kube,
        settings=Settings(),
        now=lambda: reborn.time,
        observe_in_flight=reborn.context.observe_in_flight,
    )
    reborn.context.quota.on_news = reborn.told.append
    return reborn


async def test_accelerator_seconds_are_counted_over_restarts_and_not_twice() -> None:
    world = Cluster(tenant("a", NAMESPACE), gpu_pool("chat", replicas=2))
    await world.settle()
    began = world.tenant_status("a")["thisMonth"]["gpuSeconds"]
    for _ in range(30):
        world.pass_time(58)
        await world.turn()
    reborn = restart(world)
    reborn.pass_time(300)
    await reborn.turn()
    month = reborn.tenant_status("a")["thisMonth"]
    elapsed_s = 30 * 60 + 302
    assert month["month"] == "2026-01"
    assert 2 * elapsed_s - 4 <= month["gpuSeconds"] - began <= 2 * elapsed_s + 24
