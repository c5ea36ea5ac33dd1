"""When a job is deleted: what it put into its object store goes.

Only what jobs put is looked at, by its name, for others may have put something beside it. Manifests go first, so that
nothing of which a part is gone counts as complete. What is gone already is no error, so it may be begun again at any
moment; where there is no bucket any more there is nothing to remove.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llmos_workers.fetch.errors import SourceNotFoundError
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.offsite.remote import RemoteFolder
from llmos_workers.offsite.restore import MARK
from llmos_workers.train.files import MANIFEST

REMOVAL_RETRY: Final = RetryPolicy(attempts=8, first_wait_s=1.0, longest_wait_s=60.0)
"""About three minutes: what fails for longer is told, and the job goes without it."""
_FOLDERS: Final = frozenset({"dataset", "checkpoints", "output", "attempts", "tensorboard", "trials"})


def remove_job(root: RemoteFolder, kept: Sequence[str] = ()) -> int:
    """Remove what a job put below `root`, but for folders and objects that are `kept`; return how many went.

    Raises:
        FetchError: not all of it could be removed.
    """
    try:
        names = [name for name in root.list_files() if _is_of_job(name) and not _is_in(name, kept)]
    except SourceNotFoundError:
        return 0
    root.delete(sorted(names, key=lambda name: (name.rpartition("/")[2] != MANIFEST, name)))
    return len(names)


def _is_of_job(name: str) -> bool:
    folder, _, rest = name.partition("/")
    return name == MARK or (folder in _FOLDERS and bool(rest))


def _is_in(name: str, places: Sequence[str]) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in places)
