"""What the gateway answers itself, and what it makes of an engine's failures.

An engine's error passes through if it has OpenAI's shape, or vLLM's older one (the fields of `error` at the top). What
else an engine says on failing (a proxy's page, a framework's `{"detail": ...}`) is replaced. A 5xx whose message looks
like a traceback or holds an address is replaced, too: the caller can do nothing with it, the operator finds it in the
engine's log.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import orjson

from llmos_gateway.catalog import Pool
from llmos_gateway.protocol.errors import build_error_body, has_internals

MAX_ERROR_BYTES: Final = 64 * 1024
_UNKNOWN_MODEL: Final = re.compile(r"\bmodel\b.*\bdoes not exist", re.IGNORECASE | re.DOTALL)
_TYPES: Final = {429: "rate_limit_error", 503: "service_unavailable_error"}


def build_model_card(model_id: str, pool: Pool, parent: str | None) -> dict[str, Any]:
    """Return one model as OpenAI shows it, with vLLM's additions; `parent` is what an adapter changes."""
    card: dict[str, Any] = {
        "id": model_id,
        "object": "model",
        "created": pool.created_s,
        "owned_by": pool.namespace,
        "root": pool.model,
        "parent": parent,
    }
    return card | {"max_model_len": pool.context_length} if pool.context_length else card


def build_model_list(visible: Iterable[tuple[str, Pool]], find_parent: Callable[[Pool], str | None]) -> bytes:
    """Return the body of `GET /v1/models`."""
    cards = [build_model_card(name, pool, find_parent(pool)) for name, pool in visible]
    return orjson.dumps({"object": "list", "data": cards})


def build_engine_error(status: int, body: bytes, pool_id: str) -> tuple[int, bytes]:
    """Return status and body for the caller of an engine's failure."""
    if status in {401, 403} or not 400 <= status < 600:
        # The caller's key was good: it is the gateway that the engine does not want, or something else answers there.
        return 502, build_error_body(f"The engine of {pool_id} refused the gateway.", "server_error", "engine_error")
    error = _find_error(body)
    if error is None:
        return status, _replace(status, pool_id)
    if status >= 500 and has_internals(str(error.get("message"))):
        return status, _replace(status, pool_id)
    return status, orjson.dumps({"error": error})


def is_unknown_model(body: bytes) -> bool:
    """Return whether an engine's 404 says that it has no such model, as vLLM says of an adapter it has not loaded."""
    error = _find_error(body)
    return error is not None and (error["param"] == "model" or bool(_UNKNOWN_MODEL.search(error["message"])))


def _find_error(body: bytes) -> Mapping[str, Any] | None:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(fields, dict):
        return None
    error = fields.get("error")
    if error is None and fields.get("object") == "error":
        error = {name: fields.get(name) for name in ("message", "type", "param", "code")}
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    return {"param": None, "code": None, **error}


def _replace(status: int, pool_id: str) -> bytes:
    if status == 404:
        message = f"The engine of {pool_id} does not serve this part of the API."
        return build_error_body(message, "invalid_request_error", "not_supported")
    kind = "invalid_request_error" if status < 500 else "server_error"
    message = f"The engine of {pool_id} failed with status {status}."
    return build_error_body(message, _TYPES.get(status, kind), "engine_error")
