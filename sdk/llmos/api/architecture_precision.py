"""Bits per parameter of each group of weights, from a checkpoint's quantization_config.

Quantization never covers a whole model: embeddings, norms and routers stay in the model's own precision, and each
checkpoint lists further modules that were left alone (or, for mixed precision, which modules got which scheme). What a
group costs is therefore an average over its layers: a module list that names 2 of 126 MLPs leaves 124/126 quantized.

Scales are part of the price. With groups of g weights, one 16-bit scale (and a zero point for int4) costs 16/g (+ 4/g)
bits a weight; NVFP4 has one 8-bit scale for 16 weights (4.5 bits), MXFP4 one for 32 (4.25 bits).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from llmos.api.architecture import WeightPartName
from llmos.api.architecture_reader import ConfigReader

UNQUANTIZED_PARTS: Final = frozenset({"embedding", "router", "norm"})
# The head is quantized only where a module list names it; engines keep it in full precision otherwise.
_HEAD_METHODS: Final = frozenset({"compressed-tensors", "modelopt"})
# First match decides. Norms, biases, routers and indexers are small and never quantized: naming them changes nothing.
_MODULE_RULES: Final[tuple[tuple[re.Pattern[str], frozenset[WeightPartName]], ...]] = (
    (re.compile(r"norm|bias|index|router|gate\*?$"), frozenset()),
    (re.compile(r"lm_head"), frozenset({"head"})),
    (re.compile(r"vision|visual|multi_modal|mm_proj"), frozenset({"vision"})),
    (re.compile(r"mtp|nextn"), frozenset({"draft"})),
    (re.compile(r"shared_expert"), frozenset({"sharedExperts"})),
    (re.compile(r"experts|sparse_moe"), frozenset({"experts"})),
    (re.compile(r"linear_attn|mixer|mamba"), frozenset({"recurrent"})),
    (re.compile(r"attn|attention"), frozenset({"attention", "keyValue", "latent"})),
    (re.compile(r"mlp|feed_forward|ffn"), frozenset({"mlp"})),
)
_LAYER_INDEX: Final = re.compile(r"\blayers\.(\d+)\b|\bh\.(\d+)\b")
_BASE_BITS: Final = 16.0  # engines cast 32-bit checkpoints to 16 bits when they load them


@dataclass(frozen=True)
class _Scheme:
    bits: float
    targets: tuple[str, ...]  # empty: every linear layer that is not left alone


@dataclass(frozen=True)
class Precision:
    """How many bits a parameter of each part costs."""

    method: str
    schemes: tuple[_Scheme, ...]
    left_alone: tuple[str, ...]
    kv_cache_bits: int = 0

    def bits(self, part: WeightPartName, layers: int) -> float:
        """Average bits of a parameter of this part, scales included; `layers` is how many layers hold such a part."""
        if part in UNQUANTIZED_PARTS or not self.schemes:
            return _BASE_BITS
        if part == "head" and self.method not in _HEAD_METHODS:
            return _BASE_BITS
        quantized, bits = 0.0, 0.0
        for scheme in self.schemes:
            share = _share(part, scheme.targets, layers) if scheme.targets else 1.0
            share = min(share, 1.0 - quantized)
            quantized += share
            bits += share * scheme.bits
        alone = _share(part, self.left_alone, layers)
        return (1.0 - alone) * bits + (1.0 - (1.0 - alone) * quantized) * _BASE_BITS


def parse_precision(config: ConfigReader) -> Precision:
    """Read dtype and quantization_config (at the top or inside the text model)."""
    quantization = config.child("quantization_config", "compression_config")
    method = quantization.text("quant_method").lower()
    left_alone = tuple(
        module
        for field in ("modules_to_not_convert", "ignore", "exclude_modules")
        for module in quantization.texts(field)
    )
    return Precision(
        method=method,
        schemes=_parse_schemes(quantization, method) if quantization else (),
        left_alone=left_alone,
        kv_cache_bits=_kv_cache_bits(quantization),
    )


def _parse_schemes(quantization: ConfigReader, method: str) -> tuple[_Scheme, ...]:
    groups = quantization.child("config_groups")
    schemes = tuple(_parse_group(groups.child(name)) for name in sorted(groups.values))
    if schemes:
        return schemes
    group_size = quantization.integer("group_size", default=128)
    algorithm = quantization.text("quant_algo", default=method).lower()
    if "nvfp4" in algorithm or algorithm == "fp4":
        return (_Scheme(4 + 8 / 16, ()),)
    if "mxfp4" in algorithm:
        return (_Scheme(4 + 8 / 32, ()),)
    if "fp8" in algorithm or "int8" in algorithm or quantization.flag("load_in_8bit", default=False):
        return (_Scheme(8 + _block_scale_bits(quantization), ()),)
    bits = quantization.integer("bits", "w_bit", "weight_bits", "num_bits", default=4)
    zero_points = 0 if bits >= 8 else bits
    return (_Scheme(bits + (16 + zero_points) / group_size, ()),)


def _parse_group(group: ConfigReader) -> _Scheme:
    weights = group.child("weights")
    bits = weights.integer("num_bits", default=16)
    group_size = weights.integer("group_size")
    scale_bits = 8 if weights.text("type") == "float" and bits == 4 else 16
    targets = tuple(target for target in group.texts("targets") if target not in {"Linear", "MoELayer"})
    return _Scheme(bits + (scale_bits / group_size if group_size else 0.0), targets)


def _block_scale_bits(quantization: ConfigReader) -> float:
    sides = [side for side in quantization.items("weight_block_size") if isinstance(side, int) and side > 0]
    return 32 / (sides[0] * sides[1]) if len(sides) == 2 else 0.0


def _kv_cache_bits(quantization: ConfigReader) -> int:
    if "fp8" in quantization.text("kv_cache_quant_algo").lower():
        return 8
    return quantization.child("kv_cache_scheme").integer("num_bits")


def _share(part: WeightPartName, modules: tuple[str, ...], layers: int) -> float:
    """Share of the layers in which a list of module names covers this part."""
    covered: set[str] = set()
    for module in modules:
        if part not in _parts_named_by(module):
            continue
        index = _LAYER_INDEX.search(module)
        if index is None:
            return 1.0
        covered.add(index[0])
    return min(1.0, len(covered) / max(1, layers))


def _parts_named_by(module: str) -> frozenset[WeightPartName]:
    return next((parts for pattern, parts in _MODULE_RULES if pattern.search(module)), frozenset())
