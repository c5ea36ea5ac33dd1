"""How the files of a LoRA adapter reach the replicas of a pool: the words that operator, share pods and replicas share.

    share pod    GET /manifest        -> AdapterManifest      Authorization: Bearer <token of the model>
                 GET /files/NAME      -> the bytes
    replica      PUT /adapters        <- WantedAdapters       Authorization: Bearer <token of the pool>
                 GET /adapters        -> HeldAdapters

A digest is made of what the files hold, never of where they came from: whoever has the bytes can check it alone.
Tokens are the operator's; pods know only their sha256, so that reading a pod's manifest does not open it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
ADAPTER_FILES: Final = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
MAX_ADAPTERS: Final = 64
MAX_ADAPTER_BYTES: Final = 16 << 30
MAX_CONFIG_BYTES: Final = 1 << 20

AdapterState = Literal["loaded", "loading", "failed"]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class _Wire(BaseModel):
    # Tolerant: programs of two versions may meet.
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class AdapterFile(_Wire):
    """One file of an adapter."""

    path: Literal["adapter_config.json", "adapter_model.safetensors"]
    size_bytes: Annotated[int, Field(ge=0, le=MAX_ADAPTER_BYTES)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class AdapterManifest(_Wire):
    """The files of an adapter."""

    digest: Digest
    files: Annotated[tuple[AdapterFile, ...], Field(min_length=len(ADAPTER_FILES), max_length=len(ADAPTER_FILES))]

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files)


class WantedAdapter(_Wire):
    """An adapter that a replica shall hold, and where its files are."""

    name: Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")]
    digest: Digest
    url: Annotated[str, Field(max_length=1024, pattern=r"^http://[^\s]+$")]
    token: Annotated[str, Field(max_length=256)]


class WantedAdapters(_Wire):
    """All adapters that a replica shall hold."""

    adapters: Annotated[tuple[WantedAdapter, ...], Field(max_length=MAX_ADAPTERS)] = ()


class HeldAdapter(_Wire):
    """An adapter that a replica was told of, or still holds. `loaded` is what the engine itself says."""

    name: Annotated[str, Field(max_length=253)]
    digest: Digest
    state: AdapterState
    message: Annotated[str, Field(max_length=1024)] = ""


class HeldAdapters(_Wire):
    """What a replica says of its adapters."""

    adapters: Annotated[tuple[HeldAdapter, ...], Field(max_length=4 * MAX_ADAPTERS)] = ()


def compute_content_digest(files: Iterable[tuple[str, int, str]]) -> str:
    """Return the digest of files given as (path, size in bytes, sha256 in hex)."""
    digest = hashlib.sha256()
    for path, size_bytes, sha256 in sorted(files):
        digest.update(f"{path}\0{size_bytes}\0sha256:{sha256}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def compute_token_hash(token: str) -> str:
    """Return what a pod may know of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def is_token(header: str, token_hash: str) -> bool:
    """Whether an Authorization header bears the token with that hash; never where there is none."""
    scheme, _, token = header.partition(" ")
    matches = hmac.compare_digest(compute_token_hash(token.strip()), token_hash)
    return bool(token_hash) and scheme.lower() == "bearer" and matches
