"""What an error of the object store means for a job, in words with a remedy."""

from __future__ import annotations

from typing import Final

from llmos.api import Reason
from llmos_workers.fetch.errors import FetchError

_REMEDIES: Final = {
    Reason.AccessDenied: "Put credentials that may list, read, write and delete there into the Secret that "
    "checkpoint.storage.secretRef names; the next attempt reads it.",
    Reason.SourceNotFound: "Create the bucket; or make a new FineTuneJob with another checkpoint.storage.uri.",
    Reason.InvalidSource: "Correct the AWS_* or GOOGLE_* values of the Secret that checkpoint.storage.secretRef names, "
    "or make a new FineTuneJob with a checkpoint.storage.uri such as s3://bucket/path.",
    Reason.CertificateNotTrusted: "Put the store's certificate authority into the ConfigMap that the chart's "
    "fetch.caBundleConfigMap names.",
}
_LATER: Final = "LLMOS tries again with growing pauses."


def explain(error: FetchError, uri: str) -> str:
    """Return cause and remedy; what may pass by itself needs nobody."""
    return f"The object store {uri}: {error.cause.rstrip('.')}. {_REMEDIES.get(error.reason, _LATER)}"
