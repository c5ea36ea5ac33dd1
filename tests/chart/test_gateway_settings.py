"""The chart speaks the language of the gateway: its own parser reads the command line that the chart renders."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from llmos.api.names import GATEWAY_ADMIN_PORT, GATEWAY_PORT
from llmos_gateway.main import app
from llmos_gateway.proxy.limits import Limits
from llmos_gateway.runtime.memory import compute_needed_bytes
from llmos_gateway.salts import CacheSalts
from tests.chart.helm import HelmError, find, load_everything, render, render_text

Parse = Callable[[dict[str, Any]], dict[str, Any]]
FIELDS = {"LLMOS_NAMESPACE": "models-namespace", "LLMOS_BUDGET_STORE": "redis://store:6379/0"}


def container_of(values: dict[str, Any]) -> dict[str, Any]:
    pod = find(render(values), "Deployment", part="gateway")["spec"]["template"]["spec"]
    return {**pod["containers"][0], "pod": pod}


def find_run() -> Any:
    group: Any = typer.main.get_command(app)
    return group.commands["run"]


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Values of the chart to parameters of `llmos-gateway run`, by way of the rendered container."""

    def parse_values(values: dict[str, Any]) -> dict[str, Any]:
        container = container_of(values)
        for variable in container["env"]:
            monkeypatch.setenv(variable["name"], variable.get("value", FIELDS.get(variable["name"], "")))
        _run, *arguments = container["args"]
        parameters: dict[str, Any] = find_run().make_context("run", arguments).params
        return parameters

    return parse_values


@pytest.mark.parametrize("values", [{}, load_everything()], ids=["defaults", "everything"])
def test_every_variable_is_one_that_the_gateway_reads(values: dict[str, Any]) -> None:
    known = {parameter.envvar for parameter in find_run().params}
    assert {v["name"] for v in container_of(values)["env"] if v["name"].startswith("LLMOS_")} <= known


def test_every_value_reaches_the_gateway(parse: Parse) -> None:
    parameters = parse(load_everything())
    wanted = {
        "namespace": "models-namespace",
        "auth": "none",
        "log_level": "warning",
        "access_log": False,
        "request_timeout_s": 600.0,
        "settle_s": 10.0,
        "drain_s": 300.0,
        "max_body_mib": 8,
        "max_bodies_mib": 256,
        "max_in_flight": 1000,
        "tls_certificate": Path("/etc/llmos/tls/tls.crt"),
        "tls_key": Path("/etc/llmos/tls/tls.key"),
        "budget_store": "redis://store:6379/0",
        "budget_away_s": 5.0,
        "budget_journal": None,
        "cache_salt_secret_file": Path("/etc/llmos/cache-salt/secret"),
    }
    assert parameters | wanted == parameters


def test_without_values_keys_are_asked_for_and_nothing_is_encrypted(parse: Parse) -> None:
    parameters = parse({})
    assert (parameters["auth"], parameters["tls_certificate"], parameters["access_log"]) == ("required", None, True)


def test_the_secret_of_the_salts_is_random_and_long_enough_for_the_gateway() -> None:
    secrets = [
        base64.b64decode(document["data"]["secret"])
        for _ in range(2)
        for document in yaml.safe_load_all(render_text())
        if document and document["kind"] == "Secret"
    ]
    assert len(set(secrets)) == 2
    assert all(CacheSalts(secret) for secret in secrets)


@pytest.mark.parametrize(
    ("values", "name"), [({}, "llmos-gateway-cache-salt"), (load_everything(), "gateway-cache-salt")]
)
def test_the_gateway_reads_the_secret_of_the_salts_from_the_file_it_is_told(values: dict[str, Any], name: str) -> None:
    container = container_of(values)
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "cache-salt")
    (volume,) = (volume for volume in container["pod"]["volumes"] if volume["name"] == "cache-salt")
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert variables["LLMOS_CACHE_SALT_SECRET_FILE"] == f"{mount['mountPath']}/secret"
    assert volume["secret"]["secretName"] == name
    assert len([manifest for manifest in render(values) if manifest["kind"] == "Secret"]) == (not values)


