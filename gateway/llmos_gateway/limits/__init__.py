"""Token budgets of tenants: what may be used in which calendar window, exactly. Pure: time comes in as an argument.

`terms` says what a tenant may use and what a token counts, `windows` cuts time into minutes, days and months,
`ledger` keeps the account, `quotes` says how much a request has to reserve. Where the account is kept, in this process
or shared by all gateways, is `budget_store`'s business; the shared one computes the same in Lua, and a test holds both
together.

Amounts are integers in thousandths of a weighted token, so that a token that counts 0.1 is counted exactly however
often it is added, and taken back.
"""

from __future__ import annotations

from llmos_gateway.limits.ledger import Granted, Ledger, Refused, Use
from llmos_gateway.limits.prompts import PromptFactors
from llmos_gateway.limits.quotes import Quote, build_quote
from llmos_gateway.limits.terms import MILLI, Terms, build_terms
from llmos_gateway.limits.windows import WINDOWS, WindowName, find_end, find_starts

__all__ = [
    "MILLI",
    "WINDOWS",
    "Granted",
    "Ledger",
    "PromptFactors",
    "Quote",
    "Refused",
    "Terms",
    "Use",
    "WindowName",
    "build_quote",
    "build_terms",
    "find_end",
    "find_starts",
]
