"""Events on their way: however an answer is cut into chunks, the same comes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos_gateway.protocol.events import MAX_EVENT_BYTES, EventFilter, build_comment, build_error_event
from llmos_gateway.protocol.usage import Usage

USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 5}}
Words = st.text(alphabet=st.sampled_from('ab",:{}[]\\usageror\n\r é')) | st.sampled_from(
    ['"usage"', '"error"', ',"usage":null', "[DONE]", 'data: {"error":1}', "\n\ndata: x"]
)

Drawn = tuple[list[dict[str, Any]], list[bytes]]


def build_event(fields: Any, end: bytes = b"\n\n") -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + end


def run(
    chunks: list[bytes], *, hides_usage: bool = True, hides_counts: bool = True, choices: int = 1
) -> tuple[EventFilter, bytes]:
    events = EventFilter(hides_usage=hides_usage, hides_counts=hides_counts, choices=choices)
    passed = b"".join(events.feed(chunk) for chunk in chunks)
    return events, passed + events.finish()


@st.composite
def cut_streams(draw: st.DrawFn) -> Drawn:
    """Draw the events of a chat, and their bytes cut anywhere."""
    words = draw(st.lists(Words, max_size=6))
    fields: list[dict[str, Any]] = [{"choices": [{"delta": {"content": word}}]} for word in words]
    data = b"".join(build_event(one) for one in fields)
    data += build_event({"choices": [], "usage": USAGE}) + b"data: [DONE]\n\n"
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return fields, [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(cut_streams())
def test_usage_is_counted_and_hidden_and_nothing_else_is_changed(drawn: Drawn) -> None:
    fields, chunks = drawn
    events, passed = run(chunks)
    assert passed == b"".join(build_event(one) for one in fields) + b"data: [DONE]\n\n"
    assert events.usage == Usage(9, 2, 5)
    assert events.events == len(fields)
    assert not events.has_error


@given(cut_streams())
def test_whoever_asked_for_usage_gets_every_byte(drawn: Drawn) -> None:
    _, chunks = drawn
    events, passed = run(chunks, hides_usage=False)
    assert passed == b"".join(chunks)
    assert events.usage == Usage(9, 2, 5)


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_bytes_that_are_no_events_pass_too(chunks: list[bytes]) -> None:
    _, passed = run(chunks, hides_usage=False)
    assert passed == b"".join(chunks)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_every_end_of_line_is_understood(end: bytes) -> None:
    data = build_event({"choices": [{}]}, end) + build_event({"choices": [], "usage": USAGE}, end)
    events, passed = run([data])
    assert passed == build_event({"choices": [{}]}, end)
    assert events.usage is not None


def build_counted(word: str, count: int, index: int = 0, prompt_tokens: int = 9) -> dict[str, Any]:
    """Return the fields of an event as vLLM orders them when it counts in every event."""
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens + count, "completion_tokens": count}
    return {"id": "chatcmpl-1", "choices": [{"index": index, "delta": {"content": word}}], "usage": usage}


@st.composite
def counted_streams(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[bytes], int]:
    """Draw counted events of one choice, their bytes cut anywhere, and how many tokens they hold."""
    words = draw(st.lists(st.tuples(Words, st.integers(0, 4), st.booleans()), min_size=1, max_size=6))
    fields, count = [], 0
    for word, tokens, is_odd in words:
        count += tokens
        fields.append(build_counted(word, count) | ({"system_fingerprint": "x"} if is_odd else {}))
    data = b"".join(build_event(one) for one in fields)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return fields, [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)], count


@given(counted_streams())
def test_a_stream_that_ends_early_is_settled_by_the_engines_last_count(
    drawn: tuple[list[dict[str, Any]], list[bytes], int],
) -> None:
    fields, chunks, count = drawn
    events, passed = run(chunks)
    assert events.usage == Usage(9, count)
    shown = [{name: value for name, value in one.items() if name != "usage"} for one in fields]
    assert [json.loads(line.removeprefix(b"data: ")) for line in passed.split(b"\n\n") if line] == shown
    assert events.events == len(fields)


@given(counted_streams())
def test_whoever_asked_for_counts_gets_every_byte(drawn: tuple[list[dict[str, Any]], list[bytes], int]) -> None:
    _, chunks, count = drawn
    events, passed = run(chunks, hides_usage=False, hides_counts=False)
    assert passed == b"".join(chunks)
    assert events.usage == Usage(9, count)


def test_whoever_asked_for_usage_alone_gets_it_at_the_end_alone() -> None:
    data = build_event(build_counted("x", 1)) + build_event({"choices": [], "usage": USAGE})
    _, passed = run([data], hides_usage=False)
    first, last = (json.loads(line.removeprefix(b"data: ")) for line in passed.split(b"\n\n") if line)
    assert "usage" not in first
    assert last["usage"] == USAGE


def test_a_count_at_the_end_is_cut_off_without_another_change() -> None:
    fields = build_counted('\n"usage" é', 3)
    _, passed = run([build_event(fields)])
    del fields["usage"]
    assert passed == build_event(fields)


def test_choices_of_several_prompts_are_added_up_and_each_prompt_once() -> None:
    counted = [build_counted("x", 2 + index, index, prompt_tokens=10 * (1 + index // 2)) for index in range(4)]
    events, _ = run([build_event(one) for one in counted], choices=2)
    assert events.usage == Usage(10 + 20, 2 + 3 + 4 + 5)


def test_the_usage_at_the_end_is_the_last_word() -> None:
    events, _ = run([build_event(build_counted("x", 1)), build_event({"choices": [], "usage": USAGE})])
    assert events.usage == Usage(9, 2, 5)


def test_nulls_that_an_engine_adds_are_cut_out() -> None:
    spaced = b'data: {"choices": [{}], "usage": null}\n\n'
    _, passed = run([build_event({"choices": [{}], "usage": None}) + spaced])
    assert passed == build_event({"choices": [{}]}) + b'data: {"choices": [{}]}\n\n'


def test_usage_beside_choices_is_taken_out_alone() -> None:
    events, passed = run([build_event({"choices": [{"delta": {"content": "x"}}], "usage": USAGE})])
    assert json.loads(passed.removeprefix(b"data: ")) == {"choices": [{"delta": {"content": "x"}}]}
    assert events.usage == Usage(9, 2, 5)


def test_an_error_is_noted_and_passes() -> None:
    line = build_error_event(b'{"error":{"message":"out of memory"}}')
    events, passed = run([line])
    assert passed == line
    assert events.has_error


def test_a_word_of_the_answer_is_no_error() -> None:
    events, _ = run([build_event({"choices": [{"delta": {"content": "error"}}], "error": None})])
    assert not events.has_error


def test_an_event_without_an_end_is_kept_only_up_to_a_bound() -> None:
    events = EventFilter(hides_usage=True, hides_counts=True)
    sent = sum(len(events.feed(b"x" * 100_000)) for _ in range(30))
    assert 30 * 100_000 - sent <= MAX_EVENT_BYTES


def test_usage_of_a_response_stream_is_found() -> None:
    done = {"type": "response.completed", "response": {"usage": {"input_tokens": 4, "output_tokens": 6}}}
    events, _ = run([b"event: response.completed\n" + build_event(done)], hides_usage=False)
    assert events.usage == Usage(4, 6)


def test_what_a_response_repeats_of_its_request_is_no_count() -> None:
    forged = {"type": "function", "parameters": {"usage": {"input_tokens": 0, "output_tokens": 0}}}
    begun = {"type": "response.created", "response": {"tools": [forged], "usage": None}}
    token = {"type": "response.output_text.delta", "delta": "x"}
    events, _ = run([build_event(begun), build_event(token)], hides_usage=False)
    assert events.usage is None
    done = {"type": "response.completed", "response": {"usage": USAGE, "tools": [forged]}}
    events, _ = run([build_event(begun), build_event(token), build_event(done)], hides_usage=False)
    assert events.usage == Usage(9, 2, 5)


def test_comments_are_lines_that_clients_skip() -> None:
    assert build_comment("one moment") == b": one moment\n\n"


@given(cut_streams(), st.booleans())
def test_the_end_of_a_whole_answer_is_seen_however_it_is_cut(drawn: Drawn, is_whole: bool) -> None:
    chunks = drawn[1]
    if not is_whole:
        data = b"".join(chunks).removesuffix(b"data: [DONE]\n\n")
        chunks = [data[: len(data) // 2], data[len(data) // 2 :]]
    assert run(chunks)[0].is_done is is_whole
