"""Removes the files of trials that are not needed any more.

    python -m llmos_workers.tidy --work /job --keep 3        leaves trials/3, and removes all other trials/N

Only folders whose names are numbers are looked at; a link is removed and not followed. What was removed before is no
error, so it may be killed and begun again at any moment. Exit code 1 if something could not be removed.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from llmos.api.names import WORK_DIR
from llmos_workers.ending import end_on_sigterm

log = logging.getLogger("llmos_workers.tidy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Remove them, and return the exit code."""
    options = _build_parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    failed = remove_others(options.work / "trials", options.keep)
    for path, error in failed:
        log.error("%s cannot be removed: %s", path, error)
    return 1 if failed else 0


def remove_others(trials: Path, keep: int) -> list[tuple[str, BaseException]]:
    """Remove the folders of all trials but one; return what could not be removed, and why."""
    failed: list[tuple[str, BaseException]] = []
    for path in sorted(trials.iterdir()) if trials.is_dir() else ():
        if not path.name.isdecimal() or int(path.name) == keep:
            continue
        log.info("removing %s", path)
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path, onerror=lambda _, name, error: failed.append((name, error[1])))
    # What somebody else removed meanwhile is as it should be.
    return [(name, error) for name, error in failed if not isinstance(error, FileNotFoundError)]


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llmos_workers.tidy", description="Remove the files of trials.")
    parser.add_argument("--work", type=Path, default=Path(WORK_DIR), help="the job's claim")
    parser.add_argument("--keep", type=int, required=True, help="number of the trial whose files stay")
    return parser


if __name__ == "__main__":
    end_on_sigterm()
    sys.exit(main())
