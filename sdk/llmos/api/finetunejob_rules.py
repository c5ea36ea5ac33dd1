"""Which fields of a FineTuneJob go together: rules of its spec, as the API server checks them."""

from __future__ import annotations

from typing import Final

from llmos.api.meta import Rule

OUTPUT_RULES: Final = (
    Rule(
        "!has(self.output.attachTo) || size(self.output.attachTo) == 0 || "
        "(self.method.tuning == 'lora' && (!has(self.output.kind) || self.output.kind == 'adapter'))",
        "only adapters are attached to pools: for tuning full and output.kind merged, name the result in a pool's "
        "modelRef",
        field_path=".output.attachTo",
    ),
    Rule(
        "self.method.tuning == 'lora' || !has(self.output.kind)",
        "output.kind is for tuning lora: tuning full makes a whole model anyway, leave it out",
        field_path=".output.kind",
    ),
)
