"""Story 5: everything that goes wrong says so. Each failure is provoked for real; its condition must name the cause and
the remedy, one Event must tell it, no GPU may stay held, and nothing may be tried in a tight loop.

All failures are provoked side by side, each in a namespace of its own, as many at a time as a small machine and its
four GPUs bear; each test then judges one of them.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from e2e.cluster.node import NODE_LABELS, PRETEND_GPUS
from e2e.support.api import Api, Object, RefusedError, connect
from e2e.support.failures import Failure, Provoked, Scene, provoke
from e2e.support.objects import (
    GPU_RESOURCE,
    PRETEND_CLASS,
    build_model,
    build_namespace,
    build_pool,
    wait_ready,
)
from e2e.support.operator import OperatorProcess, OperatorSettings
from e2e.support.removal import remove_namespace
from e2e.support.source import CONTEXT_TOKENS, Source
from e2e.support.waiting import eventually
from llmos.api import REASONS, Reason
from llmos.api.names import COMPONENT_REPLICA, LABEL_COMPONENT

pytestmark = [pytest.mark.core, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]

AT_A_TIME = 6
START_TIMEOUT_S = 30

Arrange = Callable[[Scene], Awaitable[Object]]


def model(folder: str, *, with_secret: bool = False, over_tls: bool = False, **storage: Any) -> Arrange:
    """Only a model, from a folder of the source."""

    async def arrange(scene: Scene) -> Object:
        uri = folder if "://" in folder else f"{scene.tls_url if over_tls else scene.url}/{folder}"
        return await scene.api.create(
            build_model(scene.namespace, uri, secret_name="absent" if with_secret else "", **storage)
        )

    return arrange


def pool(*, accelerator: str = PRETEND_CLASS, **spec: Any) -> Arrange:
    """A pool of a model that is fine."""

    async def arrange(scene: Scene) -> Object:
        await wait_ready(scene.api, await scene.api.create(build_model(scene.namespace, f"{scene.url}/tiny")))
        return await scene.api.create(build_pool(scene.namespace, accelerator=accelerator, **spec))

    return arrange


def forbidden(forbid: Callable[[Scene], Awaitable[None]], then: Arrange) -> Arrange:
    """The same in a namespace where something is forbidden."""

    async def arrange(scene: Scene) -> Object:
        await forbid(scene)
        return await then(scene)

    return arrange


async def forbid_jobs(scene: Scene) -> None:
    """A quota of no Jobs."""
    await scene.api.create(build_quota(scene.namespace, {"count/jobs.batch": "0"}))


async def forbid_gpus(scene: Scene) -> None:
    """A quota of no GPUs."""
    await scene.api.create(build_quota(scene.namespace, {f"requests.{GPU_RESOURCE}": "0"}))


def build_quota(namespace: str, hard: Object) -> Object:
    metadata = {"name": "nothing", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}}


POLICY = "e2e-no-replicas"


async def forbid_replicas(scene: Scene) -> None:
    """An admission policy that lets no serving pod into the namespace."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    expression = f"object.metadata.?labels['{LABEL_COMPONENT}'].orValue('') != '{COMPONENT_REPLICA}'"
    version = "admissionregistration.k8s.io/v1"
    policy = {
        "apiVersion": version,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": POLICY},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": expression, "message": "No models are served here."}],
        },
    }
    selector = {"matchLabels": {"kubernetes.io/metadata.name": scene.namespace}}
    binding = {
        "apiVersion": version,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": POLICY},
        "spec": {
            "policyName": POLICY,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": selector},
        },
    }
    await scene.api.create(policy)
    await scene.api.create(binding)
    await eventually("the policy is in force", lambda: is_refused(scene), lambda refused: refused)


async def is_refused(scene: Scene) -> bool:
    """Whether the policy already answers; it takes the API server a moment."""
    labels = {LABEL_COMPONENT: COMPONENT_REPLICA}
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe", "namespace": scene.namespace, "labels": labels},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "probe", "image": "none", "securityContext": security}],
        },
    }
    try:
        await scene.api.create(manifest, dry_run=True)
    except RefusedError as error:
        return "No models are served here" in str(error)
    return False


SMALL_CLASS = "e2e-small"


