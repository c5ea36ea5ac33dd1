"""The command line and the environment of an engine. Pure.

`serve` owns where the engine listens, what it is called, how it drains and how it shuts down; arguments that would
change that are refused, because the probes, the Service and the drain would no longer meet the engine.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from llmos.api.inferencepool import find_argument
from llmos.api.names import POD_IP_VARIABLE
from llmos_workers.serve.gang import GangPlace

ENGINE_SHUTDOWN_S: Final = 10
"""Seconds that the engine may use for what is still in flight once it is told to stop, after the drain."""

KEEP_ALIVE_S: Final = 120
"""vLLM closes idle connections after 5 s, while common clients keep them for up to 90 s (Go) and so run into resets."""

MIDDLEWARE: Final = "llmos_workers.serve.drain.DrainMiddleware"
"""vLLM splits this at the last dot: a colon there fails."""

ADAPTER_MIDDLEWARE: Final = "llmos_workers.serve.guard.AdapterMiddleware"

_OWNED: Final[Mapping[str, str]] = {
    "model": "the LLMModel that spec.modelRef names",
    "served-model-name": "the name of the pool",
    "host": "LLMOS",
    "port": "LLMOS",
    "uds": "LLMOS",
    "root-path": "LLMOS",
    "shutdown-timeout": "spec.drain.timeoutSeconds",
    "headless": "LLMOS",
    "nnodes": "LLMOS",
    "node-rank": "LLMOS",
    "master-addr": "LLMOS",
    "master-port": "LLMOS",
    "api-key": "the gateway, which asks callers for keys",
    "ssl-keyfile": "the gateway, which ends TLS",
    "ssl-certfile": "the gateway, which ends TLS",
}

EngineName = Literal["vllm", "simulator"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What `serve` tells the engine."""

    engine: EngineName
    model_dir: str
    served_model_name: str
    host: str
    port: int
    arguments: tuple[str, ...]
    gang: GangPlace | None = None
    """None where the replica is a single pod."""
    has_adapters: bool = False
    """Whether adapters are loaded and unloaded while it runs."""


def find_owned_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """Arguments that `serve` sets itself, as name -> where the value comes from instead."""
    names = (item[2:].split("=", 1)[0] for item in arguments if item.startswith("--"))
    found = {name.replace("_", "-"): find_argument(name, _OWNED) for name in names}
    return {name: _OWNED[owned] for name, owned in found.items() if owned}


def build_command(options: EngineOptions, python: str = sys.executable) -> tuple[str, ...]:
    """The engine's command line. User's arguments come last: of a repeated argument the last one counts."""
    common = ("--served-model-name", options.served_model_name, "--host", options.host, "--port", str(options.port))
    shutdown = ("--shutdown-timeout", str(ENGINE_SHUTDOWN_S))
    meeting = _build_meeting(options.gang)
    if options.engine == "simulator":
        start = (python, "-m", "llmos_workers.simulate", "--model-dir", options.model_dir)
        return (*start, *common, *shutdown, *meeting, *options.arguments)
    if options.gang is not None and options.gang.rank > 0:
        follow = (python, "-m", "llmos_workers.serve.headless", options.model_dir)
        return (*follow, "--served-model-name", options.served_model_name, *meeting, *options.arguments)
    start = (python, "-m", "vllm.entrypoints.openai.api_server", "--model", options.model_dir)
    # The watchdog asks every second; the log is for requests.
    quiet = ("--disable-access-log-for-endpoints", "/health,/metrics")
    guard = ("--middleware", ADAPTER_MIDDLEWARE) if options.has_adapters else ()
    return (*start, *common, *shutdown, "--middleware", MIDDLEWARE, *guard, *quiet, *meeting, *options.arguments)


def _build_meeting(place: GangPlace | None) -> tuple[str, ...]:
    """How the engines of a gang find each other; only the leader's has a web server."""
    if place is None:
        return ()
    nodes = ("--nnodes", str(place.size), "--node-rank", str(place.rank))
    headless = ("--headless",) if place.rank > 0 else ()
    return (*nodes, "--master-addr", place.leader, "--master-port", str(place.port), *headless)


def build_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The engine's environment: no download at run time, last words unbuffered, no telemetry. What is set stays."""
    defaults = {
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_S),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if address := inherited.get(POD_IP_VARIABLE):
        defaults["VLLM_HOST_IP"] = address
    return {**defaults, **inherited}
