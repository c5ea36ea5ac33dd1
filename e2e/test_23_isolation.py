"""Story 23: two tenants. A's engine opens neither B's engine nor anything outside, a fetch step only what it needs; the
gateway reaches both. What is taken away comes back, and a tenant goes when nothing of it is left.

The internet and the metadata service are stand-ins with real listeners on this machine (e2e/support/network.py), and a
pod of no tenant reaches them: so what is closed is closed by the policies, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.cluster.api import apply_ca_bundle
from e2e.cluster.binaries import KUBERNETES_VERSION, ensure_binaries
from e2e.cluster.errors import ClusterError
from e2e.cluster.node import NODE_ADDRESS
from e2e.cluster.objects import Kubectl
from e2e.cluster.paths import repository_dir
from e2e.cluster.shell import run
from e2e.support.api import Api, Object, RefusedError
from e2e.support.asking import ask, open_session
from e2e.support.gateway import SYSTEM_NAMESPACE, Gateway, build_key, list_gateway_pods, wait_until_known
from e2e.support.network import build_probe, resolve, stand_ins, try_connections
from e2e.support.objects import GPU_RESOURCE, build_model, build_namespace, build_pool, pool_selector, wait_ready
from e2e.support.removal import remove_namespace
from e2e.support.source import Source
from e2e.support.tenants import wait_for_month
from e2e.support.waiting import eventually
from llmos.api import Reason
from llmos.api.isolation import Check, parse_findings
from llmos.api.names import COMPONENT_FETCH, CONTROL_PORT, ENGINE_PORT, GATEWAY_PORT, LABEL_COMPONENT, LABEL_TENANT

pytestmark = [pytest.mark.timeout(900), pytest.mark.core]

OPERATOR = f"system:serviceaccount:{SYSTEM_NAMESPACE}:llmos"
API_SERVER = "10.96.0.1:443"


@dataclass(frozen=True)
class Team:
    """One tenant with a pool in its one namespace."""

    name: str
    namespace: str
    key: str
    pod: str
    address: str


@pytest.fixture
def backstop(kubectl: Kubectl) -> Iterator[None]:
    """The chart's admission policy and the roles of tenants, under the name that operators take by default."""
    helm, chart = ensure_binaries("helm")["helm"], repository_dir() / "charts" / "llmos"
    words = (f"--namespace={SYSTEM_NAMESPACE}", f"--kube-version={KUBERNETES_VERSION}")
    rendered = run(helm, "template", "llmos", chart, *words, "--show-only=templates/tenants.yaml").stdout
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=rendered)
    yield
    kubectl("delete", "--ignore-not-found", "-f", "-", stdin=rendered)


@pytest.fixture
async def tenants(api: Api, kubeconfig: Path) -> AsyncIterator[dict[str, str]]:
    """Two tenants, each with a namespace of its own (name -> namespace), whose steps may reach this machine."""
    suffix = uuid.uuid4().hex[:6]
    made = {f"e2e-{letter}-{suffix}": f"e2e-23-isolation-{letter}-{suffix}" for letter in "ab"}
    for name, namespace in made.items():
        await api.create(build_namespace(namespace))
        apply_ca_bundle(kubeconfig, namespace)
        await api.create(build_tenant(name, namespace))
    yield made
    await asyncio.gather(*(remove_namespace(api, namespace) for namespace in made.values()))
    for name in made:
        await api.delete("Secret", name, SYSTEM_NAMESPACE)
        await api.delete("Tenant", name)
    await eventually(
        "the tenants are gone",
        lambda: api.list("Tenant"),
        lambda found: not made.keys() & {tenant["metadata"]["name"] for tenant in found},
    )


def build_tenant(name: str, namespace: str) -> Object:
    spec = {"namespaces": [namespace], "isolation": {"egressAllow": [f"{NODE_ADDRESS}/32"]}}
    return {"apiVersion": "llmos.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": name}, "spec": spec}


