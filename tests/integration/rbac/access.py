"""What a user may do by the roles bound to it, and what it did by the audit log, in the same words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kubernetes.aio.client import ApiClient, RbacAuthorizationV1Api

Json = Mapping[str, Any]
_CREATED = 201


@dataclass(frozen=True, order=True)
class Access:
    """One verb on one resource (`pods/log` for a subresource); no name or namespace in a grant means all of them."""

    group: str
    resource: str
    verb: str
    namespace: str = ""
    name: str = ""

    def covers(self, request: Access) -> bool:
        """Whether this grant allows that request."""
        return (
            (self.group, self.resource, self.verb) == (request.group, request.resource, request.verb)
            and self.namespace in {"", request.namespace}
            and self.name in {"", request.name}
        )


async def observe_grants(client: ApiClient, account: str, namespace: str) -> set[Access]:
    """Return everything that the bindings of a service account grant it, cluster-wide and in namespaces."""
    api = RbacAuthorizationV1Api(client)
    grants: set[Access] = set()
    for binding in (await api.list_cluster_role_binding()).items:
        if _is_bound(binding.subjects, account, namespace):
            role = await api.read_cluster_role(binding.role_ref.name)
            grants |= expand_rules(client.sanitize_for_serialization(role.rules))
    for binding in (await api.list_role_binding_for_all_namespaces()).items:
        if _is_bound(binding.subjects, account, namespace):
            where = binding.metadata.namespace
            role = await api.read_namespaced_role(binding.role_ref.name, where)
            grants |= expand_rules(client.sanitize_for_serialization(role.rules), where)
    return grants


def _is_bound(subjects: Iterable[Any] | None, account: str, namespace: str) -> bool:
    wanted = ("ServiceAccount", account, namespace)
    return any((subject.kind, subject.name, subject.namespace) == wanted for subject in subjects or ())


def expand_rules(rules: Iterable[Json], namespace: str = "") -> set[Access]:
    """Return every single grant of some rules."""
    return {
        Access(group, resource, verb, namespace, name)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames") or [""]
    }


def read_requests(events: Iterable[Json]) -> set[Access]:
    """Return what audit events ask for. An apply that made its object needed the right to create it as well."""
    requests: set[Access] = set()
    for event in events:
        if target := event.get("objectRef"):
            resource = "/".join(part for part in (target["resource"], target.get("subresource")) if part)
            where = (target.get("namespace", ""), target.get("name", ""))
            requests.add(Access(target.get("apiGroup", ""), resource, event["verb"], *where))
            if event["verb"] == "patch" and event["responseStatus"]["code"] == _CREATED:
                requests.add(Access(target.get("apiGroup", ""), resource, "create", *where))
                if resource == "rolebindings":
                    # Whoever binds a role needs the right to bind it; the binding is named after the role.
                    requests.add(Access(target["apiGroup"], "clusterroles", "bind", "", where[1]))
    return requests


def find_events(events: Iterable[Json], user: str) -> list[Json]:
    """Return what one user asked for."""
    return [event for event in events if event["user"]["username"] == user]


def find_refused(events: Iterable[Json]) -> set[str]:
    """Return the requests that were not allowed."""
    return {
        f"{event['verb']} {event['requestURI']}" for event in events if event["responseStatus"]["code"] in {401, 403}
    }


@dataclass(frozen=True)
class AccessRecord:
    """What a program may do by the chart's rules, and what it did by the audit log."""

    grants: set[Access]
    events: list[Json]

    def find_refused(self) -> set[str]:
        """Return what was asked for and refused."""
        return find_refused(self.events)

    def find_uncovered(self) -> set[Access]:
        """Return what was asked for without a rule that allows it."""
        return {r for r in read_requests(self.events) if not any(grant.covers(r) for grant in self.grants)}

    def find_unused(self) -> set[Access]:
        """Return what a rule allows and nobody asked for."""
        requests = read_requests(self.events)
        return {grant for grant in self.grants if not any(grant.covers(r) for r in requests)}
