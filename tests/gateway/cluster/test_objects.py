"""What is read of Kubernetes objects: who may get requests, and whether waiting brings anything."""

from __future__ import annotations

import pytest

from llmos.api.inferencepool import Hold
from llmos.api.reasons import REASONS, Reason
from llmos_gateway.catalog import Adapter, HoldLimits
from llmos_gateway.cluster.objects import POLICIES, merge_slices, parse_pool, parse_slice
from tests.gateway.cluster.objects import endpoint_object, pool_object, slice_object, with_ready


def test_a_pool_without_anything_special_has_the_defaults_of_the_api() -> None:
    pool = parse_pool(pool_object())
    assert (pool.id, pool.model, pool.policy, pool.created_s) == ("team/chat", "qwen", "auto", 1767323045)
    assert pool.hold == HoldLimits(Hold().timeout_seconds, Hold().max_requests, Hold().max_requests_per_key)
    assert (pool.desired, pool.is_scaled, pool.problem, pool.is_hopeless, pool.start_s) == (0, False, "", False, 0)


def test_a_pools_wishes_and_its_status_are_read() -> None:
    item = pool_object(routing={"policy": "prefix"}, hold={"timeoutSeconds": 5, "maxRequests": 6}, scaling={})
    del item["spec"]["replicas"]
    item["status"] = {
        "desiredReplicas": 3,
        "plan": {"maxModelLen": 4096, "kvCacheTokens": 70000},
        "scaling": {"capacity": {"startSeconds": 42.5}, "boundedBy": "aWordOfTomorrow"},
    }
    pool = parse_pool(item)
    assert (pool.policy, pool.hold) == ("prefix", HoldLimits(5, 6, 200))
    assert (pool.desired, pool.start_s, pool.is_scaled) == (3, 42.5, True)
    assert (pool.context_length, pool.kv_cache_tokens) == (4096, 70000)


def test_advisory_scaling_wakes_nobody() -> None:
    pool = parse_pool(pool_object(replicas=0, scaling={"mode": "advisory"}))
    assert (pool.is_scaled, pool.is_hopeless) == (False, True)
    assert "spec.replicas is 0" in pool.problem


def test_a_policy_of_a_newer_version_is_the_default_here() -> None:
    assert {"auto", "least-load", "round-robin", "prefix"} == POLICIES
    assert parse_pool(pool_object(routing={"policy": "telepathy"})).policy == "auto"


@pytest.mark.parametrize("reason", [r for r, info in REASONS.items() if "InferencePool" in info.kinds])
def test_only_reasons_that_wait_for_a_change_leave_no_hope(reason: Reason) -> None:
    pool = parse_pool(with_ready(pool_object(), "False", reason.value, "Because."))
    info = REASONS[reason]
    assert pool.problem == ("Because." if info.problem else "")
    assert pool.is_hopeless == (info.retry == "on-change" and reason is not Reason.ModelNotReady)


def test_a_pool_that_is_ready_has_no_problem() -> None:
    pool = parse_pool(with_ready(pool_object(), "True", "Ready", "1 of 1 replicas answer."))
    assert (pool.problem, pool.is_hopeless) == ("", False)


def test_a_verdict_on_an_older_generation_says_nothing() -> None:
    pool = parse_pool(with_ready(pool_object(), "False", "DoesNotFit", "Too big.", generation=1))
    assert (pool.problem, pool.is_hopeless) == ("", False)


def test_a_reason_of_a_newer_version_says_nothing() -> None:
    assert not parse_pool(with_ready(pool_object(), "False", "BrokenInANewWay", "Oh.")).is_hopeless


