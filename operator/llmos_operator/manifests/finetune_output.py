"""The LLMModel of a FineTuneJob's result: where its files are, what it is an adapter of, and which pools load it."""

from __future__ import annotations

from collections.abc import Sequence

from llmos.api import CanaryStatus, FineTuneJob
from llmos.api.names import ANNOTATION_JUDGED_BY, API_VERSION, LABEL_JOB
from llmos_operator.manifests.common import Manifest, build_metadata
from llmos_operator.manifests.finetune import compute_work_claim_name
from llmos_operator.planning.finetune_canary import are_final, build_replacements, list_attached
from llmos_operator.planning.finetune_places import find_output_uri


def build_output_model(job: FineTuneJob, canaries: Sequence[CanaryStatus] | None = None) -> Manifest:
    """Return the LLMModel of the result. The job does not own it: it is there to stay.

    Args:
        job: whose result it is.
        canaries: where it takes the place of others; None if the job knows of no such place.
    """
    output = job.spec.output
    storage = job.spec.checkpoint.storage
    spec: Manifest = {"source": {"uri": find_output_uri(job, compute_work_claim_name(job), job.status.best_trial)}}
    if storage.secret_ref is not None and not storage.has_claim:
        spec["source"]["secretRef"] = {"name": storage.secret_ref.name}
    if not storage.has_claim and not job.spec.makes_adapter:
        # Each pod that serves it fetches it into its own space, in which the job had room for it and more.
        spec["storage"] = {"size": storage.size}
    spec["origin"] = _build_origin(job)
    if job.spec.makes_adapter:
        spec["adapter"] = {"baseModelRef": {"name": job.spec.base_model_ref.name}}
        if canaries is not None:
            spec["adapter"]["attachTo"] = [each.pool for each in list_attached(job, canaries)]
            spec["adapter"]["replaces"] = build_replacements(canaries)
        elif output.attach_to:
            spec["adapter"]["attachTo"] = [each.pool for each in output.attach_to]
    is_judged = canaries is not None and not are_final(canaries)
    metadata = build_metadata(
        output.name,
        job.metadata.namespace or "",
        labels={LABEL_JOB: job.metadata.name},
        annotations={ANNOTATION_JUDGED_BY: job.metadata.name} if is_judged else None,
    )
    return {"apiVersion": API_VERSION, "kind": "LLMModel", "metadata": metadata, "spec": spec}


def _build_origin(job: FineTuneJob) -> Manifest:
    report = job.status.dataset_report
    digests = {"baseDigest": job.status.base_digest, "datasetDigest": report.digest if report else ""}
    return {"job": job.metadata.name, **{name: digest for name, digest in digests.items() if digest}}


def build_bare_model(model: Manifest) -> Manifest:
    """Return the LLMModel of a result without what may be taken back: the places that it takes, and its judge."""
    spec = model["spec"]
    if "adapter" not in spec:
        return model
    metadata = {name: value for name, value in model["metadata"].items() if name != "annotations"}
    adapter = {"baseModelRef": spec["adapter"]["baseModelRef"]}
    return {**model, "metadata": metadata, "spec": {**spec, "adapter": adapter}}


def keep_origin(model: Manifest, existing: Manifest) -> Manifest:
    """Return the LLMModel of a result with the origin that it has: it is written once, and then its owner's."""
    origin = (existing.get("spec") or {}).get("origin")
    spec = {name: value for name, value in model["spec"].items() if name != "origin"}
    return {**model, "spec": {**spec, **({"origin": origin} if origin else {})}}
