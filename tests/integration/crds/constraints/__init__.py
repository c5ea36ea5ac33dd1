"""Every constraint that a spec has, with a value at its edge that is accepted and one beyond that is refused.

One file for each kind, and one for scaling, which has as many as all the rest of a pool.
"""

from typing import Final

from tests.integration.crds.constraints.accelerator import CLASS_CASES
from tests.integration.crds.constraints.case import SMALLEST, Case
from tests.integration.crds.constraints.finetune import JOB_CASES
from tests.integration.crds.constraints.model import MODEL_CASES
from tests.integration.crds.constraints.pool import HOLD_CASES, POOL_CASES
from tests.integration.crds.constraints.scaling import SCALING_CASES
from tests.integration.crds.constraints.tenant import TENANT_CASES

__all__ = ["CASES", "SMALLEST", "Case"]

CASES: Final = [*MODEL_CASES, *POOL_CASES, *SCALING_CASES, *HOLD_CASES, *CLASS_CASES, *TENANT_CASES, *JOB_CASES]
