"""Runs helm as the tests of the chart need it: one call, parsed documents out, errors as a value."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.binaries import ensure_binaries

REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "charts" / "llmos"
EVERYTHING = Path(__file__).parent / "everything.yaml"
# A helm that was built without version flags takes itself for a client of an ancient cluster.
KUBE_VERSION = "1.34.0"
TIMEOUT_S = 60
RANDOM = "cmFuZG9t"

Manifest = dict[str, Any]


class HelmError(Exception):
    """helm refused; the message is what it printed."""


def run_helm(*arguments: str, stdin: str = "") -> str:
    helm = ensure_binaries("helm")["helm"]
    done = subprocess.run(
        [helm, *arguments], input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise HelmError(done.stderr + done.stdout)
    return done.stdout


def render_text(values: Mapping[str, Any] | None = None, *arguments: str) -> str:
    """What `helm install llmos` in the namespace llmos-system would send."""
    command = ("template", "llmos", str(CHART), "--namespace=llmos-system", f"--kube-version={KUBE_VERSION}")
    return run_helm(*command, "--values=-", *arguments, stdin=yaml.safe_dump(dict(values or {})))


def render(values: Mapping[str, Any] | None = None) -> list[Manifest]:
    manifests: list[Manifest] = [document for document in yaml.safe_load_all(render_text(values)) if document]
    for manifest in manifests:
        # Random, and so another one each time.
        if manifest["kind"] == "Secret":
            manifest["data"] = dict.fromkeys(manifest["data"], RANDOM)
    return manifests


def find(manifests: list[Manifest], kind: str, name: str = "", *, part: str = "operator") -> Manifest:
    """The one manifest of a kind, by name, or else of a part of LLMOS."""
    (found,) = [
        m for m in manifests if m["kind"] == kind and (m["metadata"]["name"] == name if name else part_of(m) == part)
    ]
    return found


def part_of(manifest: Manifest) -> str:
    return str(manifest["metadata"].get("labels", {}).get("app.kubernetes.io/component", ""))


def load_everything() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(EVERYTHING.read_text())
    return values
