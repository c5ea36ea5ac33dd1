"""A request's body: what it must say so that it can be routed and counted, and how it is sent on.

The gateway checks what it needs itself and what protects it: size (by the reader), UTF-8 and JSON (by orjson, which
refuses NaN, lone surrogates and bytes that are no UTF-8), depth, and the types of the few fields it reads. Of the
others it says which pass (`protocol.fields`); what they hold is the engine's to judge, whose answer passes through: two
judges of one API would drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from llmos_gateway.protocol.errors import BadRequestError
from llmos_gateway.protocol.fields import CACHE_SALT, SPEECHLESS, ApiPart, check_fields, find_dropped, strip_constraints

__all__ = ["MAX_DEPTH", "ApiPart", "ModelRequest", "build_upstream_body", "parse_request"]

MAX_DEPTH: Final = 64
"""Arrays and objects inside each other."""
MAX_MODEL_CHARACTERS: Final = 512


_PROMPT_FIELD: Final[Mapping[ApiPart, str]] = {
    ApiPart.CHAT: "messages",
    ApiPart.COMPLETIONS: "prompt",
    ApiPart.EMBEDDINGS: "input",
    ApiPart.RESPONSES: "input",
    ApiPart.CLASSIFY: "input",
    ApiPart.POOLING: "input",
}
_LENGTH_FIELDS: Final[Mapping[ApiPart, tuple[str, ...]]] = {
    ApiPart.CHAT: ("max_completion_tokens", "max_tokens"),
    ApiPart.COMPLETIONS: ("max_tokens",),
    ApiPart.RESPONSES: ("max_output_tokens",),
}
COMPLETION_TOKENS: Final = 16
"""Of a completion that does not say how long it may be, as in OpenAI's API and in vLLM."""
_STREAMABLE: Final = frozenset({ApiPart.CHAT, ApiPart.COMPLETIONS, ApiPart.RESPONSES})
_WITH_STREAM_OPTIONS: Final = frozenset({ApiPart.CHAT, ApiPart.COMPLETIONS})


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request for a model, checked."""

    part: ApiPart
    raw: bytes
    fields: dict[str, Any]
    model: str
    """The name that the caller used."""
    is_stream: bool
    hides_usage: bool
    """Whether usage is asked of the engine though the caller did not ask for it."""
    hides_counts: bool
    """Whether the same is true of the counts in every event."""
    choices: int
    """Answers for each prompt."""
    answer_tokens: int | None
    """The longest each answer may be; None = the request does not say."""

    @property
    def answers(self) -> int:
        """Answers over all prompts: completions may have several."""
        prompt = self.prompt
        is_batch = self.part is ApiPart.COMPLETIONS and isinstance(prompt, list) and prompt
        return self.choices * (len(prompt) if is_batch and not isinstance(prompt[0], int) else 1)

    @property
    def prompt(self) -> Any:
        """Messages, prompt or input as the caller sent it."""
        return self.fields.get(_PROMPT_FIELD[self.part])


def parse_request(part: ApiPart, raw: bytes) -> ModelRequest:
    """Read a body.

    Raises:
        BadRequestError: it is no JSON object, too deep, a field that the gateway reads has another type, or one holds
            what no engine is sent.
    """
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"The body is not valid JSON in UTF-8: {error.msg}.", "invalid_json") from None
    if not isinstance(fields, dict):
        raise BadRequestError("The body must be a JSON object.", "invalid_json")
    _check_depth(raw, fields)
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequestError(
            "Name the model: 'model' must be a string that is not empty.", "invalid_type", param="model"
        )
    if len(model) > MAX_MODEL_CHARACTERS:
        raise BadRequestError(
            f"'model' is longer than {MAX_MODEL_CHARACTERS} characters.", "invalid_value", param="model"
        )
    is_stream = _read_bool(fields, "stream") and part in _STREAMABLE
    check_fields(part, fields)
    has_options = is_stream and part in _WITH_STREAM_OPTIONS
    wants_usage, wants_counts = _read_stream_options(fields) if has_options else (True, True)
    _check_prompt(part, fields)
    return ModelRequest(
        part,
        raw,
        fields,
        model,
        is_stream,
        hides_usage=not wants_usage,
        hides_counts=not wants_counts,
        choices=_read_choices(fields),
        answer_tokens=_read_answer_tokens(part, fields),
    )


def build_upstream_body(
    request: ModelRequest, served_model: str, cache_salt: str, *, answer_cap: int | None = None
) -> bytes:
    """Return the body for the engine; the very bytes that came, after the salt, where nothing else has to change.

    Args:
        request: what came.
        served_model: the name that the engine knows.
        cache_salt: keeps cached prompts of callers apart.
        answer_cap: the longest each answer may be, for a request that does not say it; None = as long as it likes.
    """
    fields = request.fields
    dropped = find_dropped(request.part, fields)
    changes = _find_changes(request, served_model)
    if answer_cap is not None:
        changes[_LENGTH_FIELDS[request.part][-1]] = answer_cap
    if not changes and not dropped:
        # An object that is not empty, and has no such field: what is put in front stays the only one of its name.
        rest = request.raw[request.raw.index(b"{") + 1 :]
        return b'{"%b":%b,%b' % (CACHE_SALT.encode(), orjson.dumps(cache_salt), rest)
    passed = {name: value for name, value in fields.items() if name not in dropped}
    return orjson.dumps({**passed, **changes, CACHE_SALT: cache_salt})


def _find_changes(request: ModelRequest, served_model: str) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if request.model != served_model:
        changes["model"] = served_model
    if request.hides_counts:
        options = request.fields.get("stream_options") or {}
        changes["stream_options"] = {**options, "include_usage": True, "continuous_usage_stats": True}
    if (constraints := strip_constraints(request.fields)) is not None:
        changes["structured_outputs"] = constraints
    return changes


def _check_depth(raw: bytes, fields: dict[str, Any]) -> None:
    # Nothing can be deeper than there are opening brackets; two counts in C spare the walk for nearly all requests.
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return
    level: list[Any] = [fields]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise BadRequestError(f"The body is nested more than {MAX_DEPTH} levels deep.", "nesting_too_deep")


def _read_bool(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise BadRequestError(f"'{name}' must be true or false.", "invalid_type", param=name)


def _read_stream_options(fields: Mapping[str, Any]) -> tuple[bool, bool]:
    """Return whether the caller wants usage, and counts in every event; as in vLLM, these only beside usage."""
    options = fields.get("stream_options")
    if options is None:
        return False, False
    if not isinstance(options, dict):
        raise BadRequestError("'stream_options' must be an object.", "invalid_type", param="stream_options")
    wants_usage = _read_bool(options, "include_usage")
    return wants_usage, wants_usage and _read_bool(options, "continuous_usage_stats")


def _read_choices(fields: Mapping[str, Any]) -> int:
    # Less is the engine's to refuse.
    return max(1, _read_count(fields, "n") or 1)


def _read_count(fields: Mapping[str, Any], name: str) -> int | None:
    # Engines take "64" for 64: what is not counted here would be answered without a reservation.
    value = fields.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise BadRequestError(f"'{name}' must be a whole number.", "invalid_type", param=name)


def _read_answer_tokens(part: ApiPart, fields: Mapping[str, Any]) -> int | None:
    if part in SPEECHLESS:
        return 0
    # All are looked at: engines do not agree about which one goes first.
    numbers = [_read_count(fields, name) for name in _LENGTH_FIELDS[part]]
    for number in numbers:
        # Less is the engine's to refuse.
        if number is not None and number > 0:
            return number
    # A null is no default: vLLM then answers until the context is full.
    is_default = part is ApiPart.COMPLETIONS and ("max_tokens" not in fields or numbers != [None])
    return COMPLETION_TOKENS if is_default else None


def _check_prompt(part: ApiPart, fields: Mapping[str, Any]) -> None:
    name = _PROMPT_FIELD[part]
    value = fields.get(name)
    if part is ApiPart.CHAT:
        if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
            raise BadRequestError(
                "'messages' must be a list of messages that is not empty.", "invalid_type", param=name
            )
    elif not isinstance(value, str | list):
        raise BadRequestError(f"'{name}' must be a string or a list.", "invalid_type", param=name)
