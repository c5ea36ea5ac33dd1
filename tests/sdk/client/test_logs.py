"""Logs over containers, attempts and replicas: nothing twice, nothing lost, and always the right pod."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import FineTuneJob, InferencePool
from llmos.client import ForbiddenError, LogLine, LogNotice, LogOptions, NotFoundError, NotReadyError, UnreachableError
from llmos.client.flow import Emit, Open, Read, Reply, Send, Sleep
from llmos.client.logs import Cursor, LogFlows
from llmos.client.pods import choose_pods, parse_pod
from llmos.client.resources import ResourceFlows
from tests.sdk.client.support import (
    JOBS,
    PODS,
    READY,
    SUCCEEDED,
    TRAINING,
    Handler,
    Json,
    Script,
    Twin,
    answer,
    condition,
    job,
    log,
    objects,
    pod,
    pool,
    refusal,
)

Make = Callable[[Handler], Twin]
DONE = {"terminated": {"exitCode": 0}}
RUNS: Json = {"running": {}}
FOLLOW = LogOptions(follow=True)


def texts(items: list[Any]) -> list[str]:
    return [item.text for item in items if isinstance(item, LogLine)]


async def test_the_log_of_the_pod_that_ran_last_is_read(client_for: Make) -> None:
    prepare = pod("support-prepare-1", component="prepare", phase="Succeeded", states={"prepare": DONE})
    train = pod("support-train-1", born="2026-01-01T00:05:00Z")
    script = Script(answer(job("support", TRAINING)), objects(train, prepare), log((1, "step 1"), (2, "step 2")))
    lines = await client_for(script).take(9, "jobs", "logs", "support", LogOptions(tail=5, since_s=60))
    assert lines[0] == LogLine("support-train-1", "train", "2026-01-01T00:00:01.5Z", "step 1")
    assert script.asked == [f"GET {JOBS}/support", f"GET {PODS}", f"GET {PODS}/support-train-1/log"]
    selector = script.requests[1].url.params["labelSelector"]
    assert selector == "llmos.dev/job=support,llmos.dev/component in (prepare,train)"
    asked = script.requests[2].url.params
    assert (asked["container"], asked["tailLines"], asked["sinceSeconds"]) == ("train", "5", "60")


@pytest.mark.parametrize(
    ("pods", "error", "words"),
    [
        ([], NotFoundError, "FineTuneJob team/support has no pods now. Its conditions say why"),
        (
            [pod("t-1", states={"train": {"waiting": {"reason": "ContainerCreating"}}})],
            NotReadyError,
            "pod t-1 has not started (ContainerCreating). Wait for it with -f",
        ),
    ],
)
async def test_without_a_log_it_says_why(
    client_for: Make, pods: list[Json], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        await client_for(Script(answer(job("support")), objects(*pods))).take(1, "jobs", "logs", "support")
    assert words in str(caught.value)


async def test_the_right_that_is_missing_is_named(client_for: Make) -> None:
    script = Script(answer(job("support")), refusal(403, "pods is forbidden"))
    with pytest.raises(ForbiddenError, match="`get` on pods/log"):
        await client_for(script).take(1, "jobs", "logs", "support")


async def test_a_container_that_has_not_started_is_told_with_those_that_have(client_for: Make) -> None:
    script = Script(answer(job("support")), objects(pod("t-1")))
    with pytest.raises(NotFoundError, match=r"No container fetch of .* has started\. There are logs of: train"):
        await client_for(script).take(1, "jobs", "logs", "support", LogOptions(container="fetch"))


async def test_the_attempt_before_is_read_or_its_absence_told(client_for: Make) -> None:
    first = pod("t-1", phase="Failed", states={"train": DONE})
    second = pod("t-2", born="2026-01-01T01:00:00Z")
    script = Script(answer(job("support")), objects(second, first), log((1, "Traceback")))
    assert texts(await client_for(script).take(9, "jobs", "logs", "support", LogOptions(previous=True))) == [
        "Traceback"
    ]
    assert script.asked[-1] == f"GET {PODS}/t-1/log"
    script = Script(answer(job("support")), objects(second))
    with pytest.raises(NotFoundError, match="no pod of an earlier attempt is left"):
        await client_for(script).take(1, "jobs", "logs", "support", LogOptions(previous=True))


def test_an_init_container_that_failed_is_the_one_that_ran_last() -> None:
    states = {"fetch": DONE, "train": {"waiting": {"reason": "PodInitializing"}}}
    found = parse_pod(pod("t-1", phase="Failed", states=states, init=("fetch",))).find_container(None)
    assert found is not None
    assert found.name == "fetch"


def test_why_a_pod_is_not_scheduled_comes_before_that_its_containers_wait() -> None:
    gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "Waits for a gate."}
    states = {"train": {"waiting": {"reason": "ContainerCreating"}}}
    assert parse_pod(pod("t-1", states=states, conditions=(gated,))).waits_for == "SchedulingGated: Waits for a gate."


def test_of_a_pool_all_replicas_that_live_are_meant_and_of_gangs_the_leaders() -> None:
    pods = tuple(
        parse_pod(each)
        for each in (
            pod("old", phase="Failed", component="replica"),
            pod("a-0", component="replica"),
            pod("a-1", component="replica", rank="1"),
            pod("b-0", component="replica", born="2026-01-02T00:00:00Z"),
        )
    )
    assert [each.name for each in choose_pods(pods, are_replicas=True)] == ["a-0", "b-0"]
    assert [each.name for each in choose_pods(pods, are_replicas=True, previous=True)] == ["old"]
    assert [each.name for each in choose_pods(pods[:1], are_replicas=True)] == ["old"]


class World:
    """A cluster that plays by rounds: each look at the pods begins the next; time passes by pauses only."""

    def __init__(self, *rounds: Json) -> None:
        self.rounds = list(rounds)
        self.now: Json = {}
        self.kept: Json = rounds[0].get("object", job("support", TRAINING))
        self.now_s = 0.0
        self.opened: list[tuple[str, dict[str, str]]] = []
        self.pauses: list[float] = []
        self.items: list[Any] = []
        self._lines: list[str | Exception] = []

    def play(self, flow: Generator[Any, Any, Any]) -> None:
        """Run the flow to its end, or until there are no rounds left."""
        effect = next(flow)
        while True:
            try:
                outcome = self._do(effect)
                effect = flow.throw(outcome) if isinstance(outcome, Exception) else flow.send(outcome)
            except (StopIteration, IndexError):
                return

    def _do(self, effect: Any) -> Any:
        match effect:
            case Send(request) if request.path.endswith("/pods"):
                self.now = self.rounds.pop(0)
                self.kept = self.now.get("object", self.kept)
                return self.now.get("error") or Reply(200, objects(*self.now.get("pods", ())).text)
            case Send():
                return Reply(200, answer(self.kept).text)
            case Open(request):
                name = request.path.split("/")[-2]
                self.opened.append((name, dict(request.params)))
                reply = self.now["logs"].get(name, refusal(404, "gone"))
                if isinstance(reply, Exception):
                    return reply
                self._lines = [] if reply.is_error else [*reply.text.splitlines(), *self.now.get("after", ())]
                return Reply(reply.status_code, reply.text if reply.is_error else "")
            case Read():
                return self._lines.pop(0) if self._lines else None
            case Sleep(seconds):
                self.pauses.append(seconds)
                self.now_s += seconds
            case Emit(item):
                self.items.append(item)
        return None

    def follow(self, options: LogOptions = FOLLOW) -> list[Any]:
        flows = LogFlows(ResourceFlows(FineTuneJob), lambda: self.now_s)
        self.play(flows.read("team", "support", options))
        return self.items


ENDED = pod("t-1", phase="Failed", states={"train": DONE})


def test_following_goes_on_with_the_next_attempt_and_ends_with_the_job() -> None:
    second = pod("t-2", born="2026-01-01T01:00:00Z")
    world = World(
        {"pods": [pod("t-1")], "logs": {"t-1": log((1, "a"))}},
        {"pods": [ENDED], "logs": {"t-1": log((1, "a"), (2, "killed"))}},
        {"pods": [ENDED, second], "logs": {"t-2": log((9, "goes on"))}},
        {
            "pods": [ENDED, pod("t-2", phase="Succeeded", states={"train": DONE})],
            "logs": {"t-2": log((9, "goes on"))},
            "object": job("support", SUCCEEDED),
        },
    )
    items = world.follow()
    assert texts(items) == ["a", "killed", "goes on"]
    assert items[-1] == LogNotice("FineTuneJob support: Registered: LLMModel support is registered.")
    assert world.rounds == []
    assert [params.get("follow") for _, params in world.opened] == ["true", None, "true", None]


def test_what_ended_before_the_following_began_is_not_told_again() -> None:
    second = pod("t-2", born="2026-01-01T01:00:00Z")
    world = World({"pods": [ENDED, second], "logs": {"t-2": log((1, "now"))}})
    assert texts(world.follow()) == ["now"]


def test_while_there_is_no_pod_it_says_once_what_holds_the_job_up() -> None:
    queued = {"pods": [], "object": job("support", condition("False", "WaitsForRoom", "4 of 4 are held."))}
    world = World(queued, queued, queued)
    assert world.follow() == [LogNotice("FineTuneJob support: WaitsForRoom: 4 of 4 are held.")]
    assert world.pauses == [1.0, 2.0, 4.0]


def test_an_init_container_is_followed_into_the_next() -> None:
    def at(fetch: Json, train: Json) -> Json:
        return pod("p-1", states={"fetch": fetch, "train": train}, init=("fetch",))

    world = World(
        {"pods": [at(RUNS, {"waiting": {}})], "logs": {"p-1": log((1, "fetching"))}},
        {"pods": [at(DONE, RUNS)], "logs": {"p-1": log((1, "fetching"), (2, "more"))}},
    )
    assert texts(world.follow())[:2] == ["fetching", "more"]
    assert [params["container"] for _, params in world.opened] == ["fetch", "fetch", "train"]


def test_silence_and_lost_connections_repeat_nothing() -> None:
    lost = UnreachableError("Cut.", "Again.")
    world = World(
        {"pods": [pod("t-1")], "logs": {"t-1": log((1, "a"), (1, "b"))}, "after": (lost,)},
        {"error": lost},
        {"pods": [pod("t-1")], "logs": {"t-1": lost}},
        {"pods": [pod("t-1")], "logs": {"t-1": log((1, "a"), (1, "b"), (1, "c"), (3, "d"))}},
    )
    items = world.follow()
    assert texts(items) == ["a", "b", "c", "d"]
    assert [item for item in items if isinstance(item, LogNotice)] == [LogNotice("Cut. Trying again.")]
    assert world.opened[-1][1]["sinceTime"] == "2026-01-01T00:00:01Z"
    assert world.pauses == [0.5, 1.0, 2.0, 0.5]


def test_replicas_are_read_in_turn_and_no_stream_holds_up_the_others() -> None:
    replicas = [pod("a", component="replica"), pod("b", component="replica")]
    world = World(
        {"pods": replicas, "object": pool("smol", READY), "logs": {"a": log((1, "from a")), "b": log((1, "from b"))}},
        {"pods": replicas, "logs": {"a": log((1, "from a"), (2, "again")), "b": log((1, "from b"))}},
    )
    world.play(LogFlows(ResourceFlows(InferencePool), lambda: world.now_s).read("team", "smol", FOLLOW))
    assert texts(world.items) == ["from a", "from b", "again"]
    assert not [params for _, params in world.opened if "follow" in params]


def test_a_ready_pool_is_followed_on() -> None:
    round_ = {"pods": [], "object": pool("smol", READY)}
    world = World(round_, round_)
    world.play(LogFlows(ResourceFlows(InferencePool), lambda: world.now_s).read("team", "smol", FOLLOW))
    assert len(world.pauses) == 2


def test_since_stays_at_the_same_time_while_nothing_comes() -> None:
    world = World(*[{"pods": [pod("t-1")], "logs": {"t-1": log()}}] * 2)
    world.follow(LogOptions(follow=True, since_s=10, tail=3))
    (_, first), (_, second) = world.opened
    assert (first["sinceSeconds"], first["tailLines"]) == ("10", "3")
    assert (second["sinceSeconds"], second.get("tailLines")) == ("11", None)


stamps = st.tuples(st.integers(0, 3), st.sampled_from(["", ".1", ".12", ".5", ".500000001"]))


@given(written=st.lists(stamps, max_size=30), reads=st.lists(st.integers(0, 30), max_size=6))
def test_however_a_log_is_read_in_parts_it_comes_out_whole_and_once(
    written: list[tuple[int, str]], reads: list[int]
) -> None:
    """The server gives all lines from the whole second on; each read is cut after any number of lines."""
    ordered = sorted(written, key=lambda stamp: (stamp[0], stamp[1].removeprefix(".").ljust(9, "0")))
    lines = [f"2026-01-01T00:00:0{second}{fraction}Z {number}" for number, (second, fraction) in enumerate(ordered)]
    cursor = Cursor("t-1", "train", LogOptions(), 0.0)
    got = []
    for length in [*reads, len(lines)]:
        since = cursor.begin(0.0).get("sinceTime", "")
        served = [line for line in lines if line[:19] >= since.removesuffix("Z")]
        got += [line.text for raw in served[:length] if (line := cursor.accept(raw))]
    assert got == [str(number) for number in range(len(lines))]


def test_a_line_without_a_time_goes_with_the_one_before() -> None:
    cursor = Cursor("t-1", "train", LogOptions(), 0.0)
    raw = ["2026-01-01T00:00:01.5Z a", "torn"]
    assert [line.text for each in raw if (line := cursor.accept(each))] == ["a", "torn"]
    cursor.begin(0.0)
    assert [cursor.accept(each) for each in raw] == [None, None]
    later = cursor.accept("2026-01-01T00:00:02+00:00 ")
    assert later is not None
    assert (later.text, later.time) == ("", "2026-01-01T00:00:02+00:00")


async def test_a_pod_that_goes_between_two_looks_is_no_error(client_for: Make) -> None:
    script = Script(answer(job("support")), objects(pod("t-1")), refusal(404, "pods t-1 not found"))
    assert await client_for(script).take(1, "jobs", "logs", "support") == []


async def test_a_log_that_breaks_off_is_told_when_it_is_not_followed(client_for: Make) -> None:
    script = Script(answer(job("support")), objects(pod("t-1")), httpx.ReadError("reset by peer"))
    with pytest.raises(UnreachableError):
        await client_for(script).take(1, "jobs", "logs", "support")
