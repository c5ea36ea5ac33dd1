"""What the chart renders, with its defaults and with every switch turned."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmos.api.names import COMPONENT_GATEWAY, GATEWAY_ADMIN_PORT, GROUP, LABEL_COMPONENT
from tests.chart.helm import CHART, REPOSITORY, HelmError, find, load_everything, part_of, render, render_text, run_helm

SNAPSHOTS = Path(__file__).parent / "snapshots"
CASES: dict[str, dict[str, Any]] = {"defaults": {}, "everything": load_everything()}


def without_crds(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [manifest for manifest in manifests if manifest["kind"] != "CustomResourceDefinition"]


@pytest.mark.parametrize("case", CASES)
def test_the_chart_renders_what_was_reviewed(case: str) -> None:
    """After an intended change: UPDATE_SNAPSHOTS=1 pytest tests/chart, and review the difference."""
    snapshot = SNAPSHOTS / f"{case}.yaml"
    manifests = sorted(without_crds(render(CASES[case])), key=lambda m: (m["kind"], m["metadata"]["name"]))
    rendered = yaml.safe_dump_all(manifests, sort_keys=False, width=120)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        snapshot.parent.mkdir(exist_ok=True)
        snapshot.write_text(rendered)
    assert rendered == snapshot.read_text()


@pytest.mark.parametrize("case", CASES)
def test_helm_lint_finds_nothing(case: str) -> None:
    run_helm("lint", "--strict", str(CHART), "--values=-", stdin=yaml.safe_dump(CASES[case]))


def test_the_case_of_everything_names_every_value() -> None:
    def keys_of(values: dict[str, Any], path: str = "") -> set[str]:
        found = set()
        for key, value in values.items():
            is_section = isinstance(value, dict) and value and key != "resources"
            found |= keys_of(value, f"{path}{key}.") if is_section else {path + key}
        return found

    defaults = keys_of(yaml.safe_load((CHART / "values.yaml").read_text()))
    named = keys_of(load_everything())
    alternatives = {f"images.{name}" for name in ("operator.digest", "gateway.tag", "worker.tag", "workerLite.digest")}
    assert {
        key for key in defaults if not any(name == key or name.startswith(f"{key}.") for name in named)
    } == alternatives


def test_the_readme_lists_every_value() -> None:
    def leaves(values: dict[str, Any], path: str = "") -> list[str]:
        return [
            leaf
            for key, value in values.items()
            for leaf in (leaves(value, f"{path}{key}.") if isinstance(value, dict) and value else [path + key])
        ]

    readme = (CHART / "README.md").read_text()
    missing = [
        leaf
        for leaf in leaves(yaml.safe_load((CHART / "values.yaml").read_text()))
        if ".resources." not in leaf and f"`{leaf}`" not in readme
    ]
    assert missing == []


def test_the_definitions_are_those_of_the_repository_and_stay_on_uninstall() -> None:
    rendered = [manifest for manifest in render() if manifest["kind"] == "CustomResourceDefinition"]
    assert {manifest["metadata"]["name"] for manifest in rendered} == {
        path.stem.removeprefix(f"{GROUP}_") + f".{GROUP}" for path in (REPOSITORY / "crds").glob("*.yaml")
    }
    for manifest in rendered:
        assert manifest["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        source = REPOSITORY / "crds" / f"{GROUP}_{manifest['spec']['names']['plural']}.yaml"
        assert manifest["spec"] == yaml.safe_load(source.read_text())["spec"]


def test_the_definitions_can_be_left_to_someone_else() -> None:
    assert render({"crds": {"install": False}}) == without_crds(render())


@pytest.mark.parametrize("part", ["operator", "gateway"])
def test_an_upgrade_never_changes_the_selector_of_the_deployment(part: str) -> None:
    def selector(values: dict[str, Any]) -> object:
        return find(render(values), "Deployment", part=part)["spec"]["selector"]

    assert selector({}) == selector(load_everything())


def test_two_releases_in_one_cluster_share_no_cluster_wide_name() -> None:
    def names(release: str) -> set[str]:
        text = run_helm(
            "template", release, str(CHART), "--namespace=one", "--kube-version=1.34.0", "--set=crds.install=false"
        )
        return {m["metadata"]["name"] for m in yaml.safe_load_all(text) if m and "namespace" not in m["metadata"]}

    assert names("first") & names("second") == set()


def test_the_gateway_can_be_left_out() -> None:
    manifests = render({"gateway": {"enabled": False}})
    assert {part_of(manifest) for manifest in manifests} == {"operator"}
    assert len(manifests) < len(render())


def test_a_release_of_the_longest_name_has_names_that_kubernetes_takes() -> None:
    manifests = render({"fullnameOverride": "a" * 53})
    assert max(len(m["metadata"]["name"]) for m in manifests if m["kind"] == "Service") <= 63


def test_callers_never_reach_the_admin_port() -> None:
    for values in CASES.values():
        manifests = render(values)
        ports = find(manifests, "Service", f"{values.get('fullnameOverride', 'llmos')}-gateway")["spec"]["ports"]
        assert [port["targetPort"] for port in ports] == ["http"]


def test_network_policies_are_made_only_if_they_are_asked_for() -> None:
    assert not [manifest for manifest in render() if manifest["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize("given", [[], [{"namespaceSelector": {}}]])
def test_the_admin_port_is_open_to_operator_gateways_and_whoever_is_named(given: list[dict[str, Any]]) -> None:
    manifests = render({"gateway": {"networkPolicy": {"enabled": True, "metricsFrom": given}}})
    policy = find(manifests, "NetworkPolicy", part="gateway")["spec"]
    pods = [find(manifests, "Deployment", part=part)["spec"]["selector"] for part in ("operator", "gateway")]
    container = find(manifests, "Deployment", part="gateway")["spec"]["template"]["spec"]["containers"][0]
    callers, readers = policy["ingress"]
    assert policy["podSelector"] == pods[1]
    assert policy["policyTypes"] == ["Ingress"]
    assert callers == {"ports": [{"port": "http", "protocol": "TCP"}]}
    assert readers["ports"] == [{"port": "admin", "protocol": "TCP"}]
    assert readers["from"] == [*({"podSelector": pod} for pod in pods), *given]
    assert {port["name"] for port in container["ports"]} == {"http", "admin"}


@pytest.mark.parametrize("given", [[], [{"namespaceSelector": {}}]])
def test_the_port_of_the_operator_is_open_to_whoever_is_named_and_to_nobody_else(given: list[dict[str, Any]]) -> None:
    manifests = render({"operator": {"networkPolicy": {"enabled": True, "metricsFrom": given}}})
    policy = find(manifests, "NetworkPolicy")["spec"]
    assert policy["podSelector"] == find(manifests, "Deployment")["spec"]["selector"]
    assert policy["policyTypes"] == ["Ingress"]
    assert [rule["from"] for rule in policy["ingress"]] == ([given] if given else [])


def test_gateways_are_found_by_the_operator_and_by_each_other() -> None:
    manifests = render()
    mark = {LABEL_COMPONENT: COMPONENT_GATEWAY}
    template = find(manifests, "Deployment", part="gateway")["spec"]["template"]
    marked = [m for m in manifests if m["kind"] == "Service" and mark.items() <= m["metadata"]["labels"].items()]
    assert mark.items() <= template["metadata"]["labels"].items()
    assert [(s["metadata"]["name"], s["spec"]["clusterIP"]) for s in marked] == [("llmos-gateway-admin", "None")]
    assert [(p["name"], p["port"]) for p in marked[0]["spec"]["ports"]] == [("admin", GATEWAY_ADMIN_PORT)]


def test_a_digest_wins_over_a_tag_and_the_chart_s_version_is_the_last_resort() -> None:
    digest = "sha256:" + "a" * 64
    images = {"operator": {"tag": "v1", "digest": digest}, "worker": {"tag": "v2"}}
    manifests = render({"images": {"registry": "r.example.com:5000/x", **images}})
    container = find(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert container["image"] == f"r.example.com:5000/x/llmos-operator@{digest}"
    assert environment["LLMOS_WORKER_IMAGE"] == "r.example.com:5000/x/llmos-worker:v2"
    assert environment["LLMOS_WORKER_LITE_IMAGE"] == f"r.example.com:5000/x/llmos-worker-lite:{version}"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"operater": {}}, "operater"),
        ({"operator": {"replica": 2}}, "replica"),
        ({"operator": {"replicas": "two"}}, "replicas"),
        ({"operator": {"replicas": -1}}, "replicas"),
        ({"operator": {"logLevel": "loud"}}, "logLevel"),
        ({"operator": {"resources": {"request": {}}}}, "request"),
        ({"operator": {"resources": {"limits": {"memory": "2 GB"}}}}, "memory"),
        ({"gateway": {"auth": "maybe"}}, "auth"),
        ({"gateway": {"replicas": -1}}, "replicas"),
        ({"gateway": {"service": {"port": 0}}}, "port"),
        ({"gateway": {"httpRoute": {"enabled": True}}}, "parentRefs"),
        ({"gateway": {"tls": {"secret": "a"}}}, "secret"),
        ({"gateway": {"maxBodyMiB": 0}}, "maxBodyMiB"),
        ({"gateway": {"networkPolicy": {"metricsFrom": [{}]}}}, "metricsFrom"),
        ({"images": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"images": {"registry": "registry.example.com/"}}, "registry"),
        ({"images": {"worker": {"digest": "abc"}}}, "digest"),
        ({"images": {"pullSecrets": [{"name": "key"}]}}, "pullSecrets"),
        ({"fetch": {"env": {"HTTPS_PROXY": 3128}}}, "HTTPS_PROXY"),
        ({"fetch": {"env": {"not a name": "x"}}}, "not a name"),
        ({"serving": {"startTimeoutSeconds": 0}}, "startTimeoutSeconds"),
        ({"podDisruptionBudget": {"maxUnavailable": 0}}, "maxUnavailable"),
        ({"metrics": {"serviceMonitor": {"interval": "30"}}}, "interval"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(HelmError, match=complaint):
        render(values)


def test_every_section_of_the_schema_refuses_unknown_keys() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def open_sections(node: dict[str, Any], path: str) -> list[str]:
        found = [path] if "properties" in node and node.get("additionalProperties") is not False else []
        for key, value in node.get("properties", {}).items():
            found += open_sections(value, f"{path}.{key}")
        return found

    assert open_sections(schema, "values") == []


def test_the_notes_name_the_command_that_comes_next() -> None:
    text = render_text({}, "--show-only=templates/deployment.yaml")
    notes = (CHART / "templates" / "NOTES.txt").read_text()
    assert "name: llmos-operator" in text
    assert "rollout status deployment/" in notes
    for line in notes.splitlines():
        if "kubectl apply -f" in line:
            assert (REPOSITORY / line.split("-f")[1].strip()).exists()