def test_a_pool_that_is_being_deleted_gets_no_replica() -> None:
    item = pool_object()
    item["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    assert parse_pool(item).is_hopeless


def adapters_of(*entries: object) -> tuple[Adapter, ...]:
    return parse_pool({**pool_object(), "status": {"adapters": entries}}).adapters


def test_adapters_are_read_from_the_status() -> None:
    entry = {"name": "support", "digest": "sha256:a", "replicas": ["chat-0", "chat-1"], "reason": "Loaded"}
    assert adapters_of(entry) == (Adapter("support", "sha256:a", frozenset({"chat-0", "chat-1"})),)
    assert parse_pool(pool_object()).adapters == ()
    canary = {"name": "v2", "digest": "sha256:b", "replicas": ["chat-0"], "replaces": "support", "weight": 10}
    assert adapters_of(canary) == (Adapter("v2", "sha256:b", frozenset({"chat-0"}), replaces="support", weight=10),)


@pytest.mark.parametrize(
    ("reason", "problem", "is_hopeless"),
    [
        ("", "", False),
        ("Loaded", "", False),
        ("Loading", "", False),
        ("AdaptersLoading", "", False),
        ("ModelNotReady", "", False),
        ("AdapterTooLarge", "AdapterTooLarge: Because.", True),
        ("TooManyAdapters", "TooManyAdapters: Because.", True),
        ("AdapterLoadFailed", "AdapterLoadFailed: Because.", False),
        ("BrokenInANewWay", "BrokenInANewWay: Because.", False),
    ],
)
def test_an_adapter_that_is_not_loaded_says_why(reason: str, problem: str, *, is_hopeless: bool) -> None:
    (found,) = adapters_of({"name": "support", "reason": reason, "message": "Because."})
    assert (found.problem, found.is_hopeless) == (problem, is_hopeless)


@pytest.mark.parametrize("message", ["", "http://share.red.svc/files refused", "connect to 10.0.0.7: timed out"])
def test_a_replicas_words_that_hold_an_address_are_not_told(message: str) -> None:
    (found,) = adapters_of({"name": "support", "reason": "AdapterLoadFailed", "message": message})
    assert found.problem == f"AdapterLoadFailed: {REASONS[Reason.AdapterLoadFailed].cause}"
    (found,) = adapters_of({"name": "support", "reason": "BrokenInANewWay", "message": message})
    assert found.problem == "BrokenInANewWay"


def test_an_adapter_that_engines_could_not_tell_from_another_model_is_left_out() -> None:
    entries = [{"name": "qwen"}, {"name": "support", "digest": "a"}, {"name": "support", "digest": "b"}, {}]
    assert adapters_of(*entries) == (Adapter("support", "a"),)


def addresses_of(*slices: dict[str, object]) -> list[str]:
    return [endpoint.address for endpoint in merge_slices(map(parse_slice, slices))]


@pytest.mark.parametrize(
    ("conditions", "counts"),
    [
        ({"ready": True}, True),
        ({"serving": True}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),
        ({"ready": True, "terminating": True}, False),
    ],
)
def test_who_is_ready_and_does_not_end_counts(conditions: dict[str, bool], counts: bool) -> None:
    item = slice_object()
    item["endpoints"] = [endpoint_object("10.0.0.1", "pod-0", **conditions)]
    assert addresses_of(item) == (["10.0.0.1:8000"] if counts else [])


def test_an_endpoint_has_its_control_port_and_its_pods_name() -> None:
    (endpoint,) = parse_slice(slice_object("team/chat", "10.0.0.1")).endpoints
    assert (endpoint.control, endpoint.replica) == ("10.0.0.1:8001", "pod-0")


def test_an_address_with_colons_stands_in_brackets() -> None:
    (endpoint,) = parse_slice(slice_object("team/chat", "fd00::1")).endpoints
    assert (endpoint.address, endpoint.control) == ("[fd00::1]:8000", "[fd00::1]:8001")


def test_a_pod_of_both_families_counts_once() -> None:
    both = slice_object("team/chat", "fd00::1"), slice_object("team/chat", "10.0.0.1")
    assert addresses_of(*both) == ["10.0.0.1:8000"]


def test_slices_of_one_pool_add_up_in_a_fixed_order() -> None:
    first, second = slice_object("team/chat", "10.0.0.2", name="a"), slice_object("team/chat", "10.0.0.1", name="b")
    second["endpoints"][0]["targetRef"]["name"] = "other"
    assert addresses_of(first, second) == addresses_of(second, first) == ["10.0.0.1:8000", "10.0.0.2:8000"]


def test_a_slice_without_our_port_or_with_names_for_addresses_has_no_endpoints() -> None:
    assert addresses_of(slice_object("team/chat", "10.0.0.1", port="metrics")) == []
    assert addresses_of({**slice_object("team/chat", "example.com"), "addressType": "FQDN"}) == []
    assert addresses_of({**slice_object(), "endpoints": None, "ports": None}) == []


def test_a_slice_of_gateways_belongs_to_no_pool() -> None:
    item = slice_object("llmos-system/x", "10.0.0.9", port="admin", component="gateway")
    found = parse_slice(item)
    assert (found.pool_id, found.namespace, found.endpoints[0].address) == ("", "llmos-system", "10.0.0.9:8000")
