"""List, get, apply, delete and scale, as requests and as answers."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from llmos.api import Accelerator, InferencePool, InferencePoolSpec, LocalReference, Metadata
from llmos.client import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    LlmosError,
    NotFoundError,
    NotInstalledError,
    OverloadedError,
    UnauthenticatedError,
    UnreachableError,
)
from tests.sdk.client.support import (
    ACCELERATORS,
    POOLS,
    READY,
    Handler,
    Script,
    Twin,
    accelerator,
    answer,
    objects,
    pool,
    refusal,
)

Make = Callable[[Handler], Twin]


async def test_get_reads_one_object_into_its_model(client_for: Make) -> None:
    script = Script(answer(pool("smol", READY, readyReplicas=2)))
    found = await client_for(script).call("pools", "get", "smol")
    assert (found.metadata.name, found.status.ready_replicas) == ("smol", 2)
    assert script.asked == [f"GET {POOLS}/smol"]


async def test_list_reads_page_after_page(client_for: Make) -> None:
    script = Script(objects(pool("a"), more="next"), objects(pool("b")))
    assert [found.metadata.name for found in await client_for(script).call("pools", "list")] == ["a", "b"]
    assert [request.url.params.get("continue") for request in script.requests] == [None, "next"]


async def test_list_can_look_at_another_namespace_at_all_and_at_labels(client_for: Make) -> None:
    script = Script(objects(), objects(), objects())
    twin = client_for(script)
    await twin.call("pools", "list", namespace="other")
    await twin.call("pools", "list", all_namespaces=True)
    await twin.call("pools", "list", label_selector="tier=gold")
    assert script.asked[0] == "GET /apis/llmos.dev/v1alpha1/namespaces/other/inferencepools"
    assert script.asked[1] == "GET /apis/llmos.dev/v1alpha1/inferencepools"
    assert script.requests[2].url.params["labelSelector"] == "tier=gold"


async def test_accelerator_classes_have_no_namespace(client_for: Make) -> None:
    script = Script(answer(accelerator()), objects(accelerator()))
    twin = client_for(script)
    assert (await twin.call("accelerators", "get", "nvidia-l4")).spec.memory == "23034Mi"
    await twin.call("accelerators", "list")
    assert script.asked == [f"GET {ACCELERATORS}/nvidia-l4", f"GET {ACCELERATORS}"]


async def test_apply_sends_only_what_was_set_so_that_defaults_stay_the_servers(client_for: Make) -> None:
    script = Script(answer(pool()))
    wanted = InferencePool(
        metadata=Metadata(name="smol", labels={"tier": "gold"}),
        spec=InferencePoolSpec(model_ref=LocalReference(name="smollm2"), accelerator=Accelerator(class_name="cpu")),
    )
    await client_for(script).call("pools", "apply", wanted)
    request = script.requests[0]
    assert (request.method, request.url.path) == ("PATCH", f"{POOLS}/smol")
    assert request.headers["content-type"] == "application/apply-patch+yaml"
    assert dict(request.url.params) == {"fieldManager": "llmos-cli", "force": "false"}
    assert script.body() == {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": "smol", "labels": {"tier": "gold"}},
        "spec": {"modelRef": {"name": "smollm2"}, "accelerator": {"class": "cpu"}},
    }


async def test_apply_never_sends_status_or_what_the_server_writes(client_for: Make) -> None:
    script = Script(answer(pool()))
    await client_for(script).call("pools", "apply", InferencePool.model_validate(pool("smol", READY, replicas=1)))
    assert script.body().keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert script.body()["metadata"] == {"name": "smol"}


async def test_delete_and_scale_change_one_object(client_for: Make) -> None:
    script = Script(answer({}), answer({}))
    twin = client_for(script)
    await twin.call("pools", "scale", "smol", 3)
    await twin.call("pools", "delete", "smol")
    assert script.asked == [f"PATCH {POOLS}/smol/scale", f"DELETE {POOLS}/smol"]
    assert script.body(0) == {"spec": {"replicas": 3}}


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (refusal(401, "Unauthorized"), UnauthenticatedError, "kubectl auth whoami"),
        (refusal(403, 'inferencepools is forbidden: User "eve" cannot get'), ForbiddenError, 'User "eve"'),
        (refusal(404, 'inferencepools "smol" not found'), NotFoundError, "InferencePool team/smol does not exist"),
        (httpx.Response(404, text="404 page not found"), NotInstalledError, "LLMOS is not installed"),
        (refusal(409, "conflict with kubectl: .spec.replicas"), ConflictError, ".spec.replicas"),
        (refusal(422, "spec.accelerator.count: must be 1"), InvalidError, "spec.accelerator.count"),
        (refusal(429, "too many requests"), OverloadedError, "Try again"),
        (httpx.Response(503, text="apiserver is shutting down"), OverloadedError, "shutting down"),
        (httpx.ConnectError("Connection refused"), UnreachableError, "Cannot connect to https://cluster.test"),
        (httpx.ReadTimeout("timed out"), UnreachableError, "did not answer in time"),
        (httpx.RemoteProtocolError("peer closed"), UnreachableError, "was cut: peer closed"),
    ],
)
async def test_each_refusal_becomes_an_error_with_cause_and_remedy(
    client_for: Make, reply: httpx.Response | Exception, error: type[LlmosError], words: str
) -> None:
    with pytest.raises(error) as caught:
        await client_for(Script(reply)).call("pools", "get", "smol")
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert caught.value.cause
    assert caught.value.remedy


async def test_both_clients_fetch_recorded_decisions_from_the_leader(client_for: Make) -> None:
    pods = objects({"metadata": {"name": "operator-0", "namespace": "llmos-system"}})
    script = Script(pods, httpx.Response(200, text='{"time": "now"}\n'))
    lines = await client_for(script).call("pools", "scaling_samples", "smol", operator_namespace="llmos-system")
    assert lines == '{"time": "now"}\n'
    assert script.asked == [
        "GET /api/v1/namespaces/llmos-system/pods",
        "GET /api/v1/namespaces/llmos-system/pods/operator-0:8080/proxy/scaling/team/smol",
    ]
