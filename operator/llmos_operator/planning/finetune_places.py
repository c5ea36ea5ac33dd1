"""Where a FineTuneJob's files are, as others find them. Pure."""

from __future__ import annotations

from llmos.api import FineTuneJob
from llmos_operator.planning.finetune_search import find_output_folder


def compute_store_uri(job: FineTuneJob) -> str:
    """Return the job's folder in its object store; empty where it has none."""
    uri = job.spec.checkpoint.storage.uri
    return f"{uri.rstrip('/')}/{job.metadata.namespace}/{job.metadata.name}" if uri else ""


def find_output_uri(job: FineTuneJob, claim_name: str, trial: int | None) -> str:
    """Return where the result is: in the claim where there is one, else in the object store; empty = nowhere."""
    if not job.spec.checkpoint.storage.has_claim:
        return f"{compute_store_uri(job)}/{find_output_folder(trial)}"
    return f"pvc://{claim_name}/{find_output_folder(trial)}" if claim_name else ""
