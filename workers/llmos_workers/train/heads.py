"""What stands in the place of the base model's vocabulary where the result does not speak.

A classifier gets one linear layer that says the class of each token, or of a text by its last token. The base model has
none: it is made at random, from the run's seed, so that it is the same in each attempt, and the same when result and
base are compared. What the base model is compared with is therefore a guess. An embedding model gets nothing: what
its layers say is the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification, set_seed

from llmos_workers.train.errors import TrainError
from llmos_workers.train.settings import Settings

CLASSIFICATION: Final = frozenset({"token-classification", "sequence-classification"})
HEADS: Final = ("classifier", "score")
"""Names that models give it; peft's as well."""
_SPEECHLESS: Final = CLASSIFICATION | {"embedding"}
_CLASSES: Final = {
    "token-classification": AutoModelForTokenClassification,
    "sequence-classification": AutoModelForSequenceClassification,
}


@dataclass(frozen=True)
class Head:
    """What a model says that does not speak. `padding` is the token that rows are filled with: texts end before it."""

    task: str
    labels: tuple[str, ...]
    padding: int
    seed: int

    def load(self, folder: Path, dtype: torch.dtype, options: Mapping[str, Any] | None = None) -> Any:
        """The base model with this head, whose labels are in its configuration. `options` are more of transformers'.

        Raises:
            TrainError: the base model's architecture has no such head.
        """
        if self.task not in _CLASSES:
            return AutoModel.from_pretrained(str(folder), dtype=dtype, **(options or {}))
        names = dict(enumerate(self.labels))
        numbers = {label: number for number, label in names.items()}
        set_seed(self.seed)
        try:
            model = _CLASSES[self.task].from_pretrained(
                str(folder), dtype=dtype, id2label=names, label2id=numbers, **(options or {})
            )
        except ValueError as error:
            raise TrainError(
                f"The base model cannot be a classifier ({self.task}): {str(error).splitlines()[0][:300]}",
                "Use a base model of another architecture, or another method.task, in a new FineTuneJob.",
            ) from error
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self.padding
        return model


def build_head(settings: Settings, labels: Sequence[str], padding: int) -> Head | None:
    """The head of a run; None for tasks whose result speaks."""
    if settings.task not in _SPEECHLESS:
        return None
    return Head(settings.task, tuple(labels), padding, settings.seed)
