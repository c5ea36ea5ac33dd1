"""A base model in four bits: what stays as it is takes a quarter of bfloat16's memory, and an adapter learns on it.

NormalFloat (NF4) in blocks of 64 with an eight-bit scale each, of which 256 share one in float32: 4 + 8/64 + 32/(64 x
256) = 4.127 bits for each parameter of the linear layers. They are put into the compute type one matrix at a time
(Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023, section 3). Embeddings, output, norms and
heads stay in the compute type. The library is bitsandbytes.

Each attempt quantizes the base model anew, which gives the same bits.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from llmos_workers.train.errors import TrainError

log = logging.getLogger(__name__)


def build_options(device: torch.device, compute: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` is told to load a model so.

    Raises:
        TrainError: four bits cannot be computed with here.
    """
    check_device(device, compute)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def check_device(device: torch.device, compute: torch.dtype) -> None:
    """Compute with a small layer, there and back.

    Raises:
        TrainError: it cannot be done, with the library's words.
    """
    try:
        from bitsandbytes.nn import Linear4bit  # noqa: PLC0415  only where it is used: it looks for accelerators

        layer = Linear4bit(64, 64, bias=False, compute_dtype=compute, quant_type="nf4").to(device)
        inputs = torch.ones(1, 64, dtype=compute, device=device, requires_grad=True)
        layer(inputs).sum().backward()
    except Exception as error:  # libraries of devices fail in many ways, of which each is the reason
        words = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise TrainError(
            f"Weights of four bits cannot be computed with on this {device.type}: {words}",
            "Use method.tuning lora in a new FineTuneJob, or a class and an image that bitsandbytes works with.",
        ) from error


def finish_loading(model: Any) -> Any:
    """See that something was quantized, and keep it as it is.

    Raises:
        TrainError: the model has no linear layers.
    """
    from bitsandbytes.nn import Linear4bit  # noqa: PLC0415

    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    if not layers:
        raise TrainError(
            f"The architecture {type(model).__name__} has no linear layers that could be quantized",
            "Use method.tuning lora in a new FineTuneJob.",
        )
    for layer in layers:
        # Some processors have a faster way to be asked. It would rearrange the weights for good at the first
        # evaluation, after which no gradient comes through them, and no word says so.
        layer.support_avx512bf16_for_cpu = False
    log.info("%d linear layers hold their weights in four bits", len(layers))
    return model
