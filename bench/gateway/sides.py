"""Who takes part: how each is installed and started. All have the same two backends and one core.

    direct        no router: what backend and load can do by themselves
    pass-through  aiohttp and uvloop, nothing else: the floor for Python
    llmos         this gateway, everything on: keys, routing `auto`, metrics, access log to a file
    sglang-router, vllm-router   (Rust) with their cache-aware policies
    litellm       one worker, master key, no database

The last three are installed into environments of their own below `out/`, and left out with a reason where that fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.gateway.processes import (
    CannotStartError,
    Cores,
    build_server_command,
    find_ports,
    run_pinned,
    wait_for_answer,
)

FOLDER = Path("out/bench-gateway")
MODEL = "bench"
KEY = "sk-llmos-benchbenchok-" + "0" * 43
LITELLM_KEY = "sk-Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4z"
INSTALL_S = 900
CHAT_PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Side:
    """One participant that runs now."""

    name: str
    url: str
    key: str
    model: str
    process: psutil.Process


@dataclass(frozen=True)
class Launch:
    """How one participant is started: ports and backends -> command line and environment."""

    name: str
    build: Callable[[Sequence[int], Sequence[str]], tuple[list[str], dict[str, str]]]
    package: str = ""
    """What is installed for it; empty for ours."""
    key: str = KEY
    model: str = MODEL


def _build_pass_through(ports: Sequence[int], backends: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    return build_server_command("passthrough", ports[0], *backends), {}


def _build_llmos(ports: Sequence[int], backends: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    catalog = FOLDER / "catalog.json"
    endpoints = [backend.removeprefix("http://") for backend in backends]
    pools = [{"name": "chat", "model": MODEL, "endpoints": endpoints}]
    catalog.write_text(json.dumps({"pools": pools, "keys": [{"key": KEY}]}))
    command = [sys.executable, "-m", "llmos_gateway.main", "run", "--host", "127.0.0.1", "--port", str(ports[0])]
    return [*command, "--admin-port", str(ports[1]), "--catalog", str(catalog), "--settle-s", "0", "--drain-s", "0"], {}


def _build_sglang(ports: Sequence[int], backends: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    program = _find_installed("sglang-router", "sglang-router")
    command = [program, "launch", "--host", "127.0.0.1", "--port", str(ports[0]), "--prometheus-port", str(ports[1])]
    return [*command, "--policy", "cache_aware", "--log-level", "warn", "--worker-urls", *backends], {}


def _build_vllm(ports: Sequence[int], backends: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    program = _find_installed("vllm-router", "vllm-router")
    command = [program, "--host", "127.0.0.1", "--port", str(ports[0]), "--prometheus-port", str(ports[1])]
    return [*command, "--policy", "cache_aware", "--log-level", "warning", "--worker-urls", *backends], {}


def _build_litellm(ports: Sequence[int], backends: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    program = _find_installed("litellm", "litellm")
    config = FOLDER / "litellm.json"
    models = [
        {
            "model_name": MODEL,
            "litellm_params": {"model": f"openai/{MODEL}", "api_base": f"{url}/v1", "api_key": "none"},
        }
        for url in backends
    ]
    config.write_text(json.dumps({"model_list": models}))
    command = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(ports[0]), "--num_workers", "1"]
    return command, {"LITELLM_MASTER_KEY": LITELLM_KEY, "LITELLM_TELEMETRY": "False"}


LAUNCHES = (
    Launch("pass-through", _build_pass_through),
    Launch("llmos", _build_llmos, model="chat"),
    Launch("sglang-router", _build_sglang, package="sglang-router"),
    Launch("vllm-router", _build_vllm, package="vllm-router"),
    Launch("litellm", _build_litellm, package="litellm[proxy]<1.109", key=LITELLM_KEY),
)


@contextlib.contextmanager
def run_backend(cores: Cores, tokens_per_s: float, tokens: int) -> Iterator[tuple[Side, list[str]]]:
    """Run the backend; yield it as the side `direct`, and the addresses that routers get."""
    ports = find_ports(2)
    log = FOLDER / "backend.log"
    command = build_server_command("backend", tokens_per_s, tokens, *ports)
    with run_pinned(cores.load, command, log) as process:
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        wait_for_answer(urls[0] + CHAT_PATH, KEY, build_probe(MODEL), process, log)
        yield Side("direct", urls[0] + CHAT_PATH, KEY, MODEL, process), urls


@contextlib.contextmanager
def run_side(launch: Launch, cores: Cores, backends: Sequence[str]) -> Iterator[Side]:
    """Run one participant.

    Raises:
        CannotStartError: it cannot be installed or started.
    """
    ports = find_ports(2)
    command, environment = launch.build(ports, backends)
    log = FOLDER / f"{launch.name}.log"
    url = f"http://127.0.0.1:{ports[0]}{CHAT_PATH}"
    with run_pinned(cores.router, command, log, environment) as process:
        wait_for_answer(url, launch.key, build_probe(launch.model), process, log)
        yield Side(launch.name, url, launch.key, launch.model, process)


def build_probe(model: str) -> bytes:
    """Return the smallest chat request."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]}).encode()


def install(launch: Launch) -> str:
    """Install a participant if it is not there yet; return its version.

    Raises:
        CannotStartError: it cannot be installed.
    """
    name = launch.name
    if not launch.package:
        return ""
    folder = _get_environment(name)
    python = folder / "bin" / "python"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        raise CannotStartError("uv is missing: make install")
    if not python.exists():
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
    _run([uv, "pip", "install", "--quiet", "--python", str(python), launch.package])
    distribution = launch.package.partition("[")[0].partition("<")[0]
    version = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    return _run([str(python), "-c", version, distribution]).strip()


def _run(command: Sequence[str]) -> str:
    try:
        environment = {"UV_NATIVE_TLS": "1", **os.environ}
        result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S, env=environment)
    except subprocess.CalledProcessError as error:
        said = str(error.stderr).strip().splitlines() or ["it said nothing"]
        raise CannotStartError(f"it cannot be installed: {said[-1][:200]}") from error
    except subprocess.TimeoutExpired as error:
        raise CannotStartError(f"it was not installed within {INSTALL_S} s") from error
    return result.stdout


def _get_environment(name: str) -> Path:
    return FOLDER / f"venv-{name}"


def _find_installed(name: str, program: str) -> str:
    path = _get_environment(name) / "bin" / program
    if not path.exists():
        raise CannotStartError(f"{path} is missing")
    return str(path)
