"""Reads the command line, sets up the log, and runs one engine to its end."""

from __future__ import annotations

import asyncio
import logging

from llmos_workers.serve.member import Member
from llmos_workers.serve.options import ServeOptions, parse_options
from llmos_workers.serve.supervisor import Supervisor


async def serve(options: ServeOptions) -> int:
    """Run one engine to its end. Returns the exit status."""
    place = options.engine.gang
    supervisor = Supervisor(options) if place is None or place.rank == 0 else Member(options, place)
    return await supervisor.run()


def main(argv: list[str]) -> int:
    """Entry point. Returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return asyncio.run(serve(parse_options(argv)))
