"""What reasons that FineTuneJobs share with other kinds mean for a job, where that is something else.

The table of `reasons` speaks to whoever looks after a model or a pool. A job has its sources, storage and memory in
other fields, much of it cannot be changed once it exists, and what it did so far is not lost. An empty cause is the one
of the table. The steps of a model ask for no accelerator, so that it needs words of its own, too. A pool whose replicas
fetch for themselves is told whose fields are meant.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from llmos.api.reasons import REASONS, Reason, ReasonInfo

KIND: Final = "FineTuneJob"
_GO_ON: Final = "the job goes on from its last checkpoint"
_STARTS: Final = "the attempt starts by itself when there is room"

_WORDS: Final[dict[Reason, tuple[str, str]]] = {
    Reason.InvalidSource: (
        "",
        "Make a new FineTuneJob with a dataset.source.uri (or evaluate.suites[].source.uri) as the documentation of "
        "sources shows it: those of a job cannot be changed.",
    ),
    Reason.SourceNotFound: (
        "A source answered that there is no such dataset, model, revision or file.",
        "Put the files where the message says, and the next attempt finds them; or make a new FineTuneJob with another "
        "dataset.source.uri. What is private may also look like this without credentials (dataset.source.secretRef).",
    ),
    Reason.AccessDenied: (
        "A source refused access (401 or 403): it is private or gated.",
        "Accept its terms there, and put a valid token into the Secret that dataset.source.secretRef names, or for the "
        "base model spec.source.secretRef of its LLMModel. The next attempt reads it.",
    ),
    Reason.RateLimited: (
        "",
        "LLMOS tries again with growing pauses; a token in the Secret that dataset.source.secretRef names usually "
        "raises the limit.",
    ),
    Reason.CertificateNotTrusted: (
        "",
        "If the authority is your own, put its certificate and all others to trust into the key ca.crt of the "
        "ConfigMap that the chart's fetch.caBundleConfigMap names, in the job's namespace; if not, mend the source.",
    ),
    Reason.DiskFull: (
        "The job's claim is full.",
        "Give it more room where its StorageClass can (kubectl edit pvc JOB-work, resources.requests.storage), or "
        f"lower checkpoint.keep; then raise retries.user, and {_GO_ON}. Else make a new FineTuneJob with a larger "
        "checkpoint.storage.size.",
    ),
    Reason.UnknownArchitecture: (
        "The trainer or the planner does not know the base model's architecture, or it needs code of the model's own.",
        "Make a new FineTuneJob with another base model, or set trainer.image to a newer one.",
    ),
    Reason.FetchFailed: (
        "Fetching the dataset or the base model ended for a reason that has no name of its own.",
        "Read the message and the log of the pod that it names; LLMOS tries again with growing pauses.",
    ),
    Reason.SecretNotFound: (
        "A Secret that dataset.source.secretRef, a suite or the base model names does not exist.",
        "Create it in the job's namespace under that name, for example with: kubectl create secret generic NAME "
        "--from-literal=HF_TOKEN=... Nothing else is needed: the pod, or the next attempt, finds it.",
    ),
    Reason.ClaimNotBound: (
        "The job's PersistentVolumeClaim finds no volume that its pods can reach.",
        "Check that checkpoint.storage.storageClassName exists and has a provisioner (kubectl get storageclass), and "
        "that the nodes of the accelerator class can mount its volumes. To change it, make a new FineTuneJob.",
    ),
    Reason.InvalidSpec: ("", "Correct the field that the message names, in a new FineTuneJob if it cannot be changed."),
    Reason.ModelNotFound: (
        "The LLMModel of the base model, or of the teacher, does not exist.",
        "Create it in the job's namespace, and the job goes on; its name in the job cannot be changed, so for another "
        "one make a new FineTuneJob.",
    ),
    Reason.ModelNotReady: (
        "The LLMModel of the base model, or of the teacher, is not ready yet.",
        "Look at the model: kubectl describe llmmodel NAME. The job begins by itself when it is ready.",
    ),
    Reason.DoesNotFit: (
        "Training does not fit the memory of the accelerator.",
        "Do what the message says, in a new FineTuneJob where it names a field that cannot be changed.",
    ),
    Reason.Unschedulable: (
        "The scheduler finds no node for a pod of the job.",
        "Free what the message says is missing, add nodes, or lower trainer.cpu or trainer.memory; "
        "the pod starts by itself when there is room.",
    ),
    Reason.ImagePullFailed: (
        "",
        "Check trainer.image, if the job names one, and the pull secrets of the installation (imagePullSecrets in the "
        "chart).",
    ),
    Reason.OutOfMemory: (
        "The attempt ran out of memory.",
        "If the kernel killed container train at its limit, raise trainer.memory, then retries.user, and "
        f"{_GO_ON}. If it was the accelerator's memory, make a new FineTuneJob with a smaller "
        "hyperparameters.maxLength, with method.tuning lora, or on a class with more. If it was container prepare, "
        "make one without dataset.clean.nearDedup or with less data.",
    ),
    Reason.ForbiddenByPolicy: (
        "The API server refused something that the job is made of: an admission policy, a quota or Pod Security "
        "forbids it.",
        "The message names the policy; change it, or the namespace. LLMOS tries again.",
    ),
    Reason.WaitsForRoom: ("", f"The message says who holds them and what would help; {_STARTS}."),
    Reason.QuotaExceeded: (
        "",
        "Wait until the tenant's other pools and jobs, or those who borrow, leave some; or ask an administrator to "
        f"raise the Tenant's quota: {_STARTS}.",
    ),
    Reason.NotBoundInTime: (
        "The pods of the attempt did not all find their nodes in time; it was withdrawn as a whole.",
        "Look at the events of its pods for what the scheduler missed; LLMOS tries again with growing pauses.",
    ),
    Reason.WaitsForKueue: (
        "Kueue has not admitted the attempt.",
        "kubectl describe workloads shows more; the attempt starts by itself when Kueue admits it.",
    ),
    Reason.QueueNotFound: (
        "There is no LocalQueue of that name in the job's namespace.",
        "Create it, or name another one: the label kueue.x-k8s.io/queue-name of the job, spec.kueue.queueName of the "
        "Tenant, or quota.kueue.queueName in the chart.",
    ),
    Reason.NotManagedByKueue: (
        "Kueue's webhook did not take the pods of the attempt over, so nobody will lift their gate.",
        "Have Kueue's configuration enable the integration pod and its managedJobsNamespaceSelector select the "
        "namespace; then delete the pods that wait, and LLMOS makes them anew.",
    ),
    Reason.Admitted: ("The attempt holds its accelerators.", ""),
    Reason.Starting: ("The attempt starts.", ""),
}


_MODEL_WORDS: Final[dict[Reason, tuple[str, str]]] = {
    Reason.Unschedulable: (
        "The scheduler finds no node for the step that inspects or fetches the model.",
        "Free what the message says is missing, or add nodes; the step asks for no accelerator, and starts by itself "
        "when there is room.",
    ),
}
_BY_KIND: Final = {KIND: _WORDS, "LLMModel": _MODEL_WORDS}


_FIELD_OF_MODEL: Final = re.compile(r"(?<!LLMModel's )\bspec\.(?=(?:source|storage|format|trustRemoteCode)\b)")


def name_model_fields(text: str) -> str:
    """Return words for whoever looks at a pool, which has no such fields: they are its model's."""
    return _FIELD_OF_MODEL.sub("the LLMModel's spec.", text)


def find_info(reason: Reason, kind: str) -> ReasonInfo:
    """Return what a reason means on an object of this kind, and what to do."""
    info, words = REASONS[reason], _BY_KIND.get(kind, {})
    if kind == "InferencePool":
        return replace(info, cause=name_model_fields(info.cause), remedy=name_model_fields(info.remedy))
    if reason not in words:
        return info
    cause, remedy = words[reason]
    return replace(info, cause=cause or info.cause, remedy=remedy or info.remedy)


def say_for_job(reason: Reason, message: str) -> str:
    """Return a message that was put together from the table, in the words that fit a job. Others stay as they are.

    A fetch step for a dataset has already cut `spec.` off the fields that a remedy names.
    """
    return say_for(KIND, reason, message)


def say_for(kind: str, reason: Reason, message: str) -> str:
    """Return a message that was put together from the table, in the words that fit a kind. Others stay as they are."""
    general, ours = REASONS[reason], find_info(reason, kind)
    if message.startswith(general.cause):
        message = ours.cause + message.removeprefix(general.cause)
    for remedy in (general.remedy, general.remedy.replace("spec.source.", "source.")):
        if remedy and remedy != ours.remedy and remedy in message:
            return message.replace(remedy, ours.remedy)
    return message
