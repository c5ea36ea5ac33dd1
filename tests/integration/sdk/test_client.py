"""The client against a real API server: what only that decides."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable
from itertools import islice

import pytest

from e2e.cluster.controlplane import ControlPlane
from llmos.api import Accelerator, InferencePool, InferencePoolSpec, LocalReference, Metadata
from llmos.client import (
    AsyncClient,
    Client,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    NotReadyError,
    UnauthenticatedError,
    load_connection,
)
from llmos.client.connection import Connection

SetReady = Callable[..., None]


def build_pool(
    name: str = "smol", *, count: int = 1, class_name: str = "cpu", replicas: int | None = 1
) -> InferencePool:
    number = {} if replicas is None else {"replicas": replicas}
    return InferencePool(
        metadata=Metadata(name=name),
        spec=InferencePoolSpec(
            model_ref=LocalReference(name="smollm2"),
            accelerator=Accelerator(class_name=class_name, count=count),
            **number,
        ),
    )


def test_apply_creates_and_the_server_fills_in_its_defaults(client: Client) -> None:
    made = client.pools.apply(build_pool())
    assert made.metadata.uid
    assert made.spec.rollout.max_surge == 1
    assert client.pools.get("smol").metadata.uid == made.metadata.uid
    assert [pool.metadata.name for pool in client.pools.list()] == ["smol"]


def test_a_second_apply_changes_nothing(client: Client) -> None:
    assert client.pools.apply(build_pool()).metadata.resource_version == (
        client.pools.apply(build_pool()).metadata.resource_version
    )


def test_a_scale_stays_when_the_object_is_applied_again_without_a_number(client: Client) -> None:
    client.pools.apply(build_pool())
    client.pools.scale("smol", 3)
    assert client.pools.apply(build_pool(replicas=None)).spec.replicas == 3


def test_the_server_refuses_in_its_own_words(client: Client) -> None:
    with pytest.raises(InvalidError, match="accelerator class cpu has count 1"):
        client.pools.apply(build_pool(count=2))


def test_a_field_of_another_manager_is_a_conflict_unless_forced(client: Client) -> None:
    client.pools.apply(build_pool(class_name="nvidia-l4"))
    other = build_pool(class_name="nvidia-h100")
    with pytest.raises(ConflictError, match="class"):
        client.pools.apply(other, field_manager="someone-else")
    assert (
        client.pools.apply(other, field_manager="someone-else", force=True).spec.accelerator.class_name == "nvidia-h100"
    )


def test_a_deleted_object_is_not_found(client: Client) -> None:
    client.pools.apply(build_pool())
    client.pools.delete("smol")
    with pytest.raises(NotFoundError, match="smol does not exist"):
        client.pools.get("smol")


def test_a_list_of_several_pages_is_whole(client: Client) -> None:
    for number in range(3):
        client.pools.apply(build_pool(f"p{number}"))
    assert len(client.pools.list(all_namespaces=True, label_selector="")) >= 3
    assert len(client.pools.list()) == 3


def test_a_watch_follows_creation_change_and_deletion(client: Client) -> None:
    client.pools.apply(build_pool("first"))

    def change() -> None:
        time.sleep(0.5)
        client.pools.apply(build_pool("second"))
        client.pools.scale("second", 2)
        client.pools.delete("first")

    changing = threading.Thread(target=change)
    changing.start()
    events = client.pools.watch()
    seen = [(event.type, event.object.metadata.name) for event in islice(events, 4)]
    events.close()
    changing.join()
    assert seen == [("ADDED", "first"), ("ADDED", "second"), ("MODIFIED", "second"), ("DELETED", "first")]


def test_waiting_sees_the_operator_at_work(client: Client, set_ready: SetReady) -> None:
    client.pools.apply(build_pool())
    set_ready("smol", "False", "Starting", "Replica smol-1 is starting.")
    timer = threading.Timer(0.7, set_ready, ("smol", "True", "Ready"), {"readyReplicas": 1})
    timer.start()
    seen: list[int] = []
    ready = client.pools.wait_ready("smol", 30, on_change=lambda pool: seen.append(pool.status.ready_replicas))
    timer.join()
    assert ready.status.ready_replicas == 1
    assert seen == [0, 1]


def test_waiting_gives_up_in_time_and_says_why(client: Client, set_ready: SetReady) -> None:
    client.pools.apply(build_pool())
    set_ready("smol", "False", "Unschedulable", "0/1 nodes are available.")
    begun = time.monotonic()
    with pytest.raises(NotReadyError, match="Unschedulable"):
        client.pools.wait_ready("smol", 1.5)
    assert 1.0 < time.monotonic() - begun < 10


async def test_the_asynchronous_client_does_the_same(control_plane: ControlPlane, namespace: str) -> None:
    async with AsyncClient(kubeconfig=str(control_plane.kubeconfig), namespace=namespace) as client:
        await asyncio.gather(*(client.pools.apply(build_pool(f"p{number}")) for number in range(5)))
        assert len(await client.pools.list()) == 5
        events = client.pools.watch()
        assert (await anext(events)).type == "ADDED"
        await events.aclose()
        with pytest.raises(NotFoundError):
            await client.models.get("none")


def test_a_login_that_the_server_does_not_know_is_unauthenticated(control_plane: ControlPlane) -> None:
    real = load_connection(str(control_plane.kubeconfig))
    with (
        Client(connection=Connection(server=real.server, tls=trust_only(control_plane))) as stranger,
        pytest.raises((UnauthenticatedError, ForbiddenError)),
    ):
        stranger.pools.list()


def trust_only(control_plane: ControlPlane) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(control_plane.ca_file))
