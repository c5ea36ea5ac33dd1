"""A story in which the operator does everything that it ever does to a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from e2e.cluster.controlplane import ControlPlane
from llmos.api.names import (
    API_VERSION,
    COMPONENT_FETCH,
    COMPONENT_GATEWAY,
    COMPONENT_SHARE,
    LABEL_COMPONENT,
    LABEL_POOL,
    LABEL_TENANT,
)
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.client import Object
from llmos_operator.kube.resources import (
    ACCELERATOR_CLASSES,
    FINE_TUNE_JOBS,
    INFERENCE_POOLS,
    JOBS,
    LEASES,
    LIMIT_RANGES,
    LLM_MODELS,
    NETWORK_POLICIES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    RESOURCE_QUOTAS,
    ROLE_BINDINGS,
    SERVICES,
    TENANTS,
    Resource,
)
from llmos_operator.runtime.app import LEASE_NAME
from tests.integration.rbac.access import Access, read_requests
from tests.integration.rbac.kubelet import CLASS, MISSING_IMAGE, Kubelet
from tests.integration.rbac.names import NAMESPACE

TIMEOUT_S = 30.0
_POLL_S = 0.1
_USER = "user"


class Story:
    """The steps, in the words of a user, with the namespace in which they happen."""

    def __init__(self, plane: ControlPlane, admin: AioKube, kubelet: Kubelet, namespace: str) -> None:
        self._plane, self._admin, self._kubelet, self._namespace = plane, admin, kubelet, namespace

    async def tell(self) -> None:
        await self._wait("an accelerator class for the node's GPUs", self._is_class_counted)
        await self._keep_a_tenant_apart()
        await self._store_models()
        await self._serve_and_change()
        await self._keep_a_pod_for_a_while()
        await self._scale_by_load()
        await self._train()
        await self._attach_an_adapter()
        await self._name_what_does_not_exist()
        await self._write_a_tenant()
        await self._fail_to_pull_an_image()
        await self._give_a_claim_back()
        await self._delete_a_model_in_use()

    async def _keep_a_tenant_apart(self) -> None:
        """A tenant's namespaces are closed, put in order again, given back, and the tenant is let go."""
        for name in ("tenant-a", "tenant-b"):
            manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            await self._admin.apply(manifest, field_manager=_USER)
        await self._write_tenant("tenant-a", "tenant-b")
        await self._wait("both namespaces to be closed", self._are_closed("tenant-a", "tenant-b"))
        policies = await self._admin.list(NETWORK_POLICIES, namespace="tenant-a")
        await self._admin.delete(NETWORK_POLICIES, policies[0]["metadata"]["name"], "tenant-a")
        await self._wait("the policy to come back", self._are_closed("tenant-a", "tenant-b"))
        await self._write_tenant("tenant-a")
        await self._wait("the second to be given back", self._are_closed("tenant-a"))
        await self._admin.delete(TENANTS, "team")

        async def is_gone() -> bool:
            return await self._admin.get(TENANTS, "team") is None

        await self._wait("the tenant to go", is_gone)

    async def _write_tenant(self, *namespaces: str) -> None:
        manifest = {"apiVersion": API_VERSION, "kind": "Tenant", "metadata": {"name": "team"}}
        await self._admin.apply({**manifest, "spec": {"namespaces": list(namespaces)}}, field_manager=_USER)

    def _are_closed(self, *namespaces: str) -> Callable[[], Awaitable[bool]]:
        """Whether just these namespaces have everything that keeps them apart."""

        async def are_closed() -> bool:
            for kind, count in ((NETWORK_POLICIES, 10), (LIMIT_RANGES, 1), (RESOURCE_QUOTAS, 1), (ROLE_BINDINGS, 2)):
                items = await self._admin.list(kind, label_selector=LABEL_TENANT)
                if sorted(item["metadata"]["namespace"] for item in items) != sorted(namespaces * count):
                    return False
            return True

        return are_closed

    async def lease_holder(self) -> str:
        """Who holds the operator's Lease; empty for nobody."""
        lease = await self._admin.get(LEASES, LEASE_NAME, NAMESPACE)
        return str(((lease or {}).get("spec") or {}).get("holderIdentity") or "")

    async def _is_class_counted(self) -> bool:
        found = await self._admin.get(ACCELERATOR_CLASSES, CLASS)
        return bool(found and found.get("status", {}).get("capacity") == 8)

    async def _store_models(self) -> None:
        await self._write_model("stored", {"mode": "claim", "size": "1Gi"})
        await self._write_model("small", {"mode": "ephemeral", "size": "1Gi"})
        await self._wait_for_reason(LLM_MODELS, "small", "Available")
        await self._wait_for_reason(LLM_MODELS, "stored", "Fetching")
        await self._wait("a look at the progress of the download", self._is_progress_read)
        self._kubelet.may_fetch.set()
        await self._wait_for_reason(LLM_MODELS, "stored", "Available")
        await self._wait("finished steps to be cleared away", self._are_jobs_gone)

    async def _are_jobs_gone(self) -> bool:
        return not await self._admin.list(
            JOBS, namespace=self._namespace, label_selector=f"{LABEL_COMPONENT}!={COMPONENT_FETCH}"
        )

    async def _is_progress_read(self) -> bool:
        return any(request.resource == "pods/log" for request in read_requests(self._plane.read_audit_log()))

    async def _serve_and_change(self) -> None:
        for replicas, arguments in ((2, {}), (2, {"max-num-seqs": 8}), (1, {"max-num-seqs": 8})):
            engine = {"name": "simulator", "args": arguments}
            await self._write_pool("chat", model="stored", accelerator=CLASS, engine=engine, replicas=replicas)
            await self._wait(f"{replicas} replicas with {arguments}", self._is_settled("chat", replicas))

    async def _keep_a_pod_for_a_while(self) -> None:
        """What was deleted and is not gone, because somebody else keeps it, is asked for by itself."""
        selector = f"{LABEL_POOL}=chat"
        (pod,) = await self._admin.list(PODS, namespace=self._namespace, label_selector=selector)
        name = pod["metadata"]["name"]
        await self._admin.merge(PODS, name, self._namespace, {"metadata": {"finalizers": ["example.com/kept"]}})
        engine = {"name": "simulator", "args": {"max-num-seqs": 8}}
        await self._write_pool("chat", model="stored", accelerator=CLASS, engine=engine, replicas=0)
        await self._wait("the pod to be asked for", self._is_pod_asked_for(name))
        await self._admin.merge(PODS, name, self._namespace, {"metadata": {"finalizers": None}})
        await self._write_pool("chat", model="stored", accelerator=CLASS, engine=engine, replicas=1)
        await self._wait("another replica", self._is_settled("chat", 1))

    def _is_pod_asked_for(self, name: str) -> Callable[[], Awaitable[bool]]:
        async def is_asked_for() -> bool:
            requests = read_requests(self._plane.read_audit_log())
            return Access("", "pods", "get", self._namespace, name) in requests

        return is_asked_for

    async def _attach_an_adapter(self) -> None:
        """Its files are shared while a pool wants them, and no longer."""
        source = {"uri": "hf://org/adapter"}
        attached = {"baseModelRef": {"name": "small"}, "attachTo": ["with-adapters"]}
        spec = {"modelRef": {"name": "small"}, "engine": {"name": "simulator"}, "accelerator": {"class": "cpu"}}
        await self._write("InferencePool", "with-adapters", {**spec, "replicas": 1, "adapters": {}})
        await self._write("LLMModel", "support", {"source": source, "adapter": attached})
        await self._wait("a replica that can load adapters", self._is_settled("with-adapters", 1))
        await self._wait("the adapter to be shared", self._is_shared(True))

        async def is_named() -> bool:
            pool = await self._read(INFERENCE_POOLS, "with-adapters")
            return [entry["name"] for entry in pool["status"].get("adapters", ())] == ["support"]

        await self._wait("the adapter in status", is_named)
        await self._write("LLMModel", "support", {"source": source, "adapter": {"baseModelRef": {"name": "small"}}})
        await self._wait("the adapter to be shared no more", self._is_shared(False))
        await self._admin.delete(INFERENCE_POOLS, "with-adapters", self._namespace)
        await self._admin.delete(LLM_MODELS, "support", self._namespace)

    def _is_shared(self, wanted: bool) -> Callable[[], Awaitable[bool]]:
        async def is_so() -> bool:
            selector = f"{LABEL_COMPONENT}={COMPONENT_SHARE}"
            found = [
                await self._admin.list(kind, namespace=self._namespace, label_selector=selector)
                for kind in (PODS, SERVICES)
            ]
            return [len(items) for items in found] == [int(wanted)] * 2

        return is_so

    async def _scale_by_load(self) -> None:
        """The autoscaler looks for gateways, asks replicas, and is told to have one more."""
        await self._write_scaled_pool("by-load", min_replicas=1)
        await self._wait("one replica by load", self._is_settled("by-load", 1))
        await self._wait("a look for gateways", self._are_gateways_looked_for)
        await self._write_scaled_pool("by-load", min_replicas=2)
        await self._wait("two replicas by load", self._is_settled("by-load", 2))
        await self._wait("the decision in status", self._is_decided)
        await self._admin.delete(INFERENCE_POOLS, "by-load", self._namespace)

    async def _train(self) -> None:
        """A job prepares, waits for a quota that its namespace has no part in, trains when that is gone, is looked at
        meanwhile, registers its result, and goes with its objects."""
        await self._write_tenant("nobody")
        spec = {
            "baseModelRef": {"name": "small"},
            "dataset": {"source": {"uri": "https://host/set"}},
            "trainer": {"accelerator": {"class": CLASS}},
            "checkpoint": {"storage": {"mode": "claim", "uri": "s3://bucket/ml"}, "keepWhenDeleted": False},
            "output": {"name": "result"},
        }
        await self._write("FineTuneJob", "tune", spec)
        await self._wait_for_reason(FINE_TUNE_JOBS, "tune", "NoTenant")
        await self._admin.delete(TENANTS, "team")
        await self._wait_for_reason(FINE_TUNE_JOBS, "tune", "Training")
        self._kubelet.may_train.set()
        await self._wait_for_reason(FINE_TUNE_JOBS, "tune", "Registered")
        await self._wait_for_reason(LLM_MODELS, "result", "Available")
        for kind, name in ((FINE_TUNE_JOBS, "tune"), (LLM_MODELS, "result")):
            await self._admin.delete(kind, name, self._namespace)

        async def is_gone() -> bool:
            return await self._admin.get(FINE_TUNE_JOBS, "tune", self._namespace) is None

        await self._wait("the job to go with what it put into its object store", is_gone)

    async def _write_scaled_pool(self, name: str, *, min_replicas: int) -> None:
        spec = {"modelRef": {"name": "small"}, "engine": {"name": "simulator"}, "accelerator": {"class": "cpu"}}
        await self._write("InferencePool", name, {**spec, "scaling": {"minReplicas": min_replicas}})

    async def _are_gateways_looked_for(self) -> bool:
        return any(
            event["verb"] == "list" and COMPONENT_GATEWAY in event["requestURI"]
            for event in self._plane.read_audit_log()
        )

    async def _is_decided(self) -> bool:
        pool = await self._read(INFERENCE_POOLS, "by-load")
        return bool(pool["status"].get("scaling", {}).get("desired") == 2)

    def _is_settled(self, name: str, replicas: int) -> Callable[[], Awaitable[bool]]:
        async def is_settled() -> bool:
            pool = await self._read(INFERENCE_POOLS, name)
            status, generation = pool.get("status") or {}, pool["metadata"]["generation"]
            counts = [status.get(f"{kind}eplicas") for kind in ("r", "readyR", "updatedR")]
            settled = counts == [replicas] * 3 and not status.get("drainingReplicas")
            return bool(settled and status["observedGeneration"] == generation)

        return is_settled

    async def _write_a_tenant(self) -> None:
        await self._admin.apply(
            {
                "apiVersion": API_VERSION,
                "kind": "Tenant",
                "metadata": {"name": "team"},
                "spec": {"namespaces": ["nobody"]},
            },
            field_manager=_USER,
        )

        async def is_told() -> bool:
            tenant = await self._admin.get(TENANTS, "team") or {}
            return any(c["type"] == "Ready" for c in tenant.get("status", {}).get("conditions", ()))

        await self._wait("the tenant to be told about", is_told)

    async def _name_what_does_not_exist(self) -> None:
        """Absence is never remembered: the API server is asked."""
        engine = {"name": "simulator"}
        await self._write_pool("nowhere", model="absent", accelerator="absent", engine=engine, replicas=1)
        await self._wait_for_reason(INFERENCE_POOLS, "nowhere", "ModelNotFound")
        await self._admin.delete(INFERENCE_POOLS, "nowhere", self._namespace)

    async def _fail_to_pull_an_image(self) -> None:
        engine = {"name": "simulator", "image": MISSING_IMAGE}
        await self._write_pool("broken", model="small", accelerator="cpu", engine=engine, replicas=1)

        async def is_ended() -> bool:
            pods = await self._admin.list(PODS, namespace=self._namespace, label_selector=f"{LABEL_POOL}=broken")
            return any(pod.get("status", {}).get("phase") == "Failed" for pod in pods)

        await self._wait("the pod without an image to be ended", is_ended)
        await self._wait_for_reason(INFERENCE_POOLS, "broken", "ImagePullFailed")

    async def _give_a_claim_back(self) -> None:
        await self._write_model("stored", {"mode": "ephemeral", "size": "1Gi"})

        async def is_gone() -> bool:
            return not await self._admin.list(PERSISTENT_VOLUME_CLAIMS, namespace=self._namespace)

        await self._wait("the claim to go", is_gone)

    async def _delete_a_model_in_use(self) -> None:
        await self._admin.delete(LLM_MODELS, "stored", self._namespace)
        await self._wait_for_reason(LLM_MODELS, "stored", "InUse")
        await self._admin.delete(INFERENCE_POOLS, "chat", self._namespace)

        async def is_gone() -> bool:
            return await self._admin.get(LLM_MODELS, "stored", self._namespace) is None

        await self._wait("the model to go", is_gone)

    async def _write_model(self, name: str, storage: dict[str, Any]) -> None:
        await self._write("LLMModel", name, {"source": {"uri": "hf://org/name"}, "storage": storage})

    async def _write_pool(
        self, name: str, *, model: str, accelerator: str, engine: dict[str, Any], replicas: int
    ) -> None:
        spec = {"modelRef": {"name": model}, "engine": engine, "accelerator": {"class": accelerator}}
        await self._write("InferencePool", name, {**spec, "replicas": replicas})

    async def _write(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        metadata = {"name": name, "namespace": self._namespace}
        manifest = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
        await self._admin.apply(manifest, field_manager=_USER)

    async def _read(self, resource: Resource, name: str) -> Object:
        found = await self._admin.get(resource, name, self._namespace)
        assert found is not None, f"{resource.kind} {name} is gone"
        return found

    async def _wait_for_reason(self, resource: Resource, name: str, reason: str) -> None:
        async def is_told() -> bool:
            conditions = (await self._read(resource, name)).get("status", {}).get("conditions", ())
            return any(c["type"] == "Ready" and c["reason"] == reason for c in conditions)

        await self._wait(f"{resource.kind} {name} to say {reason}", is_told)

    @staticmethod
    async def _wait(what: str, is_so: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while not await is_so():  # noqa: ASYNC110 - the cluster tells no event of this process
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise AssertionError(f"waited {TIMEOUT_S:g} s in vain for {what}") from None
