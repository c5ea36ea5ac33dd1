"""Which reconcile serves which kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from llmos_operator.reconcilers.accelerator import reconcile_accelerators
from llmos_operator.reconcilers.base import Context, Key, Result
from llmos_operator.reconcilers.finetune import reconcile_finetune
from llmos_operator.reconcilers.model import reconcile_model
from llmos_operator.reconcilers.pool import reconcile_pool
from llmos_operator.reconcilers.quota import reconcile_quota
from llmos_operator.reconcilers.tenant import reconcile_tenant

RECONCILERS: Final[dict[str, Callable[[Context, Key], Awaitable[Result]]]] = {
    "LLMModel": reconcile_model,
    "InferencePool": reconcile_pool,
    "FineTuneJob": reconcile_finetune,
    "AcceleratorClass": reconcile_accelerators,
    "Tenant": reconcile_tenant,
    "Quota": reconcile_quota,
}
