"""The result: written aside, compared with the base model, published at once.

    output.tmp/ -> adapter or model -> asked, beside the base model -> llmos.json -> manifest.json -> rename to output/

It is made from the best checkpoint where one is kept, else from the last. An adapter is what peft saves and vLLM
loads; a whole model, fully tuned or merged, is what transformers saves, in the base model's type, with the tokenizer
and its chat template. It is put together from the checkpoint in the memory of the host, whatever training ran on.
What is asked is what was saved, not what it was made from: rounding to the base model's type is part of the result.

Rank 0 makes it alone, unless each rank holds a share of the model: then all of them ask, the same at the same time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import ValidationError
from safetensors import SafetensorError
from transformers import AutoConfig

from llmos.api import FineTuneJob, MetricComparison
from llmos_workers.train.checkpoints import Checkpoint, Lineage, MadeFrom, check_lineage
from llmos_workers.train.dataset import Examples, PreparedDataset
from llmos_workers.train.embedding import write_pooling
from llmos_workers.train.errors import LossNotFiniteError, NotPreparedError
from llmos_workers.train.evaluation import Asked, Asking
from llmos_workers.train.files import (
    MANIFEST,
    TEMPORARY,
    Entry,
    FileEntry,
    describe_file,
    find_damage,
    publish,
    sync,
    write_text,
)
from llmos_workers.train.gang import Gang
from llmos_workers.train.heads import Head
from llmos_workers.train.host_memory import return_freed_memory
from llmos_workers.train.merging import merge_adapter
from llmos_workers.train.model import load_model, load_tokenizer
from llmos_workers.train.objective import Objective
from llmos_workers.train.sharding import release
from llmos_workers.train.snapshot import read_weights, restore_weights
from llmos_workers.train.writer import build_write_error

log = logging.getLogger(__name__)

FACTS: Final = "llmos.json"
Kind = Literal["adapter", "model"]


class ResultFacts(MadeFrom):
    """llmos.json: where the result comes from and how good it is."""

    job: str
    base_model: str
    kind: Kind
    step: int
    metrics: tuple[MetricComparison, ...]


class ResultManifest(Entry):
    """manifest.json, written last. `report` is what the attempt that made it said about itself."""

    format_version: int = 1
    digest: str
    kind: Kind
    files: dict[str, FileEntry]
    report: dict[str, Any]


@dataclass(frozen=True)
class ResultMaker:
    """What a result is made of."""

    job: FineTuneJob
    base: Path
    folder: Path
    dataset: PreparedDataset
    lineage: Lineage
    objective: Objective
    head: Head | None
    asking: Asking
    gang: Gang
    """Who makes it together."""

    @property
    def kind(self) -> Kind:
        """What the result is."""
        return "adapter" if self.job.spec.makes_adapter else "model"

    def make(self, model: Any, checkpoint: Checkpoint, report: Mapping[str, Any]) -> dict[str, Any]:
        """Make it from the trained model and return what the termination message says about it.

        Raises:
            Stopped: from `asking.tick`.
            DiskFullError: there is no room.
            LossNotFiniteError: a metric is no number.
        """
        temporary = self.folder.with_name(self.folder.name + TEMPORARY)
        model = self._prepare(model, checkpoint)
        if self.gang.is_leader:
            with translate_write_errors():
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
                self._save(model, checkpoint, temporary)
            return_freed_memory()
        self.gang.decide(None)  # the files are there
        metrics = self._compare(model if self.kind == "adapter" else self._load(temporary))
        self.gang.part()
        if not self.gang.is_leader:
            return {}
        with translate_write_errors():
            self._publish(temporary, checkpoint.manifest.step, metrics, report)
        log.info("the result of step %d is complete", checkpoint.manifest.step)
        return read_outcome(self.folder, self.lineage) or {}

    def _prepare(self, model: Any, checkpoint: Checkpoint) -> Any:
        if self.kind == "adapter":
            restore_weights(model, checkpoint.folder)
            return model.eval()
        release(model)  # its memory is needed for the whole one
        return None

    def _save(self, model: Any, checkpoint: Checkpoint, folder: Path) -> None:
        if self.kind == "adapter":
            save_adapter(model, folder, self.job.spec.base_model_ref.name, read_weights(checkpoint.folder))
            return
        whole = self._build_whole(checkpoint)
        whole.save_pretrained(str(folder))
        load_tokenizer(self.base).save_pretrained(str(folder))
        if self.lineage.settings.task == "embedding":
            write_pooling(folder, whole.config.get_text_config().hidden_size, self.lineage.settings.max_length)

    def _build_whole(self, checkpoint: Checkpoint) -> Any:
        """The model in the base model's type, in the memory of the host."""
        dtype = read_dtype(self.base)
        if self.lineage.settings.tuning == "lora":
            return merge_adapter(self.base, self.lineage.settings, checkpoint.folder, self.head).to(dtype)
        whole = load_model(self.base, dtype, torch.device("cpu"), self.head)
        restore_weights(whole, checkpoint.folder)
        return whole

    def _load(self, folder: Path) -> Any:
        """A whole model, or this rank's share of it, ready to be asked."""
        head = self.head
        model = self.gang.load(lambda on: load_model(folder, on.compute, on.device, head), self.asking.device)
        return model.eval()

    def _compare(self, model: Any) -> tuple[MetricComparison, ...]:
        result = self._ask(model)
        for name in (name for name, asked in result.items() if asked.value is None):
            log.warning("%s is left out: its examples have nothing to judge by", name)
        with self._turn_into_base(model) as base:
            of_base = self._ask(base)
        teacher = self.objective.teacher
        of_teacher = self._ask(teacher) if teacher is not None else {}
        return tuple(
            MetricComparison(
                name=name,
                base=_known(of_base[name]),
                result=_known(asked),
                teacher=_known(of_teacher[name]) if of_teacher else None,
                examples=asked.examples,
            )
            for name, asked in result.items()
            if asked.value is not None
        )

    def _ask(self, model: Any) -> dict[str, Asked]:
        with self.asking.activity.by_effort(False):
            return self._ask_all(model)

    def _ask_all(self, model: Any) -> dict[str, Asked]:
        held_out = self.dataset.held_out
        asked: dict[str, Asked] = {}
        if held_out is not None:
            asked = self._ask_examples(model, "eval", held_out, range(len(held_out)), self.objective.metrics)
        for suite in self.job.spec.evaluate.suites:
            examples = self._open_suite(suite.name) if suite.source is not None else held_out
            chosen = range(min(suite.limit, len(examples) if examples else 0))
            if examples is not None:
                asked |= self._ask_examples(model, suite.name, examples, chosen, suite.metrics)
        return asked

    def _ask_examples(
        self, model: Any, name: str, examples: Examples, chosen: Sequence[int], metrics: Sequence[str]
    ) -> dict[str, Asked]:
        asked = self.objective.ask(model, examples, chosen, metrics, self.asking)
        return {f"{name}_{metric}": value for metric, value in asked.items()}

    def _open_suite(self, name: str) -> Examples:
        examples = self.dataset.open(f"suite-{name}")
        if examples is None:
            raise NotPreparedError(
                f"The evaluation suite {name} was not prepared, or has no examples",
                "Remove it from spec.evaluate.suites and raise retries.user: the job goes on from its last checkpoint. "
                "Suites with a source must be there when the dataset is prepared.",
            )
        return examples

    @contextmanager
    def _turn_into_base(self, model: Any) -> Iterator[Any]:
        if self.kind == "adapter":
            adapter: AbstractContextManager[None] = model.disable_adapter()
            with adapter:
                yield model
            return
        release(model)  # its memory is needed for the other one
        yield self._load(self.base)

    def _publish(
        self, temporary: Path, step: int, metrics: tuple[MetricComparison, ...], report: Mapping[str, Any]
    ) -> None:
        facts = ResultFacts(
            dataset_digest=self.lineage.dataset_digest,
            base_digest=self.lineage.base_digest,
            settings=self.lineage.settings.facts,
            job=f"{self.job.metadata.namespace}/{self.job.metadata.name}",
            base_model=self.job.spec.base_model_ref.name,
            kind=self.kind,
            step=step,
            metrics=metrics,
        )
        write_text(temporary / FACTS, facts.model_dump_json(by_alias=True, indent=1) + "\n")
        files = _finish_files(temporary)
        manifest = ResultManifest(digest=compute_digest(files), kind=self.kind, files=files, report=dict(report))
        write_text(temporary / MANIFEST, manifest.model_dump_json(by_alias=True, indent=1) + "\n")
        publish(temporary, self.folder)


