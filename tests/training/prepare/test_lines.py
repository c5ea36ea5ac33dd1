"""Each way in which a line can be broken is named, with its place and without its content."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmos.api.finetunejob_dataset import DatasetFormat
from llmos_workers.prepare.errors import DatasetInvalidError
from llmos_workers.prepare.examples import Example, LineError, map_texts, parse_line
from llmos_workers.prepare.reading import MAX_LINE_BYTES, Line, LineReader, list_files
from tests.training.prepare.values import chat, write_lines

CHAT = DatasetFormat(type="chat")
SECRET = "Erika Mustermann"


def say(*messages: Any, **more: Any) -> bytes:
    return json.dumps({"messages": messages, **more}).encode()


def turn(role: str, content: object = SECRET, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


CALL = turn("assistant", None, tool_calls=[{"function": {"name": "f"}}])

BROKEN_CHATS = [
    (None, "longer than 8 MiB"),
    (b'{"messages": ' + SECRET.encode(), "not valid JSON at character 14"),
    (b'{"messages": "\xff\xfe"}', "not UTF-8 at byte 15"),
    (b'{"messages": "\\ud800"}', "not valid JSON"),
    (b"[" * 5000, "not valid JSON"),
    (b'["' + SECRET.encode() + b'"]', "an array, not a JSON object"),
    (b'"text"', "a string, not a JSON object"),
    (b"17", "a number, not"),
    (b"null", "null, not"),
    (b'{"text": "a"}', "no field 'messages'"),
    (b'{"messages": "a"}', "a string, not an array"),
    (b'{"messages": []}', "there are no messages"),
    (say(SECRET), "message 1 is a string, not an object"),
    (say({"content": SECRET}), "message 1 has none of the roles"),
    (say(turn(SECRET)), "message 1 has none of the roles"),
    (say(turn("user"), turn("assistant", None)), "the content of message 2 is null"),
    (say(turn("user"), turn("assistant", [{"type": "text", "text": SECRET}])), "the content of message 2 is an array"),
    (say(turn("user"), turn("assistant", "  \n")), "the content of message 2 is empty"),
    (say(turn("assistant")), "message 1 is the assistant's at the beginning"),
    (say(turn("user"), turn("user"), turn("assistant")), "message 2 is the user's after the user's"),
    (say(turn("user"), turn("assistant"), turn("assistant")), "message 3 is the assistant's after the assistant's"),
    (say(turn("user"), turn("system"), turn("assistant")), "message 2 is the system's after the user's"),
    (say(turn("user"), turn("tool"), turn("assistant")), "message 2 is the tool's after the user's"),
    (say(turn("user"), CALL, turn("user")), "where tool comes"),
    (say(turn("user", tool_calls=[{}]), turn("assistant")), "tool_calls"),
    (say(turn("user")), "the last message is not the assistant's"),
    (say(turn("system"), turn("user")), "the last message is not the assistant's"),
    (say(turn("user"), turn("assistant"), tools="f"), "field 'tools'"),
    (say(*[turn("user"), turn("assistant")] * 501), "more than 1000 messages"),
]


@pytest.mark.parametrize(("data", "problem"), BROKEN_CHATS, ids=range(len(BROKEN_CHATS)))
def test_a_broken_conversation_is_named_without_its_content(data: bytes | None, problem: str) -> None:
    with pytest.raises(LineError) as info:
        parse_line(data, CHAT)
    assert problem in str(info.value)
    assert SECRET not in str(info.value)


@pytest.mark.parametrize(
    "data",
    [
        say(turn("user"), turn("assistant")),
        say(turn("system"), turn("user"), turn("assistant"), turn("user"), turn("assistant")),
        say(turn("user"), CALL, turn("tool", ""), turn("tool"), turn("assistant"), tools=[{"type": "function"}]),
        say(turn("user"), CALL),
    ],
)
def test_sensible_conversations_are_taken(data: bytes) -> None:
    assert parse_line(data, CHAT).messages[-1]["role"] == "assistant"


@pytest.mark.parametrize(
    ("kind", "line", "problem"),
    [
        ("instruction", {"prompt": "a"}, "no field 'completion'"),
        ("instruction", {"prompt": 1, "completion": "b"}, "field 'prompt' is a number"),
        ("instruction", {"prompt": "a", "completion": " "}, "field 'completion' is empty"),
        ("text", {"body": "a"}, "no field 'text'"),
        ("text", {"text": None}, "field 'text' is null"),
    ],
)
def test_broken_lines_of_other_formats(kind: Any, line: dict[str, Any], problem: str) -> None:
    with pytest.raises(LineError, match=problem):
        parse_line(json.dumps(line).encode(), DatasetFormat(type=kind))


def test_columns_may_have_other_names() -> None:
    form = DatasetFormat.model_validate({"type": "chat", "columns": {"messages": "conversation"}})
    line = json.dumps({"conversation": chat("a", "b")["messages"]}).encode()
    assert parse_line(line, form).answer == "b"


def test_every_text_of_an_example_can_be_changed() -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"to": "x"}}}]}
    messages: tuple[dict[str, Any], ...] = ({"role": "user", "content": "a"}, call)
    changed = map_texts(Example(messages=messages), str.upper)
    assert changed.messages[0] == {"role": "user", "content": "A"}
    assert changed.messages[1]["tool_calls"][0]["function"]["arguments"] == {"to": "X"}


def read(folder: Path) -> list[Line]:
    return list(LineReader(list_files(folder)))


def test_files_are_read_in_order_whatever_they_are_packed_in(tmp_path: Path) -> None:
    write_lines(tmp_path / "b.jsonl", [b"b1", b"", b"   ", b"b4"])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"a1\n") + gzip.compress(b"a2\n"))
    with pa.OSFile(str(tmp_path / "c.jsonl.zst"), "wb") as raw, pa.CompressedOutputStream(raw, "zstd") as out:
        out.write(b"\xef\xbb\xbfc1\nc2")
    write_lines(tmp_path / ".hidden/d.jsonl", [b"d1"])
    write_lines(tmp_path / "manifest.json", [b"{}"])
    lines = [(line.label, (line.data or b"").strip()) for line in read(tmp_path)]
    assert lines == [
        ("a.jsonl.gz:1", b"a1"),
        ("a.jsonl.gz:2", b"a2"),
        ("b.jsonl:1", b"b1"),
        ("b.jsonl:4", b"b4"),
        ("c.jsonl.zst:1", b"c1"),
        ("c.jsonl.zst:2", b"c2"),
    ]


def test_a_line_that_is_too_long_is_skipped_not_held(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [b"x" * (2 * MAX_LINE_BYTES), b"next"])
    assert [(line.number, line.data) for line in read(tmp_path)] == [(1, None), (2, b"next\n")]


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_packed_file_that_is_cut_off_is_named(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "a.jsonl.packed"
    with pa.OSFile(str(path), "wb") as raw, pa.CompressedOutputStream(raw, codec) as out:
        out.write(b'{"text": "x"}\n' * 1000)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DatasetInvalidError, match=r"a\.jsonl\.packed cannot be unpacked after line \d+"):
        read(tmp_path)


def test_reading_tells_how_far_it_is(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [b"x" * 999] * 3000)
    reader = LineReader(list_files(tmp_path))
    seen = [reader.done_bytes for _ in reader]
    assert seen == sorted(seen)
    assert reader.done_bytes == reader.total_bytes == 3_000_000
