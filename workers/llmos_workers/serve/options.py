"""Command line of `python -m llmos_workers.serve`. What follows `--` goes to the engine as it stands."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmos.api.names import (
    ADAPTER_DIR,
    CONTROL_PORT,
    ENGINE_PORT,
    GANG_PORT,
    MODEL_DIR,
    POD_IP_VARIABLE,
    TOKEN_HASH_VARIABLE,
)
from llmos_workers.serve.command import EngineOptions
from llmos_workers.serve.drain import find_drain_file
from llmos_workers.serve.gang import GangPlace

TERMINATION_LOG: Final = "/dev/termination-log"


@dataclass(frozen=True, slots=True)
class AdapterOptions:
    """What serve was told about adapters."""

    folder: Path
    limit_bytes: int
    patience_s: float
    token_hash: str


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Everything that serve was told."""

    engine: EngineOptions
    control_port: int
    drain_timeout_s: float
    settle_s: float
    start_timeout_s: float
    watchdog_s: float
    poll_s: float
    termination_log: Path
    drain_file: Path
    adapters: AdapterOptions | None = None
    """None where no adapters can be loaded."""


def build_parser() -> argparse.ArgumentParser:
    """serve's own arguments."""
    parser = argparse.ArgumentParser(
        prog="llmos-serve",
        description="Start an engine, tell whether it can answer, drain it on SIGTERM, say why it died.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--engine", choices=("vllm", "simulator"), default="vllm", help="the server program")
    add("--model-dir", default=MODEL_DIR, help="folder with the model's files; the simulator also takes none")
    add("--served-model-name", required=True, help="name of the model in requests and metrics")
    add("--host", default="0.0.0.0", help="address that the engine and the control port listen on")  # noqa: S104
    add("--port", type=int, default=ENGINE_PORT, help="port of the engine, for traffic")
    add("--control-port", type=int, default=CONTROL_PORT, help="port of /healthz, /readyz and /load")
    add("--drain-timeout-s", type=float, default=120.0, help="longest wait for requests in flight at SIGTERM")
    add("--settle-s", type=float, default=3.0, help="shortest wait at SIGTERM, until no new request is sent here")
    add("--start-timeout-s", type=float, default=1800.0, help="longest wait until the first token is generated")
    add("--watchdog-s", type=float, default=30.0, help="silence after which the engine is taken for hung")
    add("--poll-s", type=float, default=1.0, help="pause between two looks at the engine")
    add("--gang-size", type=int, default=1, help="pods of the replica")
    add("--rank", type=int, default=0, help="which of them this is; 0 leads")
    add("--leader", default="", help="HOST or HOST:PORT of the leader's control port")
    add("--gang-port", type=int, default=GANG_PORT, help="port of the leader where the engines meet")
    add("--adapters-bytes", type=int, default=0, help="room for files of adapters; 0 = none can be loaded")
    add("--adapters-timeout-s", type=float, default=120.0, help="longest time that readiness waits for adapters")
    add("--adapter-dir", type=Path, default=Path(ADAPTER_DIR), help="folder for the files of adapters")
    add("--termination-log", type=Path, default=Path(TERMINATION_LOG), help="file that kubelet reads the end from")
    add("engine_arguments", nargs="*", metavar="-- ENGINE_ARGUMENT", help="arguments of the engine")
    return parser


def parse_options(argv: Sequence[str]) -> ServeOptions:
    """Options of a command line. The drain file comes from the environment, for the engine must find it too."""
    args = build_parser().parse_args(argv)
    engine = EngineOptions(
        engine=args.engine,
        model_dir=args.model_dir,
        served_model_name=args.served_model_name,
        host=args.host,
        port=args.port,
        arguments=tuple(args.engine_arguments),
        gang=_parse_place(args) if args.gang_size > 1 else None,
        has_adapters=args.adapters_bytes > 0,
    )
    return ServeOptions(
        engine=engine,
        control_port=args.control_port,
        drain_timeout_s=args.drain_timeout_s,
        settle_s=args.settle_s,
        start_timeout_s=args.start_timeout_s,
        watchdog_s=args.watchdog_s,
        poll_s=args.poll_s,
        termination_log=args.termination_log,
        drain_file=find_drain_file(),
        adapters=_parse_adapters(args) if args.adapters_bytes > 0 else None,
    )


def _parse_adapters(args: argparse.Namespace) -> AdapterOptions:
    token_hash = os.environ.get(TOKEN_HASH_VARIABLE, "")
    return AdapterOptions(args.adapter_dir, args.adapters_bytes, args.adapters_timeout_s, token_hash)


def _parse_place(args: argparse.Namespace) -> GangPlace:
    host, _, port = args.leader.partition(":")
    if args.rank == 0:
        # Its own address is not yet in the cluster's DNS when it begins.
        host = os.environ.get(POD_IP_VARIABLE) or host
    return GangPlace(args.gang_size, args.rank, host, int(port or CONTROL_PORT), args.gang_port)
