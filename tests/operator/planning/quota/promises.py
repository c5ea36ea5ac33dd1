"""What the ledger promises, counted naively from gangs, nodes and tenants: none of its own code is used for that."""

from __future__ import annotations

from dataclasses import replace

from llmos_operator.planning.quota import Gang, GangKind, GangState, Quota
from tests.operator.planning.quota.world import HOLDING, STANDING, World


def come_to_rest(world: World) -> None:
    """Let everything go well for a long time: the plans end, and then guarantees are met and nothing lies idle."""
    for _ in range(30):
        world.step()
        world.check()
        world.run_what_starts()
        world.let_go_who_leaves()
        world.pass_time(60)
    asked = len(world.asked)
    for _ in range(15):
        world.step()
        world.run_what_starts()
        world.let_go_who_leaves()
        world.pass_time(60)
    assert len(world.asked) == asked, f"no endless preemption: {world.asked[-6:]}"
    assert not world.in_state(GangState.STARTING, GangState.STOPPING, GangState.ENDING)
    check_guarantees(world)
    check_nothing_idle(world)


def check_guarantees(world: World) -> None:
    """Nobody waits within a guarantee for what could be had if all that is borrowed were given back."""
    for gang in world.gangs.values():
        if gang.state is not GangState.WAITING or gang.tenant not in world.tenants:
            continue
        for class_name in gang.classes:
            quota = world.tenants[gang.tenant].quotas.get(class_name)
            if quota is None or world.used(gang.tenant, class_name) + gang.accelerators > quota.guaranteed:
                continue
            kept = [name for tenant in world.tenants for name in covered(world, tenant, class_name)]
            assert not has_room(world, gang, class_name, kept), f"{gang.id} waits within its guarantee"


def check_nothing_idle(world: World) -> None:
    """Nobody waits for what lies idle and may be used, unless it is kept for somebody who waits longer."""
    if any(gang.reservation is not None for gang in world.gangs.values()):
        return
    standing = [gang.id for gang in world.gangs.values() if gang.state in HOLDING]
    for gang in world.gangs.values():
        if gang.state is GangState.WAITING and gang.retry_at_s <= world.now_s:
            for class_name in gang.classes:
                if may_hold(world, gang, class_name) and not has_to_let_go_first(world, gang, class_name):
                    assert not has_room(world, gang, class_name, standing), f"{gang.id} waits for what is idle"


def has_to_let_go_first(world: World, gang: Gang, class_name: str) -> bool:
    """Whether one of its tenant waits that came before it, for long, and does not fit the tenant's limit."""
    quota = world.tenants[gang.tenant].quotas[class_name]
    limit = None if quota.borrow_limit is None else quota.guaranteed + quota.borrow_limit

    def place(each: Gang) -> tuple[bool, float, str]:
        return each.kind is not GangKind.REPLICA, each.created_s - world.rules.aging_s * each.priority, each.id

    return limit is not None and any(
        other.state is GangState.WAITING
        and other.tenant == gang.tenant
        and class_name in other.classes
        and place(other) < place(gang)
        and world.now_s - other.created_s >= world.rules.patience_s
        and world.used(gang.tenant, class_name) + other.accelerators > limit >= other.accelerators
        for other in world.gangs.values()
    )


def is_over(world: World, class_name: str) -> bool:
    """Whether a limit is passed, or more is borrowed than is lent and spare."""
    try:
        world.check_quota(class_name)
    except AssertionError:
        return True
    return False


def may_hold(world: World, gang: Gang, class_name: str) -> bool:
    each = world.tenants.get(gang.tenant)
    if each is None or class_name not in each.quotas:
        return False
    trial = World(world.tenants.values(), world.nodes.values())
    trial.gangs = {**world.gangs, gang.id: replace(gang, state=GangState.RUNNING, reservation=None)}
    nodes_of_class = [name for name, node in world.nodes.items() if node.class_name == class_name]
    if not nodes_of_class:
        return False
    trial.place(gang.id, *(nodes_of_class[0] for _ in range(gang.pods)))
    return not is_over(trial, class_name)


def has_room(world: World, gang: Gang, class_name: str, kept: list[str]) -> bool:
    """Whether the nodes have room beside these gangs, one domain for all pods if one could hold them."""
    empty = {name: node.accelerators - node.taken for name, node in world.nodes.items()}
    free = dict(empty)
    for name in kept:
        placement = world.gangs[name].placement
        for node in placement.nodes if placement is not None and placement.class_name == class_name else ():
            if node in free:
                free[node] -= world.gangs[name].accelerators_per_pod
    domains = {node.domain for node in world.nodes.values() if node.class_name == class_name}
    is_one = any(count_slots(world, gang, empty, class_name, domain) >= gang.pods for domain in domains)
    if gang.pods == 1 or not is_one:
        return sum(count_slots(world, gang, free, class_name, domain) for domain in domains) >= gang.pods
    return any(count_slots(world, gang, free, class_name, domain) >= gang.pods for domain in domains)


def count_slots(world: World, gang: Gang, free: dict[str, int], class_name: str, domain: str) -> int:
    """Pods of the gang that have room in a domain."""
    return sum(
        max(0, count) // gang.accelerators_per_pod
        for name, count in free.items()
        if world.nodes[name].class_name == class_name and world.nodes[name].domain == domain
    )


def covered(world: World, tenant: str, class_name: str) -> set[str]:
    """Gangs that a tenant's guarantee pays for, counted naively."""
    standing = [
        gang
        for gang in world.gangs.values()
        if gang.tenant == tenant
        and gang.state in STANDING
        and gang.placement is not None
        and gang.placement.class_name == class_name
    ]
    left = world.tenants[tenant].quotas.get(class_name, Quota()).guaranteed if tenant in world.tenants else 0
    found = set()
    for gang in sorted(standing, key=lambda g: (g.kind is not GangKind.REPLICA, -g.priority, g.admitted_s, g.id)):
        if gang.accelerators <= left:
            left -= gang.accelerators
            found.add(gang.id)
    return found


def is_room_enough(world: World) -> bool:
    """Whether all that stands, and all for whom others go, has room when everybody who leaves has left."""
    free = {name: node.accelerators - node.taken for name, node in world.nodes.items()}
    for gang in world.gangs.values():
        placement = gang.placement if gang.state in STANDING else None
        if gang.state is GangState.WAITING and gang.reservation is not None and gang.reservation.of:
            placement = gang.reservation.placement
        for name in placement.nodes if placement is not None else ():
            if name in free:
                free[name] -= gang.accelerators_per_pod
    return all(left >= 0 for left in free.values())
