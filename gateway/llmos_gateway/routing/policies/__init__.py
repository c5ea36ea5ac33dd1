"""The routing policies of an InferencePool, by the name in `spec.routing.policy`; each stands in a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from llmos_gateway.routing.candidates import Policy
from llmos_gateway.routing.policies.auto import score_auto
from llmos_gateway.routing.policies.least_load import score_least_load
from llmos_gateway.routing.policies.prefix import score_prefix
from llmos_gateway.routing.policies.round_robin import score_round_robin

__all__ = ["POLICIES"]

POLICIES: Final[Mapping[str, Policy]] = {
    "auto": score_auto,
    "least-load": score_least_load,
    "prefix": score_prefix,
    "round-robin": score_round_robin,
}
