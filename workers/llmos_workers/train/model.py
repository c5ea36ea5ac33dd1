"""The base model with what is learned, and the types of the numbers.

    tuning   weights that stay           weights that are learned     computed with
    lora     in the compute type         the adapter, in float32      the compute type (autocast)
    qlora    in four bits (quantizing)   the same                     the same
    full     -                           all, in float32              the compute type (autocast)

The compute type is bfloat16 on accelerators that have it, else float32. What is learned is kept in float32: bfloat16
has 8 bits of precision, in which most of AdamW's small changes would be rounded away.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from llmos_workers.train.errors import TrainError
from llmos_workers.train.heads import CLASSIFICATION, HEADS, Head
from llmos_workers.train.quantizing import build_options, finish_loading
from llmos_workers.train.settings import Settings

Precision = Literal["auto", "float32", "bfloat16"]
ALL_LINEAR: Final = "all-linear"
_TASK_TYPES: Final = {
    "causal-lm": "CAUSAL_LM",
    "dpo": "CAUSAL_LM",
    "distill": "CAUSAL_LM",
    # With these peft learns the head as well, and saves it with the adapter.
    "token-classification": "TOKEN_CLS",
    "sequence-classification": "SEQ_CLS",
    "embedding": "FEATURE_EXTRACTION",
}


@dataclass(frozen=True)
class Device:
    """What is computed on, and the type of the numbers."""

    device: torch.device
    compute: torch.dtype
    caches: bool = True
    """Whether casts of weights are kept to the end of the context. Of layers that are put together one by one they
    would stay when the layer is given back, until the whole model is there."""

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which matrices are multiplied in the compute type."""
        if self.compute == torch.float32:
            return contextlib.nullcontext()
        context: contextlib.AbstractContextManager[Any] = torch.autocast(
            self.device.type, self.compute, cache_enabled=self.caches
        )
        return context

    @property
    def name(self) -> str:
        """For people."""
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "the processor"


def observe_device(precision: Precision, number: int = 0) -> Device:
    """The accelerator of this process, which is that number of the pod's, or the processor."""
    accelerated = torch.cuda.is_available()
    device = torch.device("cuda", number) if accelerated else torch.device("cpu")
    if accelerated:
        torch.cuda.set_device(device)
    if precision == "auto":
        precision = "bfloat16" if accelerated and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return Device(device, {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision])


def load_tokenizer(folder: Path) -> Any:
    """The base model's tokenizer."""
    return AutoTokenizer.from_pretrained(str(folder))


def load_model(folder: Path, dtype: torch.dtype, device: torch.device, head: Head | None = None) -> Any:
    """A model, ready to be asked; with `head` it does not speak."""
    return _read(folder, dtype, head, {}).to(device).eval()


def load_quantized(folder: Path, device: Device, head: Head | None = None) -> Any:
    """The same with weights of four bits.

    Raises:
        TrainError: the device, or the model, cannot have them.
    """
    options = build_options(device.device, device.compute)
    try:
        model = _read(folder, device.compute, head, options)
    except ValueError as error:
        raise TrainError(
            f"The base model cannot be quantized: {str(error).splitlines()[0][:300]}",
            "Use a base model that is not quantized already, or method.tuning lora, in a new FineTuneJob.",
        ) from error
    return finish_loading(model).eval()


def _read(folder: Path, dtype: torch.dtype, head: Head | None, options: Mapping[str, Any]) -> Any:
    if head:
        return head.load(folder, dtype, options)
    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, **options)


def load_trainable(folder: Path, settings: Settings, device: Device, head: Head | None = None) -> Any:
    """The base model with what `settings` say is learned; equal settings give equal first weights.

    Raises:
        TrainError: no module of the model has the name of a target.
    """
    set_seed(settings.seed)
    if settings.tuning == "full":
        return load_model(folder, torch.float32, device.device, head).train()
    if settings.tuning == "qlora":
        model = load_quantized(folder, device, head)
    else:
        model = load_model(folder, device.compute, device.device, head)
    try:
        model = get_peft_model(model, build_lora_config(settings)).train()
    except ValueError as error:
        raise TrainError(
            f"The adapter does not fit the base model: {error}",
            "Name modules that the base model has in method.lora.targetModules, or leave it empty.",
        ) from error
    for parameter in get_learned(model).values():
        # peft does so with the adapter's matrices, but not with the head of a classifier.
        parameter.data = parameter.data.float()
    return model


def build_lora_config(settings: Settings) -> LoraConfig:
    """What peft calls the shape of the adapter."""
    return LoraConfig(
        task_type=_TASK_TYPES[settings.task],
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules) or ALL_LINEAR,
        # A head is learned whole; peft takes it out of "all-linear" for one of the two tasks only.
        exclude_modules=list(HEADS) if settings.task in CLASSIFICATION else None,
    )


def get_learned(model: Any) -> dict[str, torch.nn.Parameter]:
    """What is learned, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def find_padding(tokenizer: Any) -> int:
    """A token to fill rows with; which one does not matter, for nothing is learned from it and nobody sees it."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0