def save_adapter(model: Any, folder: Path, base_name: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Write an adapter as peft does, but the same bytes each time, and with no path of this pod in it."""
    # "auto" would ask a hub on the network for the base model's vocabulary.
    model.save_pretrained(str(folder), save_embedding_layers=False, state_dict=dict(weights))
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = base_name
    config["target_modules"], config["exclude_modules"] = find_target_modules(model), None
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def find_target_modules(model: Any) -> list[str]:
    """Names of the modules with matrices: the last part of each, as people write them, where that says the same."""
    modules = dict(model.get_base_model().named_modules())
    adapted = {name for name, module in modules.items() if isinstance(module, BaseTunerLayer)}
    leaves = {_leaf(name) for name in adapted}
    others = {name for name in modules if _leaf(name) in leaves and name not in adapted}
    return sorted(adapted if others else leaves)


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def read_dtype(base: Path) -> torch.dtype:
    """The type of the base model's weights."""
    dtype = AutoConfig.from_pretrained(str(base)).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def read_outcome(folder: Path, lineage: Lineage) -> dict[str, Any] | None:
    """What the termination message says about a result that is there and complete; None where there is none.

    Raises:
        CheckpointMismatchError: it was made from something else.
    """
    try:
        manifest = ResultManifest.model_validate_json((folder / MANIFEST).read_bytes())
        facts = ResultFacts.model_validate_json((folder / FACTS).read_bytes())
    except (OSError, ValidationError):
        return None
    check_lineage("The result", facts, lineage)
    if damage := find_damage(folder, manifest.files):
        log.warning("making the result again, which is damaged: %s", damage)
        return None
    return {
        **manifest.report,
        "evaluation": {"metrics": [metric.to_manifest() for metric in facts.metrics]},
        "output": {"digest": manifest.digest, "kind": manifest.kind},
    }


def compute_digest(files: Mapping[str, FileEntry]) -> str:
    """Sha256 over the names, sizes and digests of files."""
    digest = hashlib.sha256()
    for name, entry in sorted(files.items()):
        digest.update(f"{name}\0{entry.size_bytes}\0sha256:{entry.sha256}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _finish_files(folder: Path) -> dict[str, FileEntry]:
    """Let any user read, as the pods that serve run under another one; sync and describe."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        path.chmod(0o644)
        sync(path)
    return {str(path.relative_to(folder)): describe_file(path) for path in paths}


def _known(asked: Asked) -> float:
    value = math.nan if asked.value is None else asked.value
    if not math.isfinite(value):
        raise LossNotFiniteError(
            f"A metric of the evaluation is {value}",
            "See that the base model works with trainer.precision, and that the examples have tokens to learn.",
        )
    return value


@contextmanager
def translate_write_errors() -> Iterator[None]:
    """Turn what Python and safetensors say about a write into our errors."""
    try:
        yield
    except OSError as error:
        raise build_write_error(error, "The result") from error
    except SafetensorError as error:
        raise build_write_error(_parse(error), "The result") from error


def _parse(error: Exception) -> OSError:
    """Safetensors names the number of the error only in its text: `... (os error 28)`."""
    _, _, number = str(error).rpartition("os error ")
    digits = number.rstrip(")\"' ")
    return OSError(int(digits) if digits.isdigit() else 0, str(error))