async def serve(api: Api, source: Source, name: str, namespace: str) -> Team:
    """Serve a pool of the tenant, with a key for it."""
    await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
    await wait_ready(api, await api.create(build_pool(namespace)))
    key, secret = build_key(name, namespace, tenant=name)
    await api.create(secret)
    await wait_until_known(api, key)
    (pod,) = await api.list("Pod", namespace, pool_selector("pool"))
    return Team(name, namespace, key, pod["metadata"]["name"], pod["status"]["podIP"])


async def start_probe(
    api: Api, kubectl: Kubectl, namespace: str, name: str, labels: dict[str, str] | None = None
) -> str:
    """Start a pod from which connections are tried."""
    await api.create(build_probe(namespace, name, labels))
    words = ("wait", f"pod/{name}", f"--namespace={namespace}", "--for=condition=Ready", "--timeout=90s")
    await asyncio.to_thread(kubectl, *words)
    return name


async def wait_isolated(api: Api, team: Team) -> None:
    """Wait until tenant and pool were looked at. The gateway of the stories may not have a secret for salts."""
    for kind, name, namespace in (("Tenant", team.name, ""), ("InferencePool", "pool", team.namespace)):

        async def observe(kind: str = kind, name: str = name, namespace: str = namespace) -> set[Check]:
            found = await api.get(kind, name, namespace) or {}
            conditions = {c["type"]: c for c in found.get("status", {}).get("conditions", ())}
            findings = parse_findings(conditions.get("IsolationReady", {}).get("message", ""))
            return {f.check for f in findings if not f.is_ok} if findings else set(Check)

        await eventually(f"{kind} {name} is kept apart", observe, lambda problems: problems <= {Check.SALT})


@pytest.mark.usefixtures("operator", "backstop")
async def test_tenants_reach_neither_each_other_nor_the_outside(
    api: Api, kubectl: Kubectl, source: Source, namespace: str, gateway: Gateway, tenants: dict[str, str]
) -> None:
    a, b = [await serve(api, source, name, where) for name, where in tenants.items()]
    await wait_isolated(api, a)
    (server, *_) = await list_gateway_pods(api)
    with stand_ins() as outside:
        targets = {
            "B's engine": f"{b.address}:{ENGINE_PORT}",
            "B's control port": f"{b.address}:{CONTROL_PORT}",
            "B's Service": f"pool.{b.namespace}.svc.cluster.local:80",
            "a pod of no tenant": f"{server['status']['podIP']}:{GATEWAY_PORT}",
            "the node": source.url.removeprefix("http://"),
            "the API server": API_SERVER,
            **outside,
        }
        of_nobody = await start_probe(api, kubectl, namespace, "probe")
        opened = await try_connections(kubectl, namespace, of_nobody, targets, "probe")
        assert {name for name, is_open in opened.items() if not is_open} == {name for name in targets if name[0] == "B"}

        opened = await try_connections(kubectl, a.namespace, a.pod, targets)
        assert {name for name, is_open in opened.items() if is_open} == set()
        assert await resolve(kubectl, a.namespace, a.pod, "kubernetes.default.svc.cluster.local")

        step = await start_probe(api, kubectl, a.namespace, "step", {LABEL_COMPONENT: COMPONENT_FETCH})
        opened = await try_connections(kubectl, a.namespace, step, targets, "probe")
        # The API server is a program of the node, which egressAllow names.
        assert {name for name, is_open in opened.items() if is_open} == {"the node", "the API server", "internet"}

    async with open_session() as session:
        for team in (a, b):
            answer = await ask(session, gateway.target(team.namespace, team.key), 5, stream=False)
            assert not answer.problem, answer
    for team in (a, b):
        await wait_for_month(
            api, team.name, "its answer of 5 tokens is counted", lambda month: month.get("outputTokens") == 5
        )


