"""manifest.json of the prepared dataset: written last and at once, so that what has one is complete.

`inputs` stands for what the job says about the examples. A later run with the same inputs and the same base model has
nothing to do, even where a newer version of LLMOS would make other examples of the same lines.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from llmos.api import DatasetReport
from llmos.api.finetunejob import FineTuneJobSpec
from llmos.api.finetunejob_evaluation import EvaluationSuite

MANIFEST_NAME: Final = "manifest.json"


class DatasetManifest(BaseModel):
    """What lies in the folder."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    digest: str
    base_digest: str
    inputs: str
    report: DatasetReport
    labels: Annotated[tuple[str, ...], Field(max_length=1000)] = ()
    files: Annotated[dict[str, str], Field(max_length=1000)]

    def write(self, folder: Path) -> None:
        """Write the manifest into the folder."""
        part = folder / f".{MANIFEST_NAME}.part"
        with part.open("w") as stream:
            stream.write(self.model_dump_json(by_alias=True, indent=1) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(folder / MANIFEST_NAME)
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def read_dataset_manifest(folder: Path) -> DatasetManifest | None:
    """Read the manifest; None where the dataset is not complete."""
    try:
        return DatasetManifest.model_validate_json((folder / MANIFEST_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def _say_format(suite: EvaluationSuite) -> str:
    return f" {suite.format.model_dump_json(by_alias=True, exclude_defaults=True)}" if suite.format else ""


def compute_inputs(spec: FineTuneJobSpec) -> str:
    """Return a digest of what the job says about the examples; fields that a newer API adds do not change it."""
    suites = "\n".join(
        f"{suite.name} {suite.source and suite.source.uri} {suite.limit}{_say_format(suite)}"
        for suite in spec.evaluate.suites
    )
    dataset = spec.dataset.model_dump_json(by_alias=True, exclude_defaults=True, exclude={"source": {"secret_ref"}})
    length = str(spec.trainer.hyperparameters.max_length)
    return hashlib.sha256("\0".join((dataset, length, suites)).encode()).hexdigest()
