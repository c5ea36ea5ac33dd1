"""Base model and adapter as one whole model.

    W' = W + (alpha / rank) B A        (Hu et al., 2021, section 4.1)

computed on the processor, in float32, and rounded once, to the base model's type: the same bytes whatever training ran
on. That takes 4 bytes for each parameter of the base model in the memory of the host; the trained model gives its own
back before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from llmos_workers.train.errors import TrainError
from llmos_workers.train.heads import Head
from llmos_workers.train.model import Device, load_trainable
from llmos_workers.train.settings import Settings
from llmos_workers.train.snapshot import restore_weights

_HOST: Final = Device(torch.device("cpu"), torch.float32)


def check_mergeable(model: Any) -> None:
    """See, before anything is learned, that the adapter can be merged.

    Raises:
        TrainError: it changes a matrix that the model uses in two places, of which only one would have the adapter.
    """
    base = model.get_base_model()
    modules = (base.get_input_embeddings(), base.get_output_embeddings())
    if base.config.tie_word_embeddings and any(isinstance(module, BaseTunerLayer) for module in modules):
        raise TrainError(
            "The adapter changes the output layer, which this base model shares with its input embeddings: merged, it "
            "would change both",
            "Leave the output layer and the embeddings out of method.lora.targetModules, or use output.kind adapter, "
            "in a new FineTuneJob.",
        )


def merge_adapter(base: Path, settings: Settings, checkpoint: Path, head: Head | None = None) -> Any:
    """The base model with the adapter of a checkpoint in it, in float32 and in the memory of the host."""
    model = load_trainable(base, settings, _HOST, head)
    restore_weights(model, checkpoint)
    return model.merge_and_unload()
