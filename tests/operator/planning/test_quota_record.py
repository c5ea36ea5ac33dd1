"""Records of the ledger that somebody else wrote into an annotation."""

from __future__ import annotations

import tracemalloc

from llmos.api.names import ANNOTATION_QUOTA
from llmos_operator.planning.quota_record import QuotaRecord, read_record


def test_what_somebody_else_wrote_counts_as_nothing_and_is_not_kept() -> None:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(300):
        record = read_record({"annotations": {ANNOTATION_QUOTA: f"{number}" + "x" * 250_000}})
        assert record == QuotaRecord()
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert kept < 2**20