def test_without_a_store_a_gateway_keeps_its_budgets_in_a_journal_on_a_volume_of_its_own(parse: Parse) -> None:
    container = container_of({})
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (volume,) = (volume for volume in container["pod"]["volumes"] if volume["name"] == "journal")
    assert parse({})["budget_journal"] == Path(mounts["journal"]) / "budgets.jsonl"
    assert "emptyDir" in volume
    assert not [volume for volume in container_of(load_everything())["pod"]["volumes"] if volume["name"] == "journal"]


def test_a_journal_that_outlives_the_pod_is_of_one_gateway_alone() -> None:
    journal = {"journal": {"claimName": "budgets"}}
    deployment = find(render({"gateway": {"replicas": 1, "budgets": journal}}), "Deployment", part="gateway")["spec"]
    (volume,) = (volume for volume in deployment["template"]["spec"]["volumes"] if volume["name"] == "journal")
    assert volume["persistentVolumeClaim"] == {"claimName": "budgets"}
    # A rolling update begins the next pod while the last one drains, and has the journal.
    assert deployment["strategy"] == {"type": "Recreate"}
    for wrong in (
        {"budgets": journal},
        {"replicas": 1, "budgets": journal, "autoscaling": {"enabled": True}},
        {"replicas": 1, "budgets": journal | {"store": {"secretName": "store"}}},
    ):
        with pytest.raises(HelmError):
            render({"gateway": wrong})


def test_the_probes_ask_the_port_that_the_gateway_listens_on(parse: Parse) -> None:
    container, parameters = container_of({}), parse({})
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": parameters["port"], "admin": parameters["admin_port"]}
    assert ports == {"http": GATEWAY_PORT, "admin": GATEWAY_ADMIN_PORT}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "admin"


@pytest.mark.parametrize("values", [{}, load_everything()], ids=["defaults", "everything"])
def test_the_grace_period_leaves_time_to_settle_and_to_drain(parse: Parse, values: dict[str, Any]) -> None:
    parameters = parse(values)
    grace_s = container_of(values)["pod"]["terminationGracePeriodSeconds"]
    assert grace_s >= parameters["settle_s"] + parameters["drain_s"] + 10


def test_an_autoscaled_gateway_leaves_its_number_to_the_autoscaler() -> None:
    def spec(values: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = find(render(values), "Deployment", part="gateway")["spec"]
        return found

    assert spec({})["replicas"] == 2
    assert "replicas" not in spec({"gateway": {"autoscaling": {"enabled": True}}})


@pytest.mark.parametrize("memory", ["1343Mi", "1.3Gi", "1400M", "500000k", 1_400_000_000, "1409286143"])
def test_a_limit_of_memory_without_room_for_the_bodies_is_refused(memory: str | int) -> None:
    with pytest.raises(HelmError, match=r"needs 1344Mi .* lower gateway.maxBodiesMiB \(512\)"):
        render({"gateway": {"resources": {"limits": {"memory": memory}}}})


@pytest.mark.parametrize("memory", ["1344Mi", "1.3125Gi", "1.5G", "1410M", 1_409_286_144, "1Ti", None])
def test_a_limit_of_memory_with_room_for_the_bodies_is_taken(memory: str | int | None) -> None:
    assert container_of({"gateway": {"resources": {"limits": {"memory": memory} if memory else None}}})


def test_the_chart_and_the_gateway_mean_the_same_room(parse: Parse) -> None:
    parameters = parse({})
    limits = replace(
        Limits(),
        max_body_bytes=parameters["max_body_mib"] * 1024**2,
        max_bodies_bytes=parameters["max_bodies_mib"] * 1024**2,
    )
    assert limits == Limits()
    assert compute_needed_bytes(limits) == 1344 * 1024**2
