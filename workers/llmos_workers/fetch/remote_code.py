"""Decides whether a model needs Python code of its own, and whether that code may run. Pure.

`auto_map` in config.json names classes in *.py files beside the weights. Many models keep it although transformers has
had their class for long; those run without the code, which then is not even fetched. For the others a person must have
named the exact commit (`spec.trustRemoteCode.revision`): a branch could change under a reviewed name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from llmos_workers.fetch.errors import UnknownArchitectureError

# model_type values whose classes are part of transformers and vLLM, although well-known repositories carry an auto_map.
_BUILT_IN: Final = frozenset(
    {
        "bert",
        "bloom",
        "cohere",
        "cohere2",
        "dbrx",
        "deepseek_v2",
        "deepseek_v3",
        "ernie4_5",
        "ernie4_5_moe",
        "exaone4",
        "falcon",
        "falcon_h1",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma3_text",
        "glm",
        "glm4",
        "glm4_moe",
        "gpt2",
        "gpt_bigcode",
        "gpt_neox",
        "gpt_oss",
        "gptj",
        "granite",
        "granitemoe",
        "hunyuan_v1_dense",
        "jamba",
        "lfm2",
        "llama",
        "llama4",
        "mamba",
        "mamba2",
        "minimax",
        "minimax_m2",
        "mistral",
        "mistral3",
        "mixtral",
        "modernbert",
        "mpt",
        "nemotron",
        "nemotron_h",
        "olmo",
        "olmo2",
        "olmo3",
        "olmoe",
        "opt",
        "phi",
        "phi3",
        "phimoe",
        "qwen2",
        "qwen2_5_vl",
        "qwen2_moe",
        "qwen2_vl",
        "qwen3",
        "qwen3_moe",
        "qwen3_next",
        "seed_oss",
        "smollm3",
        "stablelm",
        "starcoder2",
        "xlm-roberta",
    }
)


def check_remote_code(config: Mapping[str, object], revision: str, trusted_revision: str) -> None:
    """Refuse a model that needs code which nobody allowed.

    Raises:
        UnknownArchitectureError: with the exact lines that would allow it.
    """
    auto_map = config.get("auto_map")
    if not auto_map or config.get("model_type") in _BUILT_IN:
        return
    classes = [str(value) for value in auto_map.values()] if isinstance(auto_map, Mapping) else [str(auto_map)]
    elsewhere = next((name for name in classes if "--" in name), "")
    if elsewhere:
        raise UnknownArchitectureError(
            f"The model wants to run code of another repository ({elsewhere[:128]})",
            "Use a model that brings its own code, or none.",
        )
    if trusted_revision and trusted_revision == revision:
        return
    found = f"the trusted commit is {trusted_revision}, the model is at {revision or 'no commit'}"
    raise UnknownArchitectureError(
        f"The model needs Python code of its own ({classes[0][:128]})" + (f"; {found}" if trusted_revision else ""),
        "Review the code; if you trust it, set spec.trustRemoteCode.revision to "
        + (revision if len(revision) == 40 else "the commit of an hf:// source, for other sources have no commits")
        + ".",
    )
