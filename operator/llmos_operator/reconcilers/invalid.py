"""An object that the operator cannot read, though the API server took it: say so on the object itself."""

from __future__ import annotations

from pydantic import ConfigDict, ValidationError

from llmos.api import Condition, Reason
from llmos.api.meta import ApiModel, Conditions
from llmos.api.names import CONDITION_READY
from llmos_operator.kube.client import Object
from llmos_operator.planning.conditions import build_conditions, is_false
from llmos_operator.planning.failures import describe, describe_fields
from llmos_operator.reconcilers.base import Context
from llmos_operator.reconcilers.writing import apply_status_if_changed


class _InvalidStatus(ApiModel):
    """The status as it was, but for the two fields that are known: what runs goes on, and its numbers still hold."""

    model_config = ConfigDict(extra="allow")

    observed_generation: int
    conditions: Conditions


async def apply_invalid_status(context: Context, current: Object, error: ValidationError) -> None:
    """Write a Ready condition that names the fields; the rest of the status stays."""
    fact = is_false(CONDITION_READY, Reason.InvalidSpec, describe(Reason.InvalidSpec, describe_fields(error)))
    before = current.get("status") or {}
    previous = [Condition.model_validate(c) for c in before.get("conditions", ())]
    generation = current["metadata"].get("generation", 0)
    others = [condition for condition in previous if condition.type != CONDITION_READY]
    conditions = (*others, *build_conditions((fact,), previous, generation, context.now()))
    status = _InvalidStatus.model_validate({**before, "observedGeneration": generation, "conditions": conditions})
    await apply_status_if_changed(context.kube, current, status, context.now())
