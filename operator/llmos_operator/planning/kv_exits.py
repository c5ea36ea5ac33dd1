"""Ways on which cached prompts leave an engine of vLLM, as far as its arguments and variables tell. Pure.

The salt of a tenant is part of vLLM's own hashes of blocks, so that in one engine, and in the memory that it offloads
to by itself, no tenant finds what is another one's. What is handed to others is found as they look for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from llmos.api import Engine
from llmos.api.inferencepool import find_argument

ARGUMENTS: Final[Mapping[str, str]] = {
    "kv-transfer-config": "hands cached prompts to a connector, and not every connector keeps the salts of tenants",
    "kv-offloading-backend": "hands cached prompts to a store of another program, which may lose the salts of tenants",
    "kv-events-config": "publishes the tokens of prompts with the salts of their tenants",
    "ec-transfer-config": "hands what was computed of images to a connector, and finds it by the image without a salt",
}
"""Arguments of vLLM 0.32, and what each does. `kv-offloading-size` alone stays in the memory of the pod, under vLLM's
own hashes, so it is none of them."""
VARIABLES: Final[Mapping[str, str]] = {
    "LMCACHE_": "configures LMCache, which hands cached prompts to stores of its own",
    "MOONCAKE_": "configures Mooncake, a store of cached prompts that engines share",
}
"""Beginnings of names of variables. They do nothing without a connector, which an image or a plugin may bring."""
_INSIDE: Final = {"kv-offloading-backend": "native"}
"""Values with which nothing leaves."""


def find_kv_exits(engine: Engine) -> tuple[str, ...]:
    """Return one part of a sentence for each way out that the engine of a pool has."""
    arguments = [(name, _find_argument(name)) for name, value in engine.args.items() if _INSIDE.get(name) != value]
    variables = [(each.name, next(filter(each.name.startswith, VARIABLES), "")) for each in engine.env]
    return (
        *(f"engine.args has {name}, which {ARGUMENTS[found]}" for name, found in sorted(arguments) if found),
        *(f"engine.env has {name}, which {VARIABLES[found]}" for name, found in sorted(variables) if found),
    )


def _find_argument(name: str) -> str:
    if name.partition(".")[0] == "kv-offloading-size":
        return ""
    return find_argument(name, ARGUMENTS)
