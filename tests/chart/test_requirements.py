"""The requirement files pin, with hashes, all that the project asks for, and name no registry."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.chart.helm import REPOSITORY

EXTRAS = {
    "operator": ("operator",),
    "gateway": ("gateway",),
    "worker-lite": ("workers",),
    "worker-vllm": ("workers", "vllm"),
    "worker-vllm-cpu": ("workers",),
    "dev": ("operator", "gateway", "workers", "dev"),
    "build": (),
}
FOLDER = REPOSITORY / "requirements"


def load_pins(path: Path) -> dict[str, list[Requirement]]:
    logical_lines = path.read_text().replace("\\\n", " ").splitlines()
    pins: dict[str, list[Requirement]] = {}
    for line in logical_lines:
        pin = Requirement(re.sub(r"\s+--hash=\S+", "", line))
        pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    return pins


@pytest.mark.parametrize("name", EXTRAS)
def test_every_line_is_one_version_with_hashes(name: str) -> None:
    for line in (FOLDER / f"{name}.txt").read_text().replace("\\\n", " ").splitlines():
        assert re.match(r"^[a-z0-9._-]+==[\w.+!-]+( ;|\s+--hash)", line), line
        assert "--hash=sha256:" in line, line


@pytest.mark.parametrize("name", EXTRAS)
def test_no_registry_is_named(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text


@pytest.mark.parametrize("name", [name for name in EXTRAS if name != "build"])
def test_the_pins_satisfy_the_project(name: str) -> None:
    """Without a registry; `requirements/compile.sh --check` asks one and tells more."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in EXTRAS[name]:
        wanted += project["optional-dependencies"][extra]
    pins = load_pins(FOLDER / f"{name}.txt")
    for requirement in map(Requirement, wanted):
        candidates = pins.get(canonicalize_name(requirement.name), [])
        versions = [next(iter(pin.specifier)).version for pin in candidates]
        assert versions, f"{requirement.name} is missing in {name}.txt: run requirements/compile.sh"
        assert all(version in requirement.specifier for version in versions), f"{name}.txt: run requirements/compile.sh"


def test_the_processor_s_image_has_no_gpu_compiler() -> None:
    pins = load_pins(FOLDER / "worker-vllm-cpu.txt")
    for name in ("triton", "torchvision", "torchaudio", "torchcodec"):
        assert all(str(pin.marker) == 'sys_platform == "never"' for pin in pins.get(name, []))
