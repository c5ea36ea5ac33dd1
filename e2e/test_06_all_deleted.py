"""Story 6: all is deleted, and nothing remains; but a model is not deleted under the pools that use it."""

from __future__ import annotations

import pytest

from e2e.support.api import Api, Object
from e2e.support.objects import build_model, build_pool, read_condition, wait_ready
from e2e.support.operator import OperatorProcess
from e2e.support.source import Source
from e2e.support.waiting import eventually
from llmos.api import Reason

pytestmark = [pytest.mark.core, pytest.mark.timeout(600)]

CHILDREN = ("Pod", "Service", "EndpointSlice", "Job", "PersistentVolumeClaim", "InferencePool", "LLMModel")


async def list_remains(api: Api, namespace: str) -> list[str]:
    """All that there is in a namespace of what our kinds are or make, and the volumes of its claims."""
    found = [f"{kind} {thing['metadata']['name']}" for kind in CHILDREN for thing in await api.list(kind, namespace)]
    volumes = [volume for volume in await api.list("PersistentVolume") if is_of(volume, namespace)]
    return found + [f"PersistentVolume {volume['metadata']['name']}" for volume in volumes]


def is_of(volume: Object, namespace: str) -> bool:
    """Whether a volume belongs, or belonged, to a claim in a namespace."""
    return bool(volume["spec"].get("claimRef", {}).get("namespace") == namespace)


async def wait_until_nothing_remains(api: Api, namespace: str) -> None:
    await eventually(
        "nothing remains", lambda: list_remains(api, namespace), lambda remains: not remains, timeout_s=120
    )


async def start(api: Api, namespace: str, source: Source) -> None:
    """One model of each way to keep files, with a pool each; pods, Services, Jobs, a claim and a volume."""
    uri = f"{source.url}/tiny"
    for name, storage in (("scratch", {}), ("stored", {"mode": "claim", "size": "1Gi"})):
        await api.create(build_model(namespace, uri, name=name, **storage))
    for name in ("scratch", "stored"):
        model = await api.get("LLMModel", name, namespace)
        assert model is not None
        await wait_ready(api, model)
        await wait_ready(api, await api.create(build_pool(namespace, name=f"of-{name}", model=name)))
    kinds = {remain.partition(" ")[0] for remain in await list_remains(api, namespace)}
    assert kinds == {*CHILDREN, "PersistentVolume"}


async def test_pools_then_models_leave_nothing(
    api: Api, operator: OperatorProcess, source: Source, namespace: str
) -> None:
    await start(api, namespace, source)
    for name in ("scratch", "stored"):
        await api.delete("InferencePool", f"of-{name}", namespace)
        await api.delete("LLMModel", name, namespace)
    await wait_until_nothing_remains(api, namespace)


async def test_a_model_in_use_stays_until_its_pools_are_gone(
    api: Api, operator: OperatorProcess, source: Source, namespace: str
) -> None:
    await start(api, namespace, source)
    for name in ("scratch", "stored"):
        await api.delete("LLMModel", name, namespace)
    held = await eventually(
        "the model says that it is in use",
        lambda: api.get("LLMModel", "stored", namespace),
        lambda model: read_condition(model).get("reason") == Reason.InUse,
    )
    assert "of-stored" in read_condition(held)["message"]
    pool = await api.get("InferencePool", "of-stored", namespace)
    assert pool is not None
    assert pool["status"]["readyReplicas"] == 1, "it serves on"

    for name in ("scratch", "stored"):
        await api.delete("InferencePool", f"of-{name}", namespace)
    await wait_until_nothing_remains(api, namespace)
