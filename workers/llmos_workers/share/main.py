"""Reads the command line, hashes the files, and serves them."""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path
from typing import Final

import uvicorn

from llmos.api import Reason
from llmos.api.names import SHARE_PORT, TOKEN_HASH_VARIABLE
from llmos_workers.share.app import NoAdapterError, build_share_app, observe_manifest

TERMINATION_LOG: Final = Path("/dev/termination-log")
_log: Final = logging.getLogger("llmos.share")
_AT_ONCE: Final = 256
"""Connections; more are refused, and their replicas come again."""
_STOP_S: Final = 5


def main(argv: list[str]) -> int:
    """Entry point. Returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    parser = argparse.ArgumentParser(prog="llmos-share", description="Give the files of an adapter to replicas.")
    parser.add_argument("--dir", type=Path, required=True, help="folder with the adapter")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104
    parser.add_argument("--port", type=int, default=SHARE_PORT, help="port to listen on")
    options = parser.parse_args(argv)
    try:
        manifest = observe_manifest(options.dir)
    except NoAdapterError as error:
        return _fail(f"There is no adapter to share: {error}. Correct spec.source.uri of the LLMModel.")
    _log.info("sharing %s, %d bytes", manifest.digest, manifest.total_bytes)
    app = build_share_app(options.dir, manifest, os.environ.get(TOKEN_HASH_VARIABLE, ""))
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        access_log=False,
        limit_concurrency=_AT_ONCE,
        timeout_graceful_shutdown=_STOP_S,
    )
    return 0


def _fail(message: str) -> int:
    _log.error("%s", message)
    path = Path(os.environ.get("LLMOS_TERMINATION_LOG", TERMINATION_LOG))
    if path != TERMINATION_LOG or path.exists():
        path.write_text(json.dumps({"reason": Reason.SourceNotFound.value, "message": message}))
    return 1
