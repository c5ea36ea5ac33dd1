"""Which fields of a body reach an engine: those of the OpenAI API and of sampling that are named here, and no others.

A list of what may pass, not of what may not: each release of an engine brings new fields, and some of them reach past
the one request that they come with. Those of vLLM 0.32 that are no caller's business, and why:

    cache_salt                                      whose cached prompts are read: the gateway says that
    priority                                        goes before other tenants
    request_id, session_id, user, metadata, ...     identity: a caller's word for it is worth nothing
    kv_transfer_params, ec_transfer_params          name the memory of other requests and replicas
    vllm_xargs, logits_processors                   arguments for code within the engine
    mm_processor_kwargs, media_io_kwargs, mm_payload, return_mm_kwargs
                                                    arguments for the model's own code, and work without a bound
    chat_template                                   a program that the engine runs
    use_beam_search, best_of                        work that the engine's usage does not count
    stream_interval                                 tokens that nobody sees before many more are generated
    uuid in a part of a message                     names what others may have in the cache of images
    return_token_ids, return_prompt_text, ...       internals of the engine
    structured_outputs._backend                     chooses the parser; of that object, too, only known fields pass
    store, background, previous_response_id         answers kept in the engine, where whoever knows an id reads them

What is not named is dropped, as an engine ignores fields that it does not know. A few fields hold what the request is
about, so that an answer without them would be wrong: they are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from llmos_gateway.protocol.errors import BadRequestError

CACHE_SALT: Final = "cache_salt"


class ApiPart(StrEnum):
    """A part of the API that a key can be restricted to; the last words of its path."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    CLASSIFY = "classify"
    POOLING = "pooling"


SPEECHLESS: Final = frozenset({ApiPart.EMBEDDINGS, ApiPart.CLASSIFY, ApiPart.POOLING})
"""Parts whose answers have no tokens."""


_SAMPLING: Final = frozenset(
    [
        "frequency_penalty",
        "ignore_eos",
        "include_stop_str_in_output",
        "logit_bias",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "min_p",
        "skip_special_tokens",
        "stop",
        "stop_token_ids",
        "temperature",
        "top_k",
        "top_p",
    ]
)
_GENERATION: Final = _SAMPLING | frozenset(
    [
        "add_special_tokens",
        "allowed_token_ids",
        "bad_words",
        "echo",
        "logprob_token_ids",
        "logprobs",
        "max_tokens",
        "min_tokens",
        "model",
        "n",
        "prompt_logprobs",
        "repetition_detection",
        "response_format",
        "spaces_between_special_tokens",
        "stream",
        "stream_options",
        "structured_outputs",
        "thinking_token_budget",
        "truncate_prompt_tokens",
        "truncation_side",
        "watermarking",
    ]
)
_POOLED: Final = frozenset(
    [
        "add_special_tokens",
        "input",
        "model",
        "padding",
        "truncate_prompt_tokens",
        "truncation_side",
        "use_activation",
    ]
)
PASSED: Final[Mapping[ApiPart, frozenset[str]]] = {
    ApiPart.CHAT: _GENERATION
    | frozenset(
        [
            "add_generation_prompt",
            "chat_template_kwargs",
            "continue_final_message",
            "documents",
            "include_reasoning",
            "max_completion_tokens",
            "messages",
            "parallel_tool_calls",
            "reasoning_effort",
            "tool_choice",
            "tools",
            "top_logprobs",
        ]
    ),
    ApiPart.COMPLETIONS: _GENERATION | {"prompt", "suffix"},
    ApiPart.EMBEDDINGS: _POOLED | {"dimensions", "embed_dtype", "encoding_format", "endianness"},
    ApiPart.CLASSIFY: _POOLED,
    ApiPart.POOLING: _POOLED | {"dimensions", "embed_dtype", "encoding_format", "endianness", "task"},
    ApiPart.RESPONSES: _SAMPLING
    | frozenset(
        [
            "chat_template_kwargs",
            "include",
            "include_reasoning",
            "input",
            "instructions",
            "max_output_tokens",
            "max_tool_calls",
            "model",
            "parallel_tool_calls",
            "reasoning",
            "stream",
            "structured_outputs",
            "text",
            "tool_choice",
            "tools",
            "top_logprobs",
            "truncation",
            "watermarking",
        ]
    ),
}
"""Fields that pass, by part of the API."""

_CONSTRAINTS: Final = frozenset(
    [
        "choice",
        "disable_additional_properties",
        "disable_any_whitespace",
        "grammar",
        "json",
        "json_object",
        "regex",
        "structural_tag",
        "whitespace_pattern",
    ]
)
_NOT_KEPT: Final = "answers are not kept; send the whole conversation in 'input'"
_OF_ALL: Final = {"best_of": "send 'n'", "use_beam_search": "answers are sampled; send 'n' for several"}
_NO_CONVERSATION: Final = {"messages": "send texts in 'input'"}
REFUSED: Final[Mapping[ApiPart, Mapping[str, str]]] = {
    ApiPart.CHAT: _OF_ALL
    | {
        "chat_template": "the model's own is used; 'chat_template_kwargs' may be sent",
        "function_call": "send 'tool_choice'",
        "functions": "send 'tools'",
    },
    ApiPart.COMPLETIONS: _OF_ALL | {"prompt_embeds": "send the prompt as text or as token ids"},
    ApiPart.RESPONSES: {
        "conversation": _NOT_KEPT,
        "background": "answers are not kept; wait for this one, or have it streamed",
        "previous_input_messages": "send the whole conversation in 'input'",
        "previous_response": _NOT_KEPT,
        "previous_response_id": _NOT_KEPT,
        "prompt": "there are no stored prompts; send it in 'input'",
    },
    ApiPart.EMBEDDINGS: {},
    ApiPart.CLASSIFY: _NO_CONVERSATION,
    ApiPart.POOLING: _NO_CONVERSATION | {"data": "send 'input'"},
}
"""Fields that are refused, and what to send instead."""


def check_fields(part: ApiPart, fields: Mapping[str, Any]) -> None:
    """Refuse a request that is about something which never reaches an engine.

    Raises:
        BadRequestError: it has such a field; the message says what to send instead.
    """
    refused = REFUSED[part]
    for name, remedy in () if refused.keys().isdisjoint(fields) else refused.items():
        if fields.get(name):
            raise BadRequestError(f"'{name}' is not supported: {remedy}.", "unsupported_field", param=name)
    for name in ("messages", "input"):
        if _has_named_part(fields.get(name)):
            message = f"'uuid' in a part of '{name}' is not supported: send the image, audio or video itself."
            raise BadRequestError(message, "unsupported_field", param=name)


def _has_named_part(messages: Any) -> bool:
    """Whether a part of a message has a `uuid`."""
    if not isinstance(messages, list):
        return False
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list) and any(isinstance(part, dict) and "uuid" in part for part in content):
            return True
    return False


def find_dropped(part: ApiPart, fields: Mapping[str, Any]) -> set[str]:
    """Return the fields that do not pass."""
    return fields.keys() - PASSED[part]


def strip_constraints(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return `structured_outputs` with known fields only; None if nothing has to change."""
    given = fields.get("structured_outputs")
    if not isinstance(given, dict) or given.keys() <= _CONSTRAINTS:
        return None
    return {name: value for name, value in given.items() if name in _CONSTRAINTS}
