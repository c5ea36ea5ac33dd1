"""How often a FineTuneJob saves all that training needs to go on, and where: a claim, an object store, or both."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmos.api.meta import ApiModel, LocalReference, Name, Quantity, Rule


class CheckpointStorage(ApiModel):
    """Where the prepared dataset, the checkpoints and the result are: in a claim, in an object store, or in both."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.mode) || self.mode == 'claim' || has(self.uri)",
            "what is in a pod's own space goes with it: name an object store in uri, or set mode to claim",
        ),
        Rule("!has(self.secretRef) || has(self.uri)", "secretRef is for an object store: name one in uri"),
    )

    mode: Literal["claim", "ephemeral"] | None = None
    """claim: a PersistentVolumeClaim, which is there as long as the job or its model. ephemeral: the own space of each
    pod; what is to stay is in uri. Absent = ephemeral with uri, else claim."""
    uri: (
        Annotated[
            str,
            Field(max_length=512),
            Rule(
                "self.matches('^(s3|gs)://[a-z0-9][a-z0-9._-]{1,221}[a-z0-9]"
                "(/[.]{0,2}[A-Za-z0-9!_*()=-][A-Za-z0-9!_.*()=-]*)*/?$')",
                "the URI must be s3://bucket/path or gs://bucket/path, without credentials, spaces, query, . and ..",
            ),
        ]
        | None
    ) = None
    """Folder in an object store, s3://bucket/path or gs://bucket/path. Each complete checkpoint and the result are put
    below it, in NAMESPACE/JOB, while training goes on; an attempt goes on from the newest complete one of both places.
    What the job put there stays when it is deleted, unless checkpoint.keepWhenDeleted is false."""
    secret_ref: LocalReference | None = None
    """Secret whose keys become environment variables of the containers that read and write uri, for example
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL."""
    size: Quantity = "20Gi"
    """Size of the claim, or of each pod's own space."""
    storage_class_name: Name | None = None
    """StorageClass of the claim; empty means the cluster's default."""
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] = "ReadWriteOnce"
    """ReadWriteMany lets pods on several nodes share the claim, where the StorageClass can do it."""

    @property
    def has_claim(self) -> bool:
        """Whether there is a claim."""
        return (self.mode or ("ephemeral" if self.uri else "claim")) == "claim"


class OnPreempt(ApiModel):
    """What happens when the accelerators are wanted back."""

    deadline_seconds: Annotated[int, Field(ge=1, le=86400)] = 120
    """Longest wait for a checkpoint; what was learned since the last one is then lost, and learned again."""


class Checkpointing(ApiModel):
    """How often everything that training needs to go on is saved."""

    every_steps: Annotated[int, Field(ge=1, le=100000000)] = 200
    """Save after so many optimizer steps,"""
    every_minutes: Annotated[int, Field(ge=1, le=1440)] = 15
    """and after so many minutes, whichever comes first. A run that is shorter than both is saved at its best
    evaluations and at its end."""
    keep: Annotated[int, Field(ge=1, le=100)] = 3
    """Newest checkpoints that are kept."""
    keep_best: bool = True
    """Keep the one with the best value of earlyStopping.metric, too, and make the result from it."""
    on_preempt: OnPreempt = OnPreempt()
    """What happens when the accelerators are wanted back."""
    storage: CheckpointStorage = CheckpointStorage()
    """Where they are."""
    keep_when_deleted: bool = True
    """Keep what is in storage.uri when the job is deleted, so that a job of the same name goes on from it. If false it
    is removed, but for results that an LLMModel reads from there. It may be changed at any time. What is in a claim is
    there as long as the job or its model."""
