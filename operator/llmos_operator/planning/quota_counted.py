"""Whether Kubernetes counts what the ResourceQuotas of a tenant's namespaces bound. Pure.

Two programs of Kubernetes share a ResourceQuota, and neither is the operator's:

- The quota controller of kube-controller-manager writes `status.hard`, and `status.used` for the kinds that it knows.
  It looks at a quota when that is made or its `spec.hard` changes, and at all of them every
  `--resource-quota-sync-period` (5 min). It learns of new kinds every 30 s, and looks at no quota for their sake. So a
  quota that was made before it had learned of ours lacks their `used` until the next look at all: up to 5.5 min after
  the kinds were installed. If it cannot list some kind, whosever it is, it counts nothing at all until that is mended.
- The API server refuses a new object (403, "status unknown for quota") of a kind that `status.hard` names and
  `status.used` does not. What `status.hard` does not name it does not bound.

(pkg/controller/resourcequota of Kubernetes, and its admission plugin ResourceQuota.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from llmos.api.names import CONDITION_QUOTA_COUNTED
from llmos.api.reasons import Reason
from llmos_operator.planning.conditions import Fact, is_false, is_true, is_unknown
from llmos_operator.planning.failures import describe, read_time

FIRST_COUNT_S: Final = 60.0
"""A quota that was made or changed later may just not have been looked at."""
_NAMED_AT_MOST: Final = 5


@dataclass(frozen=True)
class Uncounted:
    """A ResourceQuota of which not everything is counted."""

    name: str
    """With its namespace."""
    refused: tuple[str, ...]
    """Resources of which nothing new is taken."""
    unbounded: tuple[str, ...]
    """Resources of which anything is taken."""
    since: datetime | None = None
    """When it was made, or changed last as far as is known."""


def find_uncounted(quotas: Iterable[Mapping[str, Any]], written: Mapping[str, datetime]) -> tuple[Uncounted, ...]:
    """Return those of some ResourceQuotas, as they are stored, of which not everything is counted.

    Args:
        quotas: as they are stored.
        written: when those of a namespace were last written, by namespace, as far as is known.
    """
    found = (_look_at(quota, written.get(quota["metadata"]["namespace"])) for quota in quotas)
    return tuple(each for each in found if each.refused or each.unbounded)


def _look_at(quota: Mapping[str, Any], written: datetime | None) -> Uncounted:
    metadata, status = quota["metadata"], quota.get("status") or {}
    made = read_time(metadata.get("creationTimestamp"))
    hard, used = status.get("hard") or {}, status.get("used") or {}
    wanted = sorted(quota["spec"].get("hard") or {})
    return Uncounted(
        f"{metadata['namespace']}/{metadata['name']}",
        refused=tuple(name for name in wanted if name in hard and name not in used),
        unbounded=tuple(name for name in wanted if name not in hard),
        since=max((time for time in (made, written) if time is not None), default=None),
    )


def build_counted_fact(uncounted: Sequence[Uncounted], now: datetime) -> Fact:
    """Say whether everything is counted; while a quota is new or changed and nothing is refused because of it, nobody
    knows."""
    if not uncounted:
        return is_true(CONDITION_QUOTA_COUNTED, Reason.QuotaCounted)
    shown = uncounted[:_NAMED_AT_MOST]
    told = [_describe(each) for each in shown]
    if len(uncounted) > len(shown):
        told.append(f"So it is with {len(uncounted) - len(shown)} more.")
    message = describe(Reason.QuotaNotCounted, " ".join(told))
    is_bad = any(each.refused or _is_old(each, now) for each in uncounted)
    return (is_false if is_bad else is_unknown)(CONDITION_QUOTA_COUNTED, Reason.QuotaNotCounted, message)


def _is_old(quota: Uncounted, now: datetime) -> bool:
    return quota.since is None or now - quota.since >= timedelta(seconds=FIRST_COUNT_S)


def _describe(quota: Uncounted) -> str:
    told = []
    if quota.refused:
        told.append(f"status.used lacks {', '.join(quota.refused)}, so new objects of that are refused")
    if quota.unbounded:
        told.append(f"status.hard lacks {', '.join(quota.unbounded)}, so that is not bounded")
    return f"ResourceQuota {quota.name}: {'; '.join(told)}."
