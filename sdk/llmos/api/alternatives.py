"""Accelerator classes that will do beside the first one: what such a list may say."""

from __future__ import annotations

from typing import Final

from llmos.api.meta import Rule
from llmos.api.names import CPU_CLASS

MAX_ALTERNATIVES: Final = 4

ALTERNATIVES_RULES: Final = (
    Rule(
        "!has(self.alternatives) || !(self.class in self.alternatives)",
        "class is the first choice already: leave it out of alternatives",
        field_path=".alternatives",
    ),
    Rule(
        f"!has(self.alternatives) || self.alternatives.size() == 0 || (self.class != '{CPU_CLASS}' && "
        f"!('{CPU_CLASS}' in self.alternatives))",
        f"the class {CPU_CLASS} is no AcceleratorClass: it has no alternatives, and is none",
        field_path=".alternatives",
    ),
)
"""Of an object with `class` and `alternatives`."""
