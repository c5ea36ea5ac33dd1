"""Watches that never end and waits that always do."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import InferencePool
from llmos.client import NotFoundError, NotReadyError, UnreachableError
from llmos.client.flow import Emit, Open, Read, Reply, Send, Sleep
from llmos.client.resources import Event, ResourceFlows
from tests.sdk.client.support import (
    READY,
    STARTING,
    TOO_BIG,
    Handler,
    Script,
    Twin,
    answer,
    condition,
    events,
    objects,
    pool,
    refusal,
)

Make = Callable[[Handler], Twin]


def changes(seen: list[Any]) -> list[tuple[str, str]]:
    return [(event.type, event.object.metadata.name) for event in seen]


async def test_a_watch_shows_what_is_there_and_then_every_change(client_for: Make) -> None:
    script = Script(
        objects(pool("a"), version="10"),
        events(("ADDED", pool("b", version="11")), ("BOOKMARK", pool("", version="12")), ("DELETED", pool("a"))),
    )
    assert changes(await client_for(script).take(3, "pools", "watch")) == [
        ("ADDED", "a"),
        ("ADDED", "b"),
        ("DELETED", "a"),
    ]
    watch = script.requests[1].url.params
    assert (watch["watch"], watch["resourceVersion"], watch["allowWatchBookmarks"]) == ("true", "10", "true")


async def test_a_watch_goes_on_where_the_last_stream_ended(client_for: Make) -> None:
    script = Script(objects(version="10"), events(("ADDED", pool("a", version="11"))), events(("ADDED", pool("b"))))
    await client_for(script).take(2, "pools", "watch")
    assert script.requests[2].url.params["resourceVersion"] == "11"


@pytest.mark.parametrize(
    "lost",
    [
        events(("ERROR", {"kind": "Status", "code": 410, "message": "too old"})),
        refusal(410, "too old resource version"),
        httpx.ReadError("reset by peer"),
        refusal(503, "apiserver is shutting down"),
    ],
)
async def test_a_lost_watch_reports_once_what_changed_meanwhile(
    client_for: Make, lost: httpx.Response | Exception
) -> None:
    script = Script(
        objects(pool("kept"), pool("gone"), pool("changed", version="1")),
        lost,
        objects(pool("kept"), pool("changed", version="2"), pool("new")),
    )
    seen = changes(await client_for(script).take(6, "pools", "watch"))
    assert seen[3:] == [("DELETED", "gone"), ("MODIFIED", "changed"), ("ADDED", "new")]


async def test_waiting_returns_the_object_once_it_is_ready_and_shows_every_state(client_for: Make) -> None:
    seen: list[str] = []
    script = Script(answer(pool("smol", STARTING)), events(("MODIFIED", pool("smol", READY, readyReplicas=1))))
    found = await client_for(script).call(
        "pools", "wait_ready", "smol", 60, on_change=lambda thing: seen.append(thing.status.conditions[0].reason)
    )
    assert found.status.ready_replicas == 1
    assert seen == ["Starting", "Ready"]
    assert script.requests[1].url.params["fieldSelector"] == "metadata.name=smol"


async def test_a_ready_condition_of_an_older_generation_does_not_count(client_for: Make) -> None:
    script = Script(
        answer(pool("smol", condition("True", "Ready", generation=1), generation=2)),
        events(("MODIFIED", pool("smol", condition("True", "Ready", generation=2), generation=2))),
    )
    await client_for(script).call("pools", "wait_ready", "smol", 60)
    assert len(script.requests) == 2


async def test_waiting_ends_at_the_deadline_with_reason_and_message(client_for: Make) -> None:
    script = Script(answer(pool("smol", STARTING)))
    with pytest.raises(NotReadyError, match=r"not ready after 0 s \(Starting\): Replica smol-1 is starting") as caught:
        await client_for(script).call("pools", "wait_ready", "smol", 0)
    assert (caught.value.reason, caught.value.message) == ("Starting", "Replica smol-1 is starting.")


async def test_waiting_ends_at_once_when_only_a_person_can_help(client_for: Make) -> None:
    with pytest.raises(NotReadyError, match="DoesNotFit") as caught:
        await client_for(Script(answer(pool("smol", TOO_BIG)))).call("pools", "wait_ready", "smol", 3600)
    assert "use count 2" in caught.value.cause
    assert "quantized" in caught.value.remedy


async def test_waiting_goes_on_while_another_object_may_still_help(client_for: Make) -> None:
    missing = condition("False", "ModelNotFound", "There is no LLMModel smollm2.")
    script = Script(answer(pool("smol", missing)), events(("MODIFIED", pool("smol", READY))))
    await client_for(script).call("pools", "wait_ready", "smol", 60)


async def test_waiting_for_an_object_that_is_deleted_meanwhile_fails(client_for: Make) -> None:
    script = Script(answer(pool("smol", STARTING)), events(("DELETED", pool("smol", STARTING))))
    with pytest.raises(NotFoundError, match="was deleted meanwhile"):
        await client_for(script).call("pools", "wait_ready", "smol", 60)


async def test_waiting_survives_a_server_that_is_away_for_a_moment(client_for: Make) -> None:
    script = Script(httpx.ConnectError("refused"), refusal(503, "starting"), answer(pool("smol", READY)))
    await client_for(script).call("pools", "wait_ready", "smol", 60)
    assert len(script.requests) == 3


class Clock:
    """Time that passes only when a flow sleeps or reads."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@given(timeout_s=st.floats(0, 5000), faults=st.lists(st.sampled_from(["ok", "away", "silent"]), max_size=40))
