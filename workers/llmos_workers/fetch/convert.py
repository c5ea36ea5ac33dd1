"""Turns a GGUF file into an ordinary safetensors folder with tokenizer and chat template, once, at the fetch step.

vLLM serves GGUF only experimentally and slowly, so the weights are dequantized to bfloat16 by transformers. torch is
imported here and nowhere else in this package, and only now: inspect and the other formats run in an image without it.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any, Final

from llmos_workers.fetch.errors import ConversionFailedError

log = logging.getLogger(__name__)


_TOLERANCE: Final = 0.01  # converters fold a few small tensors, such as rotary factors, into the configuration


def convert_gguf(gguf: Path, target: Path, expected_parameters: int) -> None:
    """Write the model of the GGUF file into the folder `target`, which is emptied first.

    Raises:
        ConversionFailedError: this image cannot convert, or transformers cannot read the file.
    """
    try:
        import torch  # noqa: PLC0415  # only one image has it

        # A GGUF file holds everything, so no hub is asked.
        os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        import transformers  # noqa: PLC0415  # takes seconds
    except ImportError as error:
        raise ConversionFailedError(
            f"This image cannot convert GGUF ({error.name} is missing)",
            "Fetch with the worker image (llmos-worker), which has torch and transformers.",
        ) from error
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    log.info("converting %s to bfloat16 safetensors", gguf.name)
    options: dict[str, Any] = {"gguf_file": gguf.name, "dtype": torch.bfloat16}
    if hasattr(transformers, "GgufConfig"):
        # Newer versions otherwise leave the weights of some architectures in their packed blocks.
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, **options)
        _check_dense(model, expected_parameters)
        # transformers refuses to save a model that it believes to be quantized still.
        for holder, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
            if hasattr(holder, name):
                delattr(holder, name)
        model.is_quantized = False
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, ImportError) as error:
        raise ConversionFailedError(f"transformers could not convert {gguf.name}: {error}") from error


def _check_dense(model: Any, expected_parameters: int) -> None:
    """Refuse a conversion that lost weights or left them packed, before anybody serves nonsense."""
    parameters = list(model.parameters())
    found = sum(parameter.numel() for parameter in parameters)
    if abs(found - expected_parameters) > _TOLERANCE * expected_parameters:
        raise ValueError(f"it yields {found} parameters, but the file has {expected_parameters}")
    if not all(parameter.is_floating_point() for parameter in parameters):
        raise ValueError("it leaves weights packed")
