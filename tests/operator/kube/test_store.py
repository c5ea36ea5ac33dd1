"""What is remembered, what is not, and for how long. The order of events is told in test_stored.py."""

from __future__ import annotations

import json
from typing import Any

from llmos.api.names import LABEL_MANAGED_BY, MANAGED_BY
from llmos_operator.kube.resources import INFERENCE_POOLS, NODES, SERVICES
from llmos_operator.kube.store import AGE_S, Place, Store, Told

POOL = Place(INFERENCE_POOLS.kind, "ns", "p")
SERVICE = Place(SERVICES.kind, "ns", "p")


class Clock:
    """A clock that tests set."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def body(version: int | str, name: str = "p", **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ns", "resourceVersion": str(version), **metadata}}


def listed(clock: Clock | None = None, **options: Any) -> Store:
    """A store that may remember pools: all of them were listed, and there were none."""
    store = Store(clock or Clock(), **options)
    store.keep_list(INFERENCE_POOLS.kind, "1", Told())
    return store


def test_managed_fields_are_not_kept_and_what_is_returned_may_be_changed() -> None:
    store = listed()
    store.see(POOL.kind, "ADDED", body(2, managedFields=[{"manager": "m"}]))
    first = store.get(POOL)
    assert first == body(2)
    first["metadata"]["name"] = "changed"
    assert store.get(POOL) == body(2)


def test_a_version_that_is_no_number_is_not_compared_but_asked_for() -> None:
    store = listed()
    store.see(POOL.kind, "ADDED", body(2))
    store.see(POOL.kind, "MODIFIED", body("abc"))
    assert store.get(POOL) is None
    store.keep(POOL, body("abd"), Told())
    assert store.get(POOL) is None
    store.keep_list(INFERENCE_POOLS.kind, "abc", Told())
    store.see(POOL.kind, "ADDED", body(9, "other"))
    assert store.get(POOL._replace(name="other")) is None


def test_a_service_is_not_believed_for_long_and_only_if_its_changes_are_told() -> None:
    clock = Clock()
    store = listed(clock)
    ours = body(2, labels={LABEL_MANAGED_BY: MANAGED_BY})
    store.keep(SERVICE, ours, Told())
    clock.now_s = AGE_S
    assert store.get(SERVICE) == ours
    clock.now_s += 1
    assert store.get(SERVICE) is None
    store.keep(SERVICE, body(3), Told())
    assert store.get(SERVICE) is None


def test_kinds_that_are_not_watched_with_their_bodies_are_never_remembered() -> None:
    store = listed()
    store.see(NODES.kind, "ADDED", body(2))
    store.keep(Place(NODES.kind, "ns", "p"), body(2), Told())
    assert store.get(Place(NODES.kind, "ns", "p")) is None


def test_what_was_not_asked_for_longest_goes_first_and_old_news_of_it_do_not_count() -> None:
    size_bytes = len(json.dumps(body(2, "p0"), separators=(",", ":")))
    store = listed(limit_bytes=2 * size_bytes)
    places = [POOL._replace(name=f"p{index}") for index in range(3)]
    for place in places[:2]:
        store.keep(place, body(5, place.name), Told())
    store.get(places[0])
    store.keep(places[2], body(5, "p2"), Told())
    assert [store.get(place) is not None for place in places] == [True, False, True]
    store.see(POOL.kind, "MODIFIED", body(4, "p1"))
    assert store.get(places[1]) is None
