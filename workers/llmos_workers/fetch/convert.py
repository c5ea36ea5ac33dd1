"""Turns a GGUF file into an ordinary safetensors folder with tokenizer and chat template, once, at the fetch step.

vLLM serves GGUF only experimentally and slowly, so the weights are dequantized to bfloat16 by transformers. torch is
imported here and nowhere else in this package, and only now: inspect and the other formats run in an image without it.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from llmos_workers.fetch.errors import ConversionFailedError

log = logging.getLogger(__name__)


def convert_gguf(gguf: Path, target: Path) -> None:
    """Write the model of the GGUF file into the folder `target`, which is emptied first.

    Raises:
        ConversionFailedError: this image cannot convert, or transformers cannot read the file.
    """
    # A GGUF file holds everything; nothing may be looked up on a hub meanwhile.
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import torch  # noqa: PLC0415  # only this image has it
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415  # takes seconds
    except ImportError as error:
        raise ConversionFailedError(
            f"This image cannot convert GGUF ({error.name} is missing)",
            "Fetch with the worker image (llmos-worker), which has torch and transformers.",
        ) from error
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    log.info("converting %s to bfloat16 safetensors", gguf.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
        # transformers refuses to save a model that it believes to be quantized still.
        for holder, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
            if hasattr(holder, name):
                delattr(holder, name)
        model.is_quantized = False
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, NotImplementedError, ImportError) as error:
        raise ConversionFailedError(f"transformers could not convert {gguf.name}: {error}") from error
