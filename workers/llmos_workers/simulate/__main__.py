"""`python -m llmos_workers.simulate`: start the simulator as vLLM would be started, or fail as vLLM would."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import NoReturn

import uvicorn

from llmos_workers.simulate.app import Server
from llmos_workers.simulate.gang import follow, lead
from llmos_workers.simulate.settings import Settings, StartError, StartFault, parse_settings

_KEEP_ALIVE_S = 120
"""Longer than common clients keep an idle connection (Go 90 s, aiohttp 15 s), so that they never use a closed one."""


def main(argv: list[str]) -> int:
    """Serve until a signal comes. Returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(asctime)s %(message)s", datefmt="%m-%d %H:%M:%S")
    try:
        settings = parse_settings(argv)
    except StartError as error:
        print(f"ValueError: {error}", file=sys.stderr, flush=True)
        return 1
    if settings.faults.at_start:
        return fail_at_start(settings.faults.at_start)
    load(settings)
    if settings.meeting.rank > 0:
        return follow(settings.meeting)
    if settings.meeting.nodes > 1:
        lead(settings.meeting, crash)
    server = Server(settings, crash)
    uvicorn.run(
        server.build_app(),
        host=settings.host,
        port=settings.port,
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
    )
    return 0


def load(settings: Settings) -> None:
    """Take as long as loading the model takes."""
    logging.info("Starting to load model %s...", settings.served_model_name)
    time.sleep(settings.start_delay_s)
    logging.info("Model loading took %.1f seconds", settings.start_delay_s)


def fail_at_start(fault: StartFault) -> int:
    """Fail with the lines and the exit status of a real engine; "hang" never returns."""
    if fault == "hang":
        logging.info("Starting to load model...")
        while True:
            time.sleep(3600)
    lines = {
        "oom": (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB. GPU 0 has a total capacity of "
            "79.11 GiB of which 1.02 GiB is free. Process 1 has 78.08 GiB memory in use."
        ),
        "badarg": "llmos-simulate: error: unrecognized arguments: --fault-start-badarg",
        "crash": "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    }
    print(lines[fault], file=sys.stderr, flush=True)
    return 2 if fault == "badarg" else 1


def crash() -> NoReturn:
    """Die as an engine whose core died: at once, with requests in flight."""
    print(
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. "
        "See stack trace (above) for the root cause.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