@pytest.mark.usefixtures("operator", "backstop", "gateway")
async def test_what_keeps_a_tenant_apart_comes_back_and_goes_last(
    api: Api, kubectl: Kubectl, source: Source, tenants: dict[str, str]
) -> None:
    team = await serve(api, source, *next(iter(tenants.items())))
    await wait_isolated(api, team)

    await api.delete("NetworkPolicy", "llmos-default-deny", team.namespace)
    await eventually(
        "the policy is back",
        lambda: api.get("NetworkPolicy", "llmos-default-deny", team.namespace),
        lambda found: found is not None,
    )
    await find_what_somebody_opens(api, team)
    await refuse_pods_with_accelerators(api, kubectl, team.namespace)

    await api.delete("Tenant", team.name)
    words = (team.name, f"{team.namespace}/pool", f"{team.namespace}/tiny")
    await eventually(
        "it says what is left",
        lambda: api.get("Tenant", team.name),
        lambda found: found and all(word in read_ready(found)["message"] for word in words),
    )
    await api.delete("InferencePool", "pool", team.namespace)
    await api.delete("LLMModel", "tiny", team.namespace)
    await api.delete("Secret", team.name, SYSTEM_NAMESPACE)
    await eventually("the tenant goes", lambda: api.get("Tenant", team.name), lambda found: found is None)
    assert await api.list("NetworkPolicy", team.namespace) == []
    namespace = await api.get("Namespace", team.namespace)
    assert namespace is not None
    assert LABEL_TENANT not in namespace["metadata"]["labels"]


async def find_what_somebody_opens(api: Api, team: Team) -> None:
    """Policies add up: the operator closes nothing that somebody else opens, but says so."""
    await api.create(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "open", "namespace": team.namespace},
            "spec": {"podSelector": {}, "ingress": [{}]},
        }
    )
    await eventually(
        "it says who opens what",
        lambda: api.get("Tenant", team.name),
        lambda found: found and "NetworkPolicy open also selects" in read_ready(found)["message"],
    )
    found = await api.get("Tenant", team.name)
    assert found is not None
    assert read_ready(found)["reason"] == Reason.NotIsolated
    await api.delete("NetworkPolicy", "open", team.namespace)
    await wait_isolated(api, team)


@pytest.mark.usefixtures("operator")
async def test_a_namespace_that_does_not_exist_is_asked_for(api: Api) -> None:
    name = f"e2e-nowhere-{uuid.uuid4().hex[:6]}"
    await api.create(build_tenant(name, name))
    told = await eventually(
        "it asks for the namespace",
        lambda: api.get("Tenant", name),
        lambda found: found and "conditions" in found.get("status", {}),
    )
    assert told is not None
    assert read_ready(told)["reason"] == Reason.NamespaceNotFound
    assert f"There is no namespace {name}" in read_ready(told)["message"]
    assert await api.get("Namespace", name) is None
    await api.delete("Tenant", name)
    await eventually("it goes at once", lambda: api.get("Tenant", name), lambda found: found is None)


async def refuse_pods_with_accelerators(api: Api, kubectl: Kubectl, namespace: str) -> None:
    """Not even an administrator makes a pod with a GPU, and the operator's account none past the quota."""
    pod = build_probe(namespace, "with-gpu")
    await api.create(pod, dry_run=True)
    pod["spec"]["containers"][0]["resources"] = {"limits": {GPU_RESOURCE: "1"}}
    with pytest.raises(RefusedError, match="only LLMOS makes pods"):
        await api.create(pod, dry_run=True)
    words = ("create", "--dry-run=server", "-f", "-", f"--as={OPERATOR}", "--as-group=system:masters")
    with pytest.raises(ClusterError, match="exceeded quota: llmos-quota"):
        await asyncio.to_thread(kubectl, *words, stdin=json.dumps(pod))


def read_ready(tenant: Object) -> Object:
    found: Object = next(c for c in tenant["status"]["conditions"] if c["type"] == "Ready")
    return found
