"""Who may hold accelerators: quota, fair share, gangs, reclaim and placement over a frozen snapshot. Pure.

`plan_quota(snapshot)` returns a plan; `Ledger` does the same step by step for many gangs, and `KeptLedger` keeps one
from snapshot to snapshot. Read in this order: `values` (what is known), `books` (accounts and shares), `queues` and
`order` (who is served first), `room` (nodes), `victims` and `reclaim` (who goes for whom), `ledger` (one moment's
decisions). docs/concepts/quota.md tells it for administrators.
"""

from llmos_operator.planning.quota.kept import KeptLedger
from llmos_operator.planning.quota.ledger import Ledger, plan_quota
from llmos_operator.planning.quota.plan import QuotaPlan, QuotaReport
from llmos_operator.planning.quota.values import (
    Gang,
    GangKind,
    GangState,
    Node,
    Placement,
    Quota,
    QuotaRules,
    Reservation,
    Snapshot,
    Stop,
    Swap,
    TenantQuota,
)

__all__ = [
    "Gang",
    "GangKind",
    "GangState",
    "KeptLedger",
    "Ledger",
    "Node",
    "Placement",
    "Quota",
    "QuotaPlan",
    "QuotaReport",
    "QuotaRules",
    "Reservation",
    "Snapshot",
    "Stop",
    "Swap",
    "TenantQuota",
    "plan_quota",
]
