"""Users get their rights on models and pools through the roles view, edit and admin that every cluster has.

The real API server is asked (SubjectAccessReview) after its controller has gathered the chart's rules into its roles.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from kubernetes.aio.client import ApiClient, AuthorizationV1Api, CoreV1Api, RbacAuthorizationV1Api

from e2e.cluster.controlplane import ControlPlane
from llmos.api.names import GROUP
from llmos_operator.kube.config import load_configuration
from tests.integration.rbac.names import CLASS_VIEWERS

pytestmark = pytest.mark.apiserver
TEAM, OTHERS = "team", "others"
EVERYWHERE = ""
READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch", "delete", "deletecollection")
KINDS = ("llmmodels", "inferencepools", "finetunejobs")
GATHERING_TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def served(control_plane: ControlPlane) -> ControlPlane:
    asyncio.run(bind_users(control_plane))
    return control_plane


@pytest.fixture
async def client(served: ControlPlane) -> AsyncIterator[ApiClient]:
    async with ApiClient(await load_configuration(str(served.kubeconfig))) as client:
        yield client


async def bind_users(plane: ControlPlane) -> None:
    """One user for each default role, named after it, in one namespace; `auditor` may view the whole cluster."""
    async with ApiClient(await load_configuration(str(plane.kubeconfig))) as client:
        api = RbacAuthorizationV1Api(client)
        await CoreV1Api(client).create_namespace({"metadata": {"name": TEAM}})
        for role in ("view", "edit", "admin"):
            binding = {"metadata": {"name": role}, **build_binding(role, role)}
            await api.create_namespaced_role_binding(TEAM, binding)
        for role in ("tenant-user", "tenant-admin"):
            binding = {"metadata": {"name": role}, **build_binding(f"llmos-{role}", role)}
            await api.create_namespaced_role_binding(TEAM, binding)
        await api.create_cluster_role_binding({"metadata": {"name": "auditor"}, **build_binding("view", "auditor")})
        async with asyncio.timeout(GATHERING_TIMEOUT_S):
            while not await are_rules_gathered(api):  # noqa: ASYNC110 - the controller is another program
                await asyncio.sleep(0.1)


def build_binding(role: str, user: str) -> dict[str, object]:
    group = "rbac.authorization.k8s.io"
    reference = {"apiGroup": group, "kind": "ClusterRole", "name": role}
    return {"roleRef": reference, "subjects": [{"apiGroup": group, "kind": "User", "name": user}]}


async def are_rules_gathered(api: RbacAuthorizationV1Api) -> bool:
    roles = [await api.read_cluster_role(name) for name in ("view", "edit", "admin")]
    return all(any(GROUP in rule.api_groups for rule in role.rules or ()) for role in roles)


async def may(
    client: ApiClient, user: str, verb: str, resource: str, namespace: str, group: str = "", *, api: str = GROUP
) -> bool:
    plural, _, subresource = resource.partition("/")
    wish = {"group": api, "resource": plural, "subresource": subresource, "verb": verb, "namespace": namespace}
    review = {"spec": {"user": user, "groups": [group] if group else [], "resourceAttributes": wish}}
    answer = await AuthorizationV1Api(client).create_subject_access_review(review)
    return bool(answer.status.allowed)


@pytest.mark.parametrize("user", ["view", "edit", "admin"])
async def test_who_may_view_a_namespace_may_view_its_models_and_pools(client: ApiClient, user: str) -> None:
    for kind in KINDS:
        for verb in READ:
            assert await may(client, user, verb, kind, TEAM)
            assert not await may(client, user, verb, kind, OTHERS)
            assert not await may(client, user, verb, kind, EVERYWHERE)
    assert await may(client, user, "get", "inferencepools/scale", TEAM)


@pytest.mark.parametrize("user", ["edit", "admin"])
async def test_who_may_edit_a_namespace_may_write_and_scale_there(client: ApiClient, user: str) -> None:
    for kind in KINDS:
        for verb in WRITE:
            assert await may(client, user, verb, kind, TEAM)
            assert not await may(client, user, verb, kind, OTHERS)
    for verb in ("update", "patch"):
        assert await may(client, user, verb, "inferencepools/scale", TEAM)


async def test_who_may_only_view_writes_and_scales_nothing(client: ApiClient) -> None:
    for kind in KINDS:
        assert not any([await may(client, "view", verb, kind, TEAM) for verb in WRITE])
    assert not await may(client, "view", "patch", "inferencepools/scale", TEAM)


@pytest.mark.parametrize("user", ["view", "edit", "admin", "auditor"])
async def test_no_user_writes_a_status_or_an_accelerator_class(client: ApiClient, user: str) -> None:
    for resource in ("llmmodels/status", "inferencepools/status", "finetunejobs/status"):
        assert not await may(client, user, "patch", resource, TEAM)
    assert not any([await may(client, user, verb, "acceleratorclasses", EVERYWHERE) for verb in WRITE])


async def test_accelerator_classes_are_seen_by_those_who_may_view_the_whole_cluster_and_by_the_groups_that_were_named(
    client: ApiClient,
) -> None:
    for verb in READ:
        assert await may(client, "auditor", verb, "acceleratorclasses", EVERYWHERE)
        assert await may(client, "anybody", verb, "acceleratorclasses", EVERYWHERE, group=CLASS_VIEWERS)
        assert not await may(client, "edit", verb, "acceleratorclasses", EVERYWHERE)
    assert not await may(client, "anybody", "list", "llmmodels", TEAM, group=CLASS_VIEWERS)


@pytest.mark.parametrize("user", ["tenant-user", "tenant-admin"])
async def test_users_of_a_tenant_see_what_runs_in_its_namespaces_and_nothing_in_others(
    client: ApiClient, user: str
) -> None:
    for kind in KINDS:
        assert await may(client, user, "list", kind, TEAM)
        assert not await may(client, user, "list", kind, OTHERS)
        assert await may(client, user, "delete", kind, TEAM) is (user == "tenant-admin")
    assert await may(client, user, "get", "pods/log", TEAM, api="")
    assert await may(client, user, "patch", "inferencepools/scale", TEAM) is (user == "tenant-admin")


@pytest.mark.parametrize("user", ["tenant-user", "tenant-admin"])
@pytest.mark.parametrize(
    ("verb", "resource", "api"),
    [
        ("get", "secrets", ""),
        ("list", "secrets", ""),
        ("create", "pods", ""),
        ("patch", "pods", ""),
        ("create", "pods/exec", ""),
        ("create", "pods/portforward", ""),
        ("patch", "serviceaccounts", ""),
        ("patch", "resourcequotas", ""),
        ("delete", "networkpolicies", "networking.k8s.io"),
        ("create", "networkpolicies", "networking.k8s.io"),
        ("create", "rolebindings", "rbac.authorization.k8s.io"),
        ("patch", "inferencepools/status", GROUP),
    ],
)
async def test_users_of_a_tenant_open_nothing_that_keeps_it_apart(
    client: ApiClient, user: str, verb: str, resource: str, api: str
) -> None:
    assert not await may(client, user, verb, resource, TEAM, api=api)


async def test_an_administrator_of_a_tenant_gives_credentials_that_it_cannot_read(client: ApiClient) -> None:
    assert await may(client, "tenant-admin", "create", "secrets", TEAM, api="")
    assert not await may(client, "tenant-admin", "get", "secrets", TEAM, api="")
    assert not await may(client, "tenant-user", "create", "secrets", TEAM, api="")
