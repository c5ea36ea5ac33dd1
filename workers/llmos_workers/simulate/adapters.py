"""The simulator's adapters: further names of the model, loaded and unloaded by vLLM's requests and in its words.

As in vLLM, an adapter that is unloaded is only no longer known by its name: requests that began with it go on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from llmos_workers.simulate.protocol import ApiError, Json
from llmos_workers.simulate.settings import AdapterLimits

ALLOW_VARIABLE: Final = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"


class LoadRequest(BaseModel):
    """Body of POST /v1/load_lora_adapter."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadRequest(BaseModel):
    """Body of POST /v1/unload_lora_adapter."""

    lora_name: str


class Adapters:
    """Which adapters are loaded, and which of them requests use."""

    def __init__(self, limits: AdapterLimits, base: str) -> None:
        self._limits = limits
        self._base = base
        self._folders: dict[str, str] = {}
        self._used: Counter[str] = Counter()

    @property
    def used(self) -> list[str]:
        """Names of the adapters that requests use now."""
        return sorted(name for name, count in self._used.items() if count > 0)

    def find(self, name: str) -> str | None:
        """Return the folder of an adapter, None if there is none of that name."""
        return self._folders.get(name)

    def use(self, name: str) -> Callable[[], None]:
        """Note that a request uses an adapter; call what is returned when it ends."""
        self._used[name] += 1

        def end() -> None:
            self._used[name] -= 1

        return end

    def build_cards(self) -> list[Json]:
        """Return the entries of /v1/models."""
        return [
            {"id": name, "object": "model", "owned_by": "llmos", "root": folder, "parent": self._base}
            for name, folder in self._folders.items()
        ]

    def load(self, request: LoadRequest) -> str:
        """Load an adapter.

        Raises:
            ApiError: vLLM would not.
        """
        name, folder = request.lora_name, request.lora_path
        if name == self._base:
            raise _refuse(400, f"The lora adapter '{name}' conflicts with a served base model.")
        if name in self._folders and not request.load_inplace:
            raise _refuse(400, f"The lora adapter '{name}' has already been loaded.")
        rank = _read_rank(name, folder)
        if rank > self._limits.max_lora_rank:
            limit = self._limits.max_lora_rank
            raise _refuse(500, f"LoRA rank {rank} is greater than max_lora_rank {limit}.")
        self._folders[name] = folder
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, request: UnloadRequest) -> str:
        """Forget an adapter.

        Raises:
            ApiError: there is none of that name.
        """
        if self._folders.pop(request.lora_name, None) is None:
            raise _refuse(404, f"The lora adapter '{request.lora_name}' cannot be found.")
        return f"Success: LoRA adapter '{request.lora_name}' removed successfully."


def _read_rank(name: str, folder: str) -> int:
    try:
        config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
        if not (Path(folder) / "adapter_model.safetensors").is_file():
            raise FileNotFoundError
        return int(config["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _refuse(404, f"Loading lora {name} failed: No adapter found for {folder}") from error


def _refuse(status: int, message: str) -> ApiError:
    return ApiError(status, "NotFoundError" if status == 404 else "InvalidUserInput", message)
