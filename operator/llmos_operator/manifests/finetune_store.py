"""What a FineTuneJob's pods have for an object store (`checkpoint.storage.uri`): containers, credentials, volumes.

    train pod     init container `restore` (of rank 0) brings what the store has and the volume lacks; the trainer
                  itself puts checkpoints and result
    prepare pod   only without a claim: `prepare` is an init container then, and container `keep` puts the dataset
    tidy pod      removes what the job put, when the job is deleted (`finetune_tidy`)

Only these see the Secret. The one that reads strangers' data (`prepare`) and those that fetch do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llmos.api import FineTuneJob, ModelSource
from llmos.api.names import CONTAINER_KEEP, CONTAINER_RESTORE, CONTAINER_TIDY, WORK_DIR
from llmos_operator.manifests.common import Manifest, build_env
from llmos_operator.manifests.steps import (
    CA_DIR,
    SECRET_DIR,
    build_ca_volumes,
    build_source_container,
    build_source_volumes,
)
from llmos_operator.planning.finetune_places import compute_store_uri
from llmos_operator.planning.settings import Settings

_PREFIX: Final = "store-"


def build_work_volume(job: FineTuneJob, claim_name: str) -> Manifest:
    """Return the volume that is mounted at `WORK_DIR`."""
    storage = job.spec.checkpoint.storage
    if storage.has_claim:
        return {"name": "work", "persistentVolumeClaim": {"claimName": claim_name}}
    return {"name": "work", "emptyDir": {"sizeLimit": storage.size}}


def build_store_volumes(job: FineTuneJob, settings: Settings) -> list[Manifest]:
    """Return the volumes of credentials and authorities; none where nothing is kept in an object store."""
    if not compute_store_uri(job):
        return []
    return [*build_ca_volumes(settings), *build_source_volumes(_source(job), _PREFIX)]


def build_keep_container(job: FineTuneJob, settings: Settings) -> Manifest:
    """Return the container that puts the prepared dataset."""
    uri = f"{compute_store_uri(job)}/dataset"
    command = ["python", "-m", "llmos_workers.offsite", "put", "--uri", uri, "--folder", f"{WORK_DIR}/dataset"]
    return _build_container(CONTAINER_KEEP, command, job, settings)


def build_restore_container(job: FineTuneJob, number: int, settings: Settings) -> Manifest:
    """Return the init container of attempt `number`."""
    place = ("--uri", compute_store_uri(job), "--work", WORK_DIR)
    command = ["python", "-m", "llmos_workers.offsite", "restore", *place, "--attempt", str(number)]
    if job.spec.checkpoint.storage.has_claim:
        command.append("--has-claim")
    if not job.spec.checkpoint.keep_best:
        command.append("--without-best")
    return _build_container(CONTAINER_RESTORE, command, job, settings)


def build_remove_container(job: FineTuneJob, needed: Sequence[str], settings: Settings) -> Manifest:
    """Return the container that removes what the job put, but for the folders that are `needed`."""
    command = ["python", "-m", "llmos_workers.offsite", "remove", "--uri", compute_store_uri(job)]
    command += [f"--keep={folder}" for folder in needed]
    return build_source_container(CONTAINER_TIDY, settings.worker_lite_image, command, _source(job), settings, _PREFIX)


def give_store(container: Manifest, job: FineTuneJob, settings: Settings) -> None:
    """Let the trainer's container read and write the object store."""
    command = container["command"]
    command += ["--store-uri", compute_store_uri(job)]
    known = {each["name"] for each in container["env"]}
    env = settings.fetch_env
    if settings.ca_bundle_config_map:
        container["volumeMounts"].append({"name": "ca", "mountPath": CA_DIR, "readOnly": True})
        env = (*env, ("LLMOS_CA_BUNDLE", f"{CA_DIR}/ca.crt"))
    container["env"] += build_env(tuple((name, value) for name, value in env if name not in known))
    secret = job.spec.checkpoint.storage.secret_ref
    if secret is not None:
        container["envFrom"] = [{"secretRef": {"name": secret.name}}]
        mount = {"name": f"{_PREFIX}credentials", "mountPath": SECRET_DIR, "readOnly": True}
        container["volumeMounts"].append(mount)


def _source(job: FineTuneJob) -> ModelSource:
    return ModelSource(uri=compute_store_uri(job), secret_ref=job.spec.checkpoint.storage.secret_ref)


def _build_container(name: str, command: list[str], job: FineTuneJob, settings: Settings) -> Manifest:
    container = build_source_container(name, settings.worker_lite_image, command, _source(job), settings, _PREFIX)
    container["volumeMounts"].append({"name": "work", "mountPath": WORK_DIR})
    return container