def on_small_gpus(then: Arrange) -> Arrange:
    """With an accelerator class of little memory on the real node."""

    async def arrange(scene: Scene) -> Object:
        small = {
            "apiVersion": "llmos.dev/v1alpha1",
            "kind": "AcceleratorClass",
            "metadata": {"name": SMALL_CLASS},
            "spec": {"memory": "1Gi", "nodeSelector": dict(NODE_LABELS)},
        }
        await scene.api.create(small)
        return await then(scene)

    return arrange


CLAIM: dict[str, Any] = {"mode": "claim", "size": "1Gi"}

FAILURES = (
    Failure("no-host", Reason.InvalidSource, model("http:///models"), ("names no host", "Correct spec.source.uri")),
    Failure("wrong-url", Reason.SourceNotFound, model("nothing-here"), ("no manifest.json", "Point the URI")),
    Failure("unauthorized", Reason.AccessDenied, model("unauthorized"), ("answered 401", "spec.source.secretRef")),
    Failure("gated", Reason.AccessDenied, model("gated"), ("answered 403", "Accept the model's terms")),
    Failure("limited", Reason.RateLimited, model("limited"), ("answered 429", "a token in spec.source.secretRef")),
    Failure("broken", Reason.SourceUnavailable, model("broken"), ("answered 503", "Check the network")),
    Failure(
        "certificate",
        Reason.CertificateNotTrusted,
        model("tiny", over_tls=True),
        ("certificate verify failed", "fetch.caBundleConfigMap"),
    ),
    Failure("no-secret", Reason.SecretNotFound, model("tiny", with_secret=True), ("absent", "kubectl create secret")),
    Failure("pickle", Reason.UnsafeFormat, model("pickle"), ("pickle", "safetensors")),
    Failure("unknown", Reason.UnknownArchitecture, model("unknown"), ("num_hidden_layers", "Use ")),
    Failure(
        "disk", Reason.DiskFull, model("tiny", **CLAIM | {"size": "1Mi"}), ("GiB free", "Raise spec.storage.size to")
    ),
    Failure(
        "checksum",
        Reason.ChecksumMismatch,
        model("wrong-checksum", **CLAIM),
        ("sha256", "a proxy on the way"),
        attempts=6,  # one inspection, two fetches
    ),
    Failure(
        "no-class-of-storage",
        Reason.ClaimNotBound,
        model("tiny", **CLAIM | {"storageClassName": "e2e-none"}),
        ("unbound", "spec.storage.storageClassName"),
    ),
    Failure(
        "no-jobs", Reason.ForbiddenByPolicy, forbidden(forbid_jobs, model("tiny")), ("nothing", "change it"), attempts=0
    ),
    Failure("no-model", Reason.ModelNotFound, pool(model="absent"), ("absent", "spec.modelRef.name")),
    Failure("no-accelerator", Reason.AcceleratorClassNotFound, pool(accelerator="absent"), ("absent", "kubectl get")),
    Failure("no-node", Reason.NoNodeHasAccelerator, pool(count=2 * PRETEND_GPUS), ("largest node", "Choose another")),
    Failure("no-fit", Reason.DoesNotFit, on_small_gpus(pool(accelerator=SMALL_CLASS)), ("1 GiB", "use ")),
    Failure(
        "context",
        Reason.ContextTooLong,
        pool(contextLength=CONTEXT_TOKENS + 1),
        (f"{CONTEXT_TOKENS} tokens", "set contextLength to"),
    ),
    Failure(
        "argument",
        Reason.BadEngineArgument,
        pool(args={"no-such-argument": 1}),
        ("unrecognized arguments: --no-such-argument", "Correct spec.engine.args"),
        gpus=1,
    ),
    Failure(
        "owned-argument",
        Reason.InvalidSpec,
        pool(args={"host": "0.0.0.0"}),  # noqa: S104 - it is refused
        ("host is set by LLMOS", "remove it"),
    ),
    Failure(
        "image",
        Reason.ImagePullFailed,
        pool(image="localhost/llmos-nowhere:1"),
        ("localhost/llmos-nowhere:1", "pull secrets"),
        gpus=1,
    ),
    Failure(
        "memory",
        Reason.OutOfMemory,
        pool(args={"fault-start": "oom"}),
        ("CUDA out of memory", "Lower spec.contextLength"),
        gpus=1,
    ),
    Failure(
        "crash",
        Reason.EngineCrashed,
        pool(args={"fault-start": "crash"}),
        ("Engine core initialization failed", "kubectl logs"),
        gpus=1,
    ),
    Failure(
        "slow",
        Reason.EngineStartTimeout,
        pool(args={"fault-slow-start-s": 3600}),
        (f"not healthy after {START_TIMEOUT_S} s", "slow storage"),
        gpus=1,
    ),
    Failure(
        "hang",
        Reason.EngineStartTimeout,
        pool(args={"fault-start": "hang"}),
        (f"not healthy after {START_TIMEOUT_S} s", "Look at the engine's log"),
        gpus=1,
    ),
    Failure(
        "never-ready",
        Reason.ReadinessNeverReached,
        pool(args={"fault-error-rate": 1}),
        ("generated no token", "Look at the engine's log"),
        gpus=1,
    ),
    Failure(
        "no-free-gpu",
        Reason.Unschedulable,
        pool(count=PRETEND_GPUS, replicas=2),
        (f"Insufficient {GPU_RESOURCE}", "Free accelerators"),
        gpus=PRETEND_GPUS,
        gpus_held=PRETEND_GPUS,
    ),
    Failure(
        "policy",
        Reason.ForbiddenByPolicy,
        forbidden(forbid_replicas, pool()),
        ("No models are served here", "change it"),
    ),
    Failure("quota", Reason.ForbiddenByPolicy, forbidden(forbid_gpus, pool()), ("exceeded quota", "change it")),
)


