"""Where the account of token budgets is kept: in this process with a journal, or shared by all gateways.

    LocalStore    needs nothing; a journal file keeps what was used over a restart or a kill of the process
    SharedStore   in Valkey or Redis, one round trip for each step; exact over all gateways

Both reckon as `limits.Ledger` does. A request holds a `Tab` from `open` to `settle`.
"""

from __future__ import annotations

from llmos_gateway.budget_store.journal import Journal, JournalError
from llmos_gateway.budget_store.local import LocalStore
from llmos_gateway.budget_store.store import BudgetStore, StoreAwayError, Tab

__all__ = ["BudgetStore", "Journal", "JournalError", "LocalStore", "StoreAwayError", "Tab"]
