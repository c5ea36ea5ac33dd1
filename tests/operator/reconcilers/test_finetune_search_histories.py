"""Whatever happens to the pods of a search, in whatever order: it keeps its limits, and trials keep their values."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llmos_operator.kube.errors import Forbidden, Unavailable
from llmos_operator.kube.resources import PODS
from tests.operator.reconcilers.search_world import SearchWorld, run_trials
from tests.operator.reconcilers.world import NAMESPACE

WRITES = ["apply", "apply_status", "delete"]
PLACES = st.tuples(st.integers(1, 4), st.integers(1, 3)).map(lambda place: f"{place[0]}-{place[1]}")
ACTIONS = st.one_of(
    st.tuples(st.sampled_from(["run", "kill", "vanish", "gone", "fail"]), PLACES),
    st.tuples(st.just("finish"), st.tuples(PLACES, st.floats(0.1, 1.5))),
    st.tuples(st.just("learn"), st.tuples(PLACES, st.integers(1, 90), st.floats(0.1, 3))),
    st.tuples(st.just("wait"), st.sampled_from([3, 5])),
    st.tuples(st.just("long"), st.just(400)),
    st.tuples(st.just("refuse"), st.just("Pod")),
    st.tuples(st.just("cut"), st.tuples(st.sampled_from(WRITES), st.sampled_from(["Pod", "FineTuneJob"]))),
)


class Tale:
    """One history of a search with a budget, and what its pods really held."""

    def __init__(self) -> None:
        search = {"algorithm": "asha", "reductionFactor": 2, "budgetAcceleratorHours": 600 / 3600}
        self.world = SearchWorld(retries={"user": 1, "infrastructure": 5}, **search)

    def find(self, place: str) -> bool:
        name = f"tune-train-{place}"
        return name in self.world.trial_pods() and self.world.pod(name).get("status", {}).get("phase") not in {
            "Succeeded",
            "Failed",
        }

    async def act(self, action: str, value: Any) -> None:
        world = self.world
        place = value[0] if isinstance(value, tuple) else value
        if action == "wait":
            world.pass_time(value)
        elif action == "cut":
            world.kube.fail_next(value[0], value[1], Unavailable("killed"))
            with contextlib.suppress(Unavailable):
                await world.step()
            world.kube._failures.clear()
        elif action == "refuse":
            world.kube.fail_next("apply", value, Forbidden("no pods here"))
            await world.step()
            world.kube._failures.clear()
        elif action == "long":
            if not any(self.find(f"{trial}-{attempt}") for trial in range(1, 5) for attempt in range(1, 4)):
                world.pass_time(value)
        elif self.find(place):
            self.happen(action, place, value)

    def happen(self, action: str, place: str, value: Any) -> None:
        world, name = self.world, f"tune-train-{place}"
        if action == "run" and "deletionTimestamp" not in world.pod(name)["metadata"]:
            if world.pod(name).get("status", {}).get("phase") != "Running":
                world.run_pod(name)
        elif action == "finish":
            world.finish(place, value[1])
        elif action == "learn":
            world.learn(place, value[1], value[2])
        elif action == "fail":
            world.end_pod(name, code=1, reason="LossNotFinite", message="it broke")
        elif action == "kill":
            world.end_pod(name, code=137)
        elif action in {"vanish", "gone"}:
            world.kube.finish_deletion(PODS, name, NAMESPACE)

    def end_those_that_were_asked(self) -> None:
        """The trainer keeps its deadline."""
        for name in self.world.trial_pods():
            if "deletionTimestamp" in self.world.pod(name)["metadata"]:
                self.world.kube.finish_deletion(PODS, name, NAMESPACE)

    def check(self) -> None:
        status = self.world.status_now()
        trials = status.get("trials", [])
        open_ = [trial for trial in trials if trial["state"] not in {"Complete", "Stopped", "Failed"}]
        assert len(open_) <= 2, "more than parallelism"
        assert len(trials) <= 4
        running = [name for name in self.world.trial_pods() if self.find(name.removeprefix("tune-train-"))]
        assert len({name.rsplit("-", 1)[0] for name in running}) == len(running), "two pods of one trial"
        assert sum(trial["acceleratorSeconds"] for trial in trials) <= 600
        complete = [trial for trial in trials if trial["state"] == "Complete"]
        if complete:
            best = min(complete, key=lambda trial: (trial["evalLoss"], trial["number"]))
            assert status["bestTrial"] == best["number"]


@settings(max_examples=40, deadline=None)
@given(st.lists(ACTIONS, min_size=5, max_size=50))
def test_no_history_breaks_a_search(actions: list[tuple[str, Any]]) -> None:
    async def check() -> None:
        tale = Tale()
        await tale.world.begin()
        stopped: set[int] = set()
        for action, value in actions:
            await tale.act(action, value)
            await tale.world.step()
            tale.check()
            tale.end_those_that_were_asked()
            now = {each["number"] for each in tale.world.status_now()["trials"] if each["state"] == "Stopped"}
            assert stopped <= now, "a stopped trial went on"
            stopped = now
        for _ in range(5):
            await tale.world.step()
            tale.end_those_that_were_asked()
        tale.world.kube.forget_writes()
        await tale.world.step()
        assert tale.world.kube.changes == []

    asyncio.run(check())


PLACES_OF_PROPOSED = st.tuples(st.integers(5, 8), st.integers(1, 3)).map(lambda place: f"{place[0]}-{place[1]}")
ACTIONS_ON_PROPOSED = st.one_of(
    st.tuples(st.sampled_from(["run", "kill", "vanish", "gone", "fail"]), PLACES_OF_PROPOSED),
    st.tuples(st.just("finish"), st.tuples(PLACES_OF_PROPOSED, st.floats(0.1, 1.5))),
    st.tuples(st.just("wait"), st.sampled_from([5, 400])),
    st.tuples(st.just("cut"), st.tuples(st.sampled_from(WRITES), st.sampled_from(["Pod", "FineTuneJob"]))),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(ACTIONS_ON_PROPOSED, min_size=5, max_size=30))
def test_no_history_gives_a_trial_that_has_begun_other_values(actions: list[tuple[str, Any]]) -> None:
    async def check() -> None:
        tale = Tale()
        tale.world = world = SearchWorld(
            retries={"user": 1, "infrastructure": 5}, algorithm="tpe", maxTrials=8, parallelism=2
        )
        await world.begin()
        await run_trials(world, 4)
        begun = {number: world.values(number) for number in range(1, 6)}
        for action, value in actions:
            await tale.act(action, value)
            await world.step()
            tale.end_those_that_were_asked()
            for trial in world.status_now()["trials"]:
                values = begun.setdefault(trial["number"], world.values(trial["number"]))
                assert values == world.values(trial["number"])
            for name in world.trial_pods():
                assert world.told_to(name) == begun[int(name.split("-")[2])]

    asyncio.run(check())