class Stage:
    """Provokes failures in the background; `outcome` waits for one."""

    def __init__(self, api: Api, source: Source, failures: list[Failure]) -> None:
        """Start with the failures whose tests are to be run."""
        self._api, self._source = api, source
        self._places = asyncio.Semaphore(AT_A_TIME)
        self._gpus = asyncio.Semaphore(PRETEND_GPUS)
        self._tasks = {failure.name: asyncio.create_task(self._provoke(failure)) for failure in failures}

    async def outcome(self, failure: Failure) -> Provoked:
        """What became of a failure."""
        return await self._tasks[failure.name]

    async def close(self) -> None:
        """End what still runs."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _provoke(self, failure: Failure) -> Provoked:
        async with self._places, self._hold_gpus(failure.gpus):
            namespace = f"e2e-05-{failure.name}-{uuid.uuid4().hex[:4]}"
            await self._api.create(build_namespace(namespace))
            try:
                return await provoke(failure, Scene(self._api, namespace, self._source.url, self._source.tls_url))
            finally:
                await remove_namespace(self._api, namespace)

    @asynccontextmanager
    async def _hold_gpus(self, count: int) -> AsyncIterator[None]:
        # Only one failure takes more than one, so that no two can wait for each other.
        for _ in range(count):
            await self._gpus.acquire()
        try:
            yield
        finally:
            for _ in range(count):
                self._gpus.release()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(
    request: pytest.FixtureRequest, kubeconfig: Path, operator_process: OperatorProcess, source: Source
) -> AsyncIterator[Stage]:
    operator_process.ensure(OperatorSettings(start_timeout_s=START_TIMEOUT_S))
    wanted = {
        item.callspec.id
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    }
    async with connect(kubeconfig) as api:
        await remove_cluster_objects(api)
        stage = Stage(api, source, [failure for failure in FAILURES if failure.name in wanted])
        yield stage
        await stage.close()
        await remove_cluster_objects(api)


async def remove_cluster_objects(api: Api) -> None:
    """What namespaces do not take with them."""
    await api.delete("ValidatingAdmissionPolicyBinding", POLICY)
    await api.delete("ValidatingAdmissionPolicy", POLICY)
    await api.delete("AcceleratorClass", SMALL_CLASS)


@pytest.mark.parametrize("failure", FAILURES, ids=[failure.name for failure in FAILURES])
async def test_a_failure_says_what_is_wrong_and_what_to_do(stage: Stage, failure: Failure) -> None:
    provoked = await stage.outcome(failure)
    assert provoked.condition["status"] == "False"
    assert provoked.condition["reason"] == failure.reason
    cause, remedy = failure.says
    assert cause in provoked.condition["message"]
    assert remedy in provoked.condition["message"]
    assert provoked.events == 1
    assert provoked.gpus_held <= failure.gpus_held
    assert provoked.attempts <= failure.attempts


TOLD_ELSEWHERE: dict[Reason, str] = {
    Reason.EngineHung: "e2e/test_04_recovery",
    Reason.GangBroken: "tests/operator/reconcilers, tests/workers/serve: a pod that is gone without a word",
    Reason.InUse: "e2e/test_06_all_deleted",
    Reason.KueueNotInstalled: "tests/integration/operator/test_kueue: a stand-in for Kueue",
    Reason.NotManagedByKueue: "tests/integration/operator/test_kueue",
    Reason.QueueInactive: "tests/operator/planning/test_kueue",
    Reason.QueueNotFound: "tests/integration/operator/test_kueue",
    Reason.WaitsForKueue: "tests/integration/operator/test_kueue",
    Reason.ConversionFailed: "tests/training/fetch: a tokenizer that nobody knows; needs torch",
    Reason.FetchFailed: "tests/operator/planning/test_models: the net below all others",
    Reason.ReplicaFailed: "tests/operator/planning/test_failures: the net below all others",
    Reason.ModelFilesMissing: "tests/workers/serve: a volume that lost its files",
    Reason.ModelNotReady: "tests/operator/planning/test_layout",
    Reason.NamespaceNotFound: "e2e/test_23_isolation",
    Reason.NamespaceTaken: "e2e/test_24_why_it_waits",
    Reason.NoTenant: "e2e/test_24_why_it_waits",
    Reason.NotIsolated: "e2e/test_23_isolation",
    Reason.Offboarding: "tests/operator/reconcilers/test_isolation",
    Reason.NotBoundInTime: "e2e/test_24_why_it_waits",
    Reason.Overcommitted: "e2e/test_24_why_it_waits",
    Reason.QuotaNotCounted: "tests/operator/planning/test_quota_counted",
    Reason.QuotaExceeded: "e2e/test_17_borrow_and_reclaim",
    Reason.TenantClosed: "e2e/test_24_why_it_waits",
    Reason.WaitsForRoom: "e2e/test_24_why_it_waits",
    Reason.AdapterDoesNotFit: "tests/operator/planning/test_adapters",
    Reason.AdapterKeyUnreadable: "tests/operator/reconcilers/test_pool_adapters",
    Reason.AdapterLoadFailed: "tests/operator/reconcilers/test_pool_adapters",
    Reason.AdapterTooLarge: "e2e/test_28_adapters",
    Reason.TooManyAdapters: "tests/operator/planning/test_adapters",
    Reason.BaseModelChanged: "tests/operator/reconcilers/test_finetune: a base with another digest",
    Reason.TeacherChanged: "tests/operator/reconcilers/test_finetune_teacher",
    Reason.TeacherMismatch: "tests/training/prepare/test_teacher",
    Reason.CanaryRegressed: "e2e/test_32_canary",
    Reason.CheckpointMismatch: "tests/training/train: checkpoints of another dataset, base or settings",
    Reason.DatasetInvalid: "e2e/test_27_finetune",
    Reason.ExamplesTooLong: "tests/training/prepare/test_gate",
    Reason.GateFailed: "e2e/test_27_finetune",
    Reason.LossNotFinite: "tests/training/train/test_learning: a base whose weights are infinite",
    Reason.NodeLost: "e2e/test_27_finetune",
    Reason.NoTrialSucceeded: "tests/operator/reconcilers/test_finetune_search_trouble",
    Reason.NothingToLearn: "tests/training/prepare/test_gate",
    Reason.ObjectsLeft: "tests/operator/reconcilers/test_finetune_removal",
    Reason.OutputNameTaken: "tests/operator/reconcilers/test_finetune",
    Reason.PeerLost: "tests/training/train/test_gang: a rank that is killed",
    Reason.PersonalDataFound: "tests/training/prepare/test_gate",
    Reason.PreparationFailed: "tests/training/prepare/test_process",
    Reason.RetriesExhausted: "tests/operator/reconcilers/test_finetune_failures",
    Reason.TrainingFailed: "tests/training/train/test_learning",
    Reason.TrainingStalled: "tests/operator/reconcilers/test_finetune_stalls",
}
"""Where reasons are provoked that no failure of this story has: files or folders, and after a colon how."""


async def test_every_reason_that_names_a_problem_is_provoked_by_a_story() -> None:
    problems = {reason for reason, info in REASONS.items() if info.problem}
    assert {failure.reason for failure in FAILURES} | set(TOLD_ELSEWHERE) == problems
