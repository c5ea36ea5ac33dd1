"""The fixture of all integration tests, on real programs."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import httpx
import pytest

from e2e.cluster import ControlPlane
from e2e.cluster.controlplane import answers_ok, find_free_ports
from e2e.cluster.pki import Authority, build_kubeconfig


@pytest.mark.apiserver
def test_a_control_plane_serves_survives_an_outage_and_leaves_nothing_running(tmp_path: Path) -> None:
    with ControlPlane.start(tmp_path / "cp", audited_users=("system:anonymous",)) as plane:
        assert answers_ok(f"{plane.url}/readyz", plane.ca_file)
        plane.stop_apiserver()
        assert not answers_ok(f"{plane.url}/readyz", plane.ca_file)
        plane.start_apiserver()
        assert answers_ok(f"{plane.url}/readyz", plane.ca_file)
        assert refuses_strangers(plane)
        written = plane.read_audit_log()
        assert {event["user"]["username"] for event in written} == {"system:anonymous"}
        [refused] = [event for event in written if "objectRef" in event]
        assert (refused["verb"], refused["objectRef"]["resource"]) == ("list", "namespaces")
        assert refused["responseStatus"]["code"] == 403
    assert not answers_ok(f"{plane.url}/readyz", plane.ca_file)
    assert plane.processes.names() == []


def refuses_strangers(plane: ControlPlane) -> bool:
    context = ssl.create_default_context(cafile=str(plane.ca_file))
    return httpx.get(f"{plane.url}/api/v1/namespaces", verify=context, trust_env=False).status_code in {401, 403}


def test_free_ports_are_all_different() -> None:
    assert len(set(find_free_ports(8))) == 8


def test_a_kubeconfig_holds_all_it_needs() -> None:
    authority = Authority()
    config = json.loads(build_kubeconfig(authority, authority.client("me", "us"), "https://127.0.0.1:1", "test"))
    [cluster], [user] = config["clusters"], config["users"]
    assert set(cluster["cluster"]) == {"server", "certificate-authority-data"}
    assert set(user["user"]) == {"client-certificate-data", "client-key-data"}