def test_no_wait_is_longer_than_its_deadline_and_no_pause_is_a_hot_loop(timeout_s: float, faults: list[str]) -> None:
    clock = Clock()
    flow = ResourceFlows(InferencePool, clock).wait_ready("team", "smol", timeout_s)
    with pytest.raises((NotReadyError, UnreachableError)):
        play(flow, clock, iter(faults))
    assert clock.now_s <= timeout_s + 1


def play(flow: Generator[Any, Any, Any], clock: Clock, faults: Any) -> None:
    """A server that never has a ready pool: it answers, is away, or lets watches run into their time-out."""
    effect = next(flow)
    requests = 0
    while True:
        match effect:
            case Send():
                requests += 1
                assert requests < 5000, "hot loop"
                if next(faults, "ok") == "away":
                    effect = flow.throw(UnreachableError("Away.", "Wait."))
                else:
                    effect = flow.send(Reply(200, answer(pool("smol", STARTING)).text))
            case Open(request):
                clock.now_s += float(request.params["timeoutSeconds"])
                effect = flow.send(Reply(200))
            case Read():
                effect = flow.send(None)
            case Sleep(seconds):
                assert seconds >= 0
                clock.now_s += seconds
                effect = flow.send(None)
            case Emit():
                effect = flow.send(None)


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123"), max_size=4), min_size=1, max_size=6))
def test_replaying_a_watch_always_gives_the_servers_state(states: list[dict[str, str]]) -> None:
    flow = ResourceFlows(InferencePool).watch("team")
    replica: dict[str, str] = {}
    effect = next(flow)
    for state in states:
        while not isinstance(effect, Send):
            effect = _step(flow, effect, replica)
        effect = flow.send(Reply(200, objects(*(pool(n, version=v) for n, v in state.items())).text))
        while not isinstance(effect, Open):
            effect = _step(flow, effect, replica)
        assert replica == state
        effect = flow.throw(UnreachableError("Cut.", "Again."))


def _step(flow: Generator[Any, Any, Any], effect: Any, replica: dict[str, str]) -> Any:
    if isinstance(effect, Emit):
        event: Event[InferencePool] = effect.item
        name = event.object.metadata.name
        if event.type == "DELETED":
            del replica[name]
        else:
            assert (event.type == "ADDED") == (name not in replica)
            replica[name] = event.object.metadata.resource_version
    return flow.send(None)
