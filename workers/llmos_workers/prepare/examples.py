"""What a line says, or what is wrong with it. Pure.

A problem is told in words that hold nothing of the line: the kind of what was found, and where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from llmos.api.finetunejob_dataset import Columns, DatasetFormat

Message = dict[str, Any]
Line = dict[str, Any]

_MESSAGE_KEYS: Final = ("role", "content", "tool_calls", "tool_call_id", "name", "reasoning_content")
_ROLES: Final = frozenset({"system", "user", "assistant", "tool"})
_MAX_MESSAGES: Final = 1000
_MAX_LABEL: Final = 128
_TYPES: Final = {list: "an array", str: "a string", bool: "true or false", int: "a number", float: "a number"}
# Which role may come after which; None is the beginning. A system message comes first only.
_NEXT: Final[dict[str | None, frozenset[str]]] = {
    None: frozenset({"system", "user"}),
    "system": frozenset({"user"}),
    "user": frozenset({"assistant"}),
    "assistant": frozenset({"user"}),
    "tool": frozenset({"tool", "assistant"}),
}


class LineError(Exception):
    """Why a line cannot be learned from; the text holds nothing of the line."""


@dataclass(frozen=True, slots=True)
class Example:
    """What is learned from one line: a conversation, a prompt and its completion, a text, which of two answers, what
    belongs to a text, or labels: one for each of `words`, or one for the text."""

    messages: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    prompt: str = ""
    text: str = ""
    """The text, or the completion of the prompt."""
    rejected: str = ""
    """The worse answer, where the last message, or the completion, is the better one."""
    positive: str = ""
    """What belongs to the text."""
    words: tuple[str, ...] = ()
    """What the text consists of."""
    labels: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        """What a model is expected to say at the end."""
        return str(self.messages[-1].get("content") or "") if self.messages else self.text


def parse_line(data: bytes | None, form: DatasetFormat) -> Example:
    """Read one line; None stands for one that is too long.

    Raises:
        LineError: it cannot be learned from.
    """
    if data is None:
        raise LineError("the line is longer than 8 MiB")
    return _BUILDERS[form.type](_load(data), form.columns)


def _load(data: bytes) -> dict[str, Any]:
    try:
        line = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise LineError(_explain(data, error)) from None
    if not isinstance(line, dict):
        raise LineError(f"the line is {_name(line)}, not a JSON object")
    return line


def _explain(data: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as fault:
        return f"not UTF-8 at byte {fault.start + 1}"
    return f"not valid JSON at character {error.pos + 1}"


def _name(value: object) -> str:
    return "null" if value is None else _TYPES.get(type(value), "an object")


def _get(line: dict[str, Any], field: str) -> Any:
    if field not in line:
        raise LineError(f"no field {field!r}")
    return line[field]


def _get_text(line: dict[str, Any], field: str) -> str:
    value = _get(line, field)
    if not isinstance(value, str):
        raise LineError(f"field {field!r} is {_name(value)}, not a string")
    if not value.strip():
        raise LineError(f"field {field!r} is empty")
    return value


def _build_chat(messages: object, tools: object) -> Example:
    if not isinstance(messages, list):
        raise LineError(f"the messages are {_name(messages)}, not an array")
    if not messages:
        raise LineError("there are no messages")
    if len(messages) > _MAX_MESSAGES:
        raise LineError(f"there are more than {_MAX_MESSAGES} messages")
    last: str | None = None
    kept = []
    for number, message in enumerate(messages, 1):
        kept.append(_check_message(message, number))
        _check_order(kept, last, number)
        last = kept[-1]["role"]
    if last != "assistant":
        raise LineError("the last message is not the assistant's")
    return Example(messages=tuple(kept), tools=_check_tools(tools))


def _build_instruction(line: Line, columns: Columns) -> Example:
    return Example(prompt=_get_text(line, columns.prompt), text=_get_text(line, columns.completion))


def _build_pair(line: Line, columns: Columns) -> Example:
    return Example(text=_get_text(line, columns.anchor), positive=_get_text(line, columns.positive))


def _build_labelled_text(line: Line, columns: Columns) -> Example:
    label = _read_label(_get(line, columns.label), f"field {columns.label!r}")
    return Example(text=_get_text(line, columns.text), labels=(label,))


def _build_preference(line: dict[str, Any], columns: Columns) -> Example:
    prompt = _get(line, columns.prompt)
    if isinstance(prompt, list):
        chosen, rejected = (_get_reply(line, field) for field in (columns.chosen, columns.rejected))
        example = _build_chat([*prompt, {"role": "assistant", "content": chosen}], line.get("tools"))
    elif isinstance(prompt, str):
        chosen, rejected = _get_text(line, columns.chosen), _get_text(line, columns.rejected)
        example = Example(prompt=_get_text(line, columns.prompt), text=chosen)
    else:
        raise LineError(f"field {columns.prompt!r} is {_name(prompt)}, neither a string nor an array of messages")
    if chosen.strip() == rejected.strip():
        raise LineError(f"fields {columns.chosen!r} and {columns.rejected!r} say the same")
    return replace(example, rejected=rejected)


def _get_reply(line: dict[str, Any], field: str) -> str:
    """Return an answer to messages: a string, or an array of one message of the assistant."""
    value = _get(line, field)
    if not isinstance(value, list):
        return _get_text(line, field)
    if len(value) != 1 or not isinstance(value[0], dict) or value[0].get("role") != "assistant":
        raise LineError(f"field {field!r} is not one message of the assistant")
    content = value[0].get("content")
    if not isinstance(content, str) or not content.strip():
        raise LineError(f"the message of field {field!r} has no content")
    return content


def _build_words(line: dict[str, Any], columns: Columns) -> Example:
    words, labels = (_get_list(line, field) for field in (columns.tokens, columns.labels))
    if len(words) != len(labels):
        raise LineError(
            f"fields {columns.tokens!r} and {columns.labels!r} have {len(words)} and {len(labels)} entries, not as many"
        )
    for number, word in enumerate(words, 1):
        if not isinstance(word, str) or not word.strip():
            what = "empty" if isinstance(word, str) else f"{_name(word)}, not a string"
            raise LineError(f"entry {number} of field {columns.tokens!r} is {what}")
    named = (
        _read_label(label, f"entry {number} of field {columns.labels!r}") for number, label in enumerate(labels, 1)
    )
    return Example(text=" ".join(words), words=tuple(words), labels=tuple(named))


def _get_list(line: dict[str, Any], field: str) -> list[Any]:
    value = _get(line, field)
    if not isinstance(value, list):
        raise LineError(f"field {field!r} is {_name(value)}, not an array")
    if not value:
        raise LineError(f"field {field!r} is empty")
    return value


def _read_label(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise LineError(f"{where} is {_name(value)}, neither a string nor a whole number")
    label = str(value).strip()
    if not label or len(label) > _MAX_LABEL:
        raise LineError(f"{where} is {'empty' if not label else f'longer than {_MAX_LABEL} characters'}")
    return label


def _check_message(message: object, number: int) -> Message:
    if not isinstance(message, dict):
        raise LineError(f"message {number} is {_name(message)}, not an object")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise LineError(f"message {number} has none of the roles system, user, assistant and tool")
    content, calls = message.get("content"), message.get("tool_calls")
    if calls and not (role == "assistant" and isinstance(calls, list) and all(isinstance(one, dict) for one in calls)):
        raise LineError(f"message {number} has tool_calls that are no array of objects, or is not the assistant's")
    if not isinstance(content, str) and not (content is None and calls):
        raise LineError(f"the content of message {number} is {_name(content)}, not a string")
    if not calls and role != "tool" and not (content or "").strip():
        raise LineError(f"the content of message {number} is empty")
    return {key: message[key] for key in _MESSAGE_KEYS if message.get(key) is not None}


def _check_order(messages: list[Message], last: str | None, number: int) -> None:
    role = messages[-1]["role"]
    calls = number > 1 and bool(messages[-2].get("tool_calls"))
    allowed = frozenset({"tool"}) if calls else _NEXT[last]
    if role not in allowed:
        after = f"after the {last}'s" if last else "at the beginning"
        raise LineError(f"message {number} is the {role}'s {after}, where {' or '.join(sorted(allowed))} comes")


def _check_tools(tools: object) -> tuple[dict[str, Any], ...]:
    if tools is None:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise LineError("field 'tools' is no array of objects")
    return tuple(tools)


_BUILDERS: Final[dict[str, Callable[[Line, Columns], Example]]] = {
    "chat": lambda line, columns: _build_chat(_get(line, columns.messages), line.get("tools")),
    "instruction": _build_instruction,
    "text": lambda line, columns: Example(text=_get_text(line, columns.text)),
    "preference": _build_preference,
    "tokens-labels": _build_words,
    "text-label": _build_labelled_text,
    "pairs": _build_pair,
}


def map_texts(example: Example, change: Callable[[str], str]) -> Example:
    """Return the example with every text of a person or a model changed; roles, names of fields and tools stay."""
    rejected = change(example.rejected) if example.rejected else ""
    if not example.messages:
        prompt = change(example.prompt) if example.prompt else ""
        words = tuple(map(change, example.words))
        text = " ".join(words) if words else change(example.text)
        positive = change(example.positive) if example.positive else ""
        return replace(example, prompt=prompt, text=text, rejected=rejected, positive=positive, words=words)
    messages = tuple(
        {key: value if key == "role" else _map(value, change) for key, value in message.items()}
        for message in example.messages
    )
    return replace(example, messages=messages, rejected=rejected)


def _map(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _map(item, change) for key, item in value.items()}
    return value
