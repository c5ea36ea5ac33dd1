"""The chart speaks the language of the operator: its own parser reads the command line that the chart renders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import typer

from llmos_operator.main import app
from llmos_operator.runtime.app import Options
from tests.chart.helm import find, load_everything, render

Parse = Callable[[dict[str, Any]], dict[str, Any]]
FIELDS = {"LLMOS_NAMESPACE": "models-namespace"}


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Values of the chart to parameters of `llmos-operator run`, by way of the rendered container."""

    def parse_values(values: dict[str, Any]) -> dict[str, Any]:
        container = find(render(values), "Deployment")["spec"]["template"]["spec"]["containers"][0]
        for variable in container["env"]:
            monkeypatch.setenv(variable["name"], variable.get("value", FIELDS.get(variable["name"], "")))
        # Kubernetes reads $$ as $.
        command, *arguments = [argument.replace("$$", "$") for argument in container["args"]]
        group: Any = typer.main.get_command(app)
        parameters: dict[str, Any] = group.commands[command].make_context(command, arguments).params
        return parameters

    return parse_values


@pytest.mark.parametrize("values", [{}, load_everything()], ids=["defaults", "everything"])
def test_every_variable_is_one_that_the_operator_reads(values: dict[str, Any]) -> None:
    group: Any = typer.main.get_command(app)
    known = {parameter.envvar for parameter in group.commands["run"].params}
    container = find(render(values), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert {v["name"] for v in container["env"] if v["name"].startswith("LLMOS_")} <= known


def test_every_value_reaches_the_operator(parse: Parse) -> None:
    parameters = parse(load_everything())
    assert (
        parameters
        | {
            "namespace": "models-namespace",
            "worker_image": "registry.example.com/ai/worker@sha256:" + 4 * "0123456789abcdef",
            "worker_lite_image": "registry.example.com/ai/worker-lite:v8",
            "image_pull_policy": "Always",
            "image_pull_secret": ["registry-key"],
            "fetch_env": ["HF_ENDPOINT=https://mirror.example.com", "HTTPS_PROXY=http://proxy.example.com:3128"],
            "ca_bundle_config_map": "company-authorities",
            "admission": "kueue",
            "kueue_queue": "accelerators",
            "min_run_s": 120,
            "untenanted": ["nvidia-l4=2"],
            "drain_settle_s": 5,
            "start_timeout_s": 3600,
            "unschedulable_after_s": 20,
            "withdraw_after_s": 90,
            "image_pull_timeout_s": 120,
            "chart_name": "models",
            "dns_address": ["169.254.20.10/32"],
            "probe_ports": False,
            "internal_range": ["10.0.0.0/8", "203.0.113.0/24"],
            "workers": 16,
            "resync_s": 60.0,
            "log_level": "debug",
            "leader_election": True,
        }
        == parameters
    )


def test_awkward_values_reach_the_operator_unharmed(parse: Parse) -> None:
    wanted = {"HTTPS_PROXY": "http://user:p%40ss@proxy:3128", "NOTE": 'a "quoted", 50% {{ odd }} $(HOME) value: #x\n'}
    assert parse({"fetch": {"env": wanted}})["fetch_env"] == [f"{name}={value}" for name, value in wanted.items()]


def test_the_probes_ask_the_port_that_the_operator_listens_on(parse: Parse) -> None:
    container = find(render(), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    (port,) = container["ports"]
    assert port["containerPort"] == parse({})["metrics_port"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == port["name"]


def test_the_grace_period_leaves_time_to_finish_what_runs() -> None:

    pod = find(render(), "Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > Options().shutdown_s
