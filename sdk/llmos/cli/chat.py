"""`llmos chat`: one answer, or a conversation, streamed from a gateway, a pool or an address.

Ctrl-C while an answer streams stops that answer: the engine sees the connection close and frees its memory. In a
conversation the next question may follow; Ctrl-C or Ctrl-D at the prompt ends it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol

from llmos.cli.session import Session, Target
from llmos.cli.waiting import ProgressLines
from llmos.client import ChatChunk, ChatMessage, Client, Endpoint, LlmosError, NotReadyError
from llmos.client.chat import ChatOptions

_PROMPT = "> "


@dataclass(frozen=True)
class Entrance:
    """A gateway and the key for it."""

    url: str
    key: str


def find_gateway(session: Session, url: str | None, key: str | None, *, gives_way: bool) -> Entrance | None:
    """The gateway that the options name, else the environment; None if there is none, or it `gives_way`.

    A key of the environment goes only to the address that stands beside it, so that one for OpenAI stays there.
    """
    own, foreign = (
        Entrance(session.environment.get(address, ""), session.environment.get(secret, ""))
        for address, secret in (("LLMOS_GATEWAY_URL", "LLMOS_API_KEY"), ("OPENAI_BASE_URL", "OPENAI_API_KEY"))
    )
    if url:
        beside = foreign.key if foreign.url == url else ""
        return Entrance(url, key or own.key or beside)
    found = own if own.url else foreign
    if gives_way or not found.url:
        return None
    print(f"Asking {found.url}.", file=sys.stderr)
    return Entrance(found.url, key or found.key)


def connect(session: Session, url: str | None, entrance: Entrance | None, target: Target) -> Client | Endpoint:
    """The way to the server, the gateway or the cluster."""
    if url:
        return session.open_endpoint(url, "")
    if entrance:
        return session.open_endpoint(entrance.url, entrance.key)
    return session.connect(target)


class Talk(Protocol):
    """Something that answers messages piece by piece: a pool or an address."""

    def __call__(self, messages: list[ChatMessage], options: ChatOptions) -> Generator[ChatChunk, None, None]: ...


def find_talk(connected: Client | Endpoint, pool: str | None, *, wait_s: float | None) -> Talk:
    """The way to talk: to the address, or to the pool, once it is ready if `wait_s` says how long that may take."""
    if isinstance(connected, Endpoint):
        return lambda messages, options: connected.chat(messages, **options)
    name = pool or ""
    if wait_s is not None:
        connected.pools.wait_ready(name, wait_s, on_change=ProgressLines())
    return lambda messages, options: connected.pools.chat(name, messages, **options)


@dataclass
class Answer:
    """What has arrived of an answer."""

    model: str = ""
    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    show: Callable[[str], None] = field(default=lambda _text: None, repr=False)

    def add(self, chunk: ChatChunk) -> None:
        """Take in a piece and show it."""
        self.model = chunk.model or self.model
        self.text += chunk.text
        self.finish_reason = chunk.finish_reason or self.finish_reason
        if chunk.usage:
            self.prompt_tokens, self.completion_tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
        self.show(chunk.text)

    def as_json(self) -> str:
        """The whole answer for programs."""
        fields = {
            "model": self.model,
            "content": self.text,
            "finishReason": self.finish_reason,
            "usage": {"promptTokens": self.prompt_tokens, "completionTokens": self.completion_tokens},
        }
        return json.dumps(fields, indent=2)


def answer_once(talk: Talk, prompt: str, *, system: str | None, options: ChatOptions, as_json: bool) -> None:
    """Ask one question. With `as_json` the answer comes in one piece when it is complete."""
    answer = Answer(show=_ignore if as_json else _write)
    _stream(talk, [*_opening(system), ChatMessage(role="user", content=prompt)], options, answer)
    print(answer.as_json() if as_json else "")


def converse(talk: Talk, session: Session, *, system: str | None, options: ChatOptions) -> None:
    """Ask and answer until Ctrl-C or Ctrl-D at the prompt. An error ends the answer, not the conversation."""
    print("Ctrl-C stops an answer, Ctrl-D ends the conversation.", file=sys.stderr)
    messages = _opening(system)
    while (question := _ask(session)) is not None:
        if not question.strip():
            continue
        messages.append(ChatMessage(role="user", content=question))
        answer = Answer(show=_write)
        try:
            _stream(talk, messages, options, answer)
        except KeyboardInterrupt:
            print(" [stopped]", end="")
        except NotReadyError:
            raise
        except LlmosError as error:
            print(f"error: {error}", file=sys.stderr)
        print()
        if answer.text:
            messages.append(ChatMessage(role="assistant", content=answer.text))
        else:
            messages.pop()


def _ask(session: Session) -> str | None:
    try:
        return session.read_line(_PROMPT)
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
        return None


def _opening(system: str | None) -> list[ChatMessage]:
    return [ChatMessage(role="system", content=system)] if system else []


def _stream(talk: Talk, messages: list[ChatMessage], options: ChatOptions, answer: Answer) -> None:
    # Closing the generator ends its HTTP request at once, also on Ctrl-C.
    with closing(talk(messages, options)) as chunks:
        for chunk in chunks:
            answer.add(chunk)


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _ignore(_text: str) -> None:
    """Show nothing."""
