"""Whether the memory that this container may have has room for the bodies that the gateway may hold.

    needed = BASE_BYTES + 2 * (all bodies that wait for their answer + the largest one)

`BASE_BYTES` is the process with its index of prefixes and its connections. A body is there once while it waits, but
memory is left in pieces by those that are read side by side (16 of 31 MiB: 1010 MiB at most, of a process of 69), and
it is there four times while it is parsed and written anew, one body at a time. The chart refuses less
(`llmos.gateway.checkMemory`); here it is only said, for whoever runs the gateway without the chart. Answers that are
read to their end before they pass (up to 4 MiB each) come on top, and so does a body of numbers only, which is larger
when parsed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from llmos_gateway.proxy.limits import Limits

_MIB: Final = 1024 * 1024
BASE_BYTES: Final = 256 * _MIB
CGROUPS: Final = Path("/sys/fs/cgroup")
_LIMIT_FILES: Final = ("memory.max", "memory/memory.limit_in_bytes")
"""Of the versions 2 and 1, as a container sees its own."""


def compute_needed_bytes(limits: Limits) -> int:
    """Return the memory that the bodies of requests can make necessary."""
    return BASE_BYTES + 2 * (limits.max_bodies_bytes + limits.max_body_bytes)


def read_limit_bytes(cgroups: Path = CGROUPS) -> int | None:
    """Return the memory that this container may have, None where nothing says so."""
    for name in _LIMIT_FILES:
        try:
            text = (cgroups / name).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdecimal() else None
    return None


def find_memory_warning(limits: Limits, limit_bytes: int | None) -> str:
    """Return what is wrong and what to do, empty if there is room or no limit."""
    needed = compute_needed_bytes(limits)
    if limit_bytes is None or limit_bytes >= needed:
        return ""
    return (
        f"This container may have {limit_bytes // _MIB} MiB of memory, and the bodies of requests can make "
        f"{needed // _MIB} MiB necessary: it would be killed with all its requests. Raise the limit, or lower "
        f"--max-bodies-mib ({limits.max_bodies_bytes // _MIB}) or --max-body-mib ({limits.max_body_bytes // _MIB})."
    )
