"""Conversations as the text that the model reads, and the places in it that it learns to say.

A chat template is a program; it may change what it is given, and does not say which part of its text is whose. Three
ways to find the assistant's part, in this order:

    1. the template marks it ({% generation %}): transformers tells the places;
    2. by what stands around it: the template's own generation prompt, as often as there are answers, each followed by
       the very words of its answer. This needs one rendering, and is checked for every conversation;
    3. by rendering every beginning of the conversation: an answer is what comes between the beginning before it, with
       generation prompt, and the one with it. Used only where the beginnings really are beginnings of the whole.

What ends an answer (such as <|im_end|>) is learned with it; what cannot be placed is not learned, and a conversation
whose last answer cannot be placed is refused.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, Final

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

from llmos_workers.prepare.errors import DatasetInvalidError
from llmos_workers.prepare.examples import Example, LineError, Message

_MARKED: Final = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PLAIN_KEYS: Final = frozenset({"role", "content"})
_QUESTION: Final = "What is it?"
_ANSWER: Final = "Nothing."


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text; `spans` are the places (from, to) of what is learned."""

    text: str
    spans: tuple[tuple[int, int], ...]


class ChatTemplate:
    """The model's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take the template from the tokenizer and try it.

        Raises:
            DatasetInvalidError: the model has none, or it cannot render the simplest conversation.
        """
        try:
            self._template: str = tokenizer.get_chat_template()
        except ValueError as error:
            raise DatasetInvalidError(
                "The base model has no chat template, which dataset.format.type chat needs",
                "Use a model that was trained for conversations, or dataset.format.type instruction or text.",
            ) from error
        self._special: dict[str, Any] = dict(tokenizer.special_tokens_map)
        self._compiled = _compile_jinja_template(self._template)
        self._is_marked = _MARKED.search(self._template) is not None
        try:
            self._before, self._after = self._learn_surroundings()
        except LineError as error:
            raise DatasetInvalidError(
                "The base model's chat template cannot render a question and its answer",
                "Repair chat_template in the model's files, or use another base model.",
            ) from error

    @property
    def text(self) -> str:
        """The template itself."""
        return self._template

    def render(self, example: Example) -> Rendered:
        """Render a conversation.

        Raises:
            LineError: the template refuses it, or its last answer cannot be placed.
        """
        messages, tools = list(example.messages), list(example.tools)
        text, marks = self._render(messages, tools, marked=self._is_marked)
        spans = marks if self._is_marked else self._find(text, messages) or self._compare(text, messages, tools)
        spans = [(start, start + len(text[start:end].rstrip())) for start, end in spans]
        learned = tuple((start, end) for start, end in spans if end > start)
        if not learned:
            raise LineError("the chat template shows nothing of the assistant's messages")
        return Rendered(text, learned)

    def _render(
        self, messages: list[Message], tools: list[dict[str, Any]], *, prompt: bool = False, marked: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        try:
            if not marked and not tools and all(message.keys() == _PLAIN_KEYS for message in messages):
                # Half of the time of transformers' function goes into copies of what is plain already.
                plain = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": prompt}
                return self._compiled.render(**plain, **self._special), []
            texts, marks = render_jinja_template(
                [messages],
                tools=tools or None,
                chat_template=self._template,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=marked,
                **self._special,
            )
        # The program is the model's: it may fail in any way, and its words may hold the conversation.
        except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError):
            raise LineError("the chat template refuses the conversation") from None
        return texts[0], [(int(start), int(end)) for start, end in marks[0]] if marked else []

    def _learn_surroundings(self) -> tuple[str, str]:
        question: Message = {"role": "user", "content": _QUESTION}
        asked, _ = self._render([question], [])
        prompted, _ = self._render([question], [], prompt=True)
        whole, _ = self._render([question, {"role": "assistant", "content": _ANSWER}], [])
        if not prompted.startswith(asked) or not whole.startswith(prompted + _ANSWER):
            return "", ""
        return prompted[len(asked) :], whole[len(prompted) + len(_ANSWER) :].rstrip()

    def _find(self, text: str, messages: list[Message]) -> list[tuple[int, int]]:
        """Way 2: every answer behind its generation prompt, or nothing."""
        answers = [message for message in messages if message["role"] == "assistant"]
        if not self._before or text.count(self._before) != len(answers):
            return []
        spans, end = [], 0
        for message in answers:
            start = text.find(self._before, end) + len(self._before)
            content = message.get("content", "")
            said = content if text.startswith(content, start) else content.strip()
            end = start + len(said) + len(self._after)
            if message.keys() != {"role", "content"} or not text.startswith(said + self._after, start):
                return []
            spans.append((start, end))
        return spans

    def _compare(self, text: str, messages: list[Message], tools: list[dict[str, Any]]) -> list[tuple[int, int]]:
        """Way 3: every answer between the beginnings before and after it."""
        spans = []
        for index, message in enumerate(messages[:-1]):
            if message["role"] == "assistant":
                before, _ = self._render(messages[:index], tools, prompt=True)
                after, _ = self._render(messages[: index + 1], tools)
                if text.startswith(before) and text.startswith(after) and len(after) > len(before):
                    spans.append((len(before), len(after)))
        before, _ = self._render(messages[:-1], tools, prompt=True)
        start = len(os.path.commonprefix([text, before]))  # noqa: RUF071 - these are no paths
        if start < len(before):
            # Some generation prompts go further than the answer does, for example into an empty thought.
            plain, _ = self._render(messages[:-1], tools)
            if start < len(plain) or not text.startswith(plain):
                raise LineError("the chat template changes what came before the last answer")
        return [*spans, (start, len(text))]
