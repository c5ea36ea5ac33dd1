"""What the test cluster's table of network policies lets through, connection by connection.

The table is read back by a small interpreter of just the words that it uses. That nftables takes it, and blocks what
it should, is told by the stories.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e.cluster.policies import TABLE, build_table, is_selected

A, B, GATEWAY, STRANGER = "10.244.0.11", "10.244.0.12", "10.244.0.13", "10.244.0.99"
NODE, INTERNET, METADATA = "10.88.0.1", "203.0.113.7", "169.254.169.254"


def pod(name: str, address: str, namespace: str = "one", **more: Any) -> dict[str, Any]:
    ports = [{"name": "http", "containerPort": 8000}]
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"containers": [{"ports": ports}], **more.get("spec", {})},
        "status": {"podIP": address, "phase": "Running", **more.get("status", {})},
    }


def namespace(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}


def policy(namespace: str = "one", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "policy", "namespace": namespace}, "spec": {"podSelector": {}, **spec}}


def named(namespace: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}


PODS = [pod("a", A), pod("b", B, "two"), pod("gateway", GATEWAY, "system")]
NAMESPACES = [namespace("one"), namespace("two"), namespace("system")]
DENY_ALL = policy(policyTypes=["Ingress", "Egress"])


class Judge:
    """Reads a table and says what becomes of the first packet of a connection."""

    def __init__(
        self,
        *policies: dict[str, Any],
        pods: list[dict[str, Any]] = PODS,
        namespaces: Iterable[str] = ("one", "two", "system", "team-a"),
    ) -> None:
        self._table = build_table(pods, map(namespace, namespaces), policies)
        found = re.findall(r"chain (\S+) \{\n(.*?)\n    \}", self._table, re.DOTALL)
        self._chains = {name: [line.strip() for line in body.splitlines()] for name, body in found}

    def allows(self, source: str, target: str, port: int = 8000, protocol: str = "tcp") -> bool:
        hook = "input" if target == NODE else "forward"
        packet = {"ip saddr": source, "ip daddr": target, "port": str(port), "protocol": protocol}
        return self._run(hook, packet) != "drop"

    def _run(self, chain: str, packet: dict[str, str]) -> str:
        for line in self._chains.get(chain, []):
            if vmap := re.fullmatch(r"(ip [sd]addr) vmap \{ (.*) \}", line):
                jumps = dict(re.findall(r"(\S+) : jump (\S+?)(?:,|$)", vmap[2]))
                if (jump := jumps.get(packet[vmap[1]])) and self._run(jump, packet) == "drop":
                    return "drop"
            elif line.endswith(("return", "drop", "accept")) and not line.startswith(("type", "ct")):
                condition, _, verdict = line.rpartition(" ")
                if self._holds(condition, packet):
                    return str(verdict)
        return "accept"

    def _holds(self, condition: str, packet: dict[str, str]) -> bool:
        if condition.startswith("ip saddr . ip daddr"):
            return f"{packet['ip saddr']} . {packet['ip daddr']}" in condition
        for field, no, value in re.findall(r"(ip [sd]addr) (!= )?(\{[^}]*\}|\S+)", condition):
            ranges = [ipaddress.ip_network(text) for text in value.strip("{} ").split(", ")]
            if any(ipaddress.ip_address(packet[field]) in each for each in ranges) == bool(no):
                return False
        for protocol, first, last in re.findall(r"(tcp|udp|sctp) dport (\d+)(?:-(\d+))?", condition):
            if protocol != packet["protocol"] or not int(first) <= int(packet["port"]) <= int(last or first):
                return False
        found = re.search(r"meta l4proto (\S+)", condition)
        return found is None or found[1] == packet["protocol"]


def test_without_policies_there_is_no_table_at_all() -> None:
    assert build_table(PODS, NAMESPACES, []) == f"table ip {TABLE}\ndelete table ip {TABLE}\n"


def test_a_policy_that_allows_nothing_closes_its_namespace_in_both_directions_and_no_other() -> None:
    judge = Judge(DENY_ALL)
    assert not judge.allows(A, B)
    assert not judge.allows(B, A)
    assert not judge.allows(A, INTERNET)
    assert not judge.allows(A, NODE, 6443)
    assert judge.allows(B, GATEWAY)
    assert judge.allows(B, INTERNET)


def test_a_pod_reaches_itself() -> None:
    assert Judge(DENY_ALL).allows(A, A)


def test_a_policy_without_types_is_about_egress_only_if_it_speaks_of_it() -> None:
    assert Judge(policy(ingress=[])).allows(A, INTERNET)
    assert not Judge(policy(egress=[{"to": [named("two")]}])).allows(A, INTERNET)


def test_an_opening_is_for_the_peers_and_the_port_that_it_names() -> None:
    opening = policy(policyTypes=["Ingress"], ingress=[{"from": [named("system")], "ports": [{"port": 8000}]}])
    judge = Judge(DENY_ALL, opening)
    assert judge.allows(GATEWAY, A, 8000)
    assert not judge.allows(GATEWAY, A, 8001)
    assert not judge.allows(GATEWAY, A, 8000, "udp")
    assert not judge.allows(B, A, 8000)


def test_labels_of_namespace_and_pod_must_both_match() -> None:
    peer = {**named("system"), "podSelector": {"matchLabels": {"app": "gateway"}}}
    other = {**named("two"), "podSelector": {"matchLabels": {"app": "gateway"}}}
    assert Judge(policy(ingress=[{"from": [peer]}])).allows(GATEWAY, A)
    assert not Judge(policy(ingress=[{"from": [other]}])).allows(B, A)


def test_a_selector_of_pods_alone_means_those_of_the_same_namespace() -> None:
    rule: dict[str, Any] = {"from": [{"podSelector": {}}]}
    judge = Judge(policy(ingress=[rule]), pods=[*PODS, pod("c", "10.244.0.14")])
    assert judge.allows("10.244.0.14", A)
    assert not judge.allows(B, A)


def test_both_ends_must_consent() -> None:
    lets_in = policy("two", ingress=[{}])
    assert not Judge(DENY_ALL, lets_in).allows(A, B)
    lets_out = policy(policyTypes=["Egress"], egress=[{"to": [named("two")]}])
    assert Judge(DENY_ALL, lets_out, lets_in).allows(A, B)
    assert not Judge(DENY_ALL, lets_out, policy("two", ingress=[])).allows(A, B)


def test_a_range_of_addresses_leaves_out_its_exceptions() -> None:
    block = {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16", "10.0.0.0/8"]}
    judge = Judge(policy(policyTypes=["Egress"], egress=[{"to": [{"ipBlock": block}], "ports": [{"protocol": "TCP"}]}]))
    assert judge.allows(A, INTERNET, 443)
    assert not judge.allows(A, INTERNET, 443, "udp")
    assert not judge.allows(A, METADATA, 80)
    assert not judge.allows(A, NODE, 6443)
    assert not judge.allows(A, B)


def test_ranges_of_ports_and_names_of_ports_are_understood() -> None:
    rules = [{"from": [named("system")], "ports": [{"port": "http"}, {"port": 9000, "endPort": 9010}]}]
    judge = Judge(policy(ingress=rules))
    assert [port for port in (7999, 8000, 8001, 8999, 9000, 9010, 9011) if judge.allows(GATEWAY, A, port)] == [
        8000,
        9000,
        9010,
    ]
    out = policy(policyTypes=["Egress"], egress=[{"to": [named("system")], "ports": [{"port": "http"}]}])
    assert Judge(out).allows(A, GATEWAY, 8000)
    assert not Judge(out).allows(A, GATEWAY, 8001)


def test_a_range_of_ipv6_opens_nothing_here() -> None:
    assert not Judge(policy(policyTypes=["Egress"], egress=[{"to": [{"ipBlock": {"cidr": "::/0"}}]}])).allows(A, B)


def test_a_pod_that_is_not_known_yet_has_no_network_while_there_are_policies() -> None:
    judge = Judge(DENY_ALL)
    assert not judge.allows(STRANGER, INTERNET)
    assert not judge.allows(B, STRANGER)


@pytest.mark.parametrize("more", [{"status": {"phase": "Succeeded"}}, {"spec": {"hostNetwork": True}}])
def test_the_address_of_a_finished_pod_or_of_the_node_is_no_peer(more: dict[str, Any]) -> None:
    judge = Judge(policy(ingress=[{"from": [named("two")]}]), pods=[pod("a", A), pod("b", B, "two", **more)])
    assert not judge.allows(B, A)


def test_simulated_nodes_pods_are_not_on_the_bridge() -> None:
    assert "10.245.0.5" not in build_table([*PODS, pod("kwok", "10.245.0.5")], NAMESPACES, [DENY_ALL])


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ({"operator": "In", "values": ["web"]}, True),
        ({"operator": "In", "values": ["db"]}, False),
        ({"operator": "NotIn", "values": ["db"]}, True),
        ({"operator": "Exists"}, True),
        ({"operator": "DoesNotExist"}, False),
    ],
)
def test_expressions_of_selectors_are_understood(expression: dict[str, Any], expected: bool) -> None:
    assert is_selected({"matchExpressions": [{"key": "app", **expression}]}, {"app": "web"}) is expected


@given(st.lists(st.sampled_from(["one", "two", "system"]), max_size=3), st.booleans())
def test_adding_a_policy_to_a_closed_namespace_never_closes_more(openings: list[str], with_ports: bool) -> None:
    ports = {"ports": [{"port": 8000}]} if with_ports else {}
    policies = [policy(policyTypes=["Ingress"], ingress=[{"from": [named(name)], **ports}]) for name in openings]
    before = [Judge(DENY_ALL, *policies[:-1]).allows(source, A) for source in (B, GATEWAY)]
    after = [Judge(DENY_ALL, *policies).allows(source, A) for source in (B, GATEWAY)]
    assert all(now or not then for then, now in zip(before, after, strict=True))
