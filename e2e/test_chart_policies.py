"""Story of the chart: what NetworkPolicies close does not open for the operator, where it runs as a pod."""

from __future__ import annotations

import pytest

from e2e.support.api import Api, Object, RefusedError
from e2e.support.objects import build_model, build_pool, read_condition, wait_ready
from e2e.support.source import Source
from e2e.support.tenants import tenants
from e2e.support.waiting import eventually
from e2e.test_chart import Cluster, cluster
from llmos.api.isolation import Check, Finding, parse_findings

__all__ = ["cluster"]

TENANT = "released"


@pytest.mark.timeout(900)
async def test_what_policies_close_does_not_open_for_the_operator(
    cluster: Cluster, api: Api, lite_image: None, source: Source
) -> None:
    """Only here is the operator a pod: what a node sends reaches every pod on it, whatever policies say."""
    cluster.install()
    cluster.wait_for_leader(lambda leader: True)
    async with tenants(api, released=0) as places:
        namespace = places[TENANT]
        model = build_model(namespace, f"{source.url}/tiny")
        created = await eventually(
            "the new quota takes objects", lambda: try_to_create(api, model), bool, timeout_s=400
        )
        await wait_ready(api, created, timeout_s=240)
        await wait_ready(api, await api.create(build_pool(namespace)), timeout_s=240)
        tenant = await eventually(
            "the operator has tried the ports of the replica",
            lambda: api.get("Tenant", TENANT),
            lambda found: "did not open" in find_closed_ports(found).seen,
            timeout_s=180,
        )
        assert find_closed_ports(tenant).is_ok, read_condition(tenant, "IsolationReady")


async def try_to_create(api: Api, manifest: Object) -> Object:
    """Create an object; empty while the API server has not counted for a ResourceQuota that was just made."""
    try:
        return await api.create(manifest)
    except RefusedError as error:
        if "status unknown for quota" not in str(error):
            raise
        return {}


def find_closed_ports(tenant: Object | None) -> Finding:
    """What a Tenant says of the ports that policies close; where nothing was tried it says that, and is fine by it."""
    findings = parse_findings(read_condition(tenant, "IsolationReady").get("message", ""))
    found = next((each for each in findings if each.check is Check.CLOSED_PORTS), None)
    return found or Finding(Check.CLOSED_PORTS, False, "")
