"""HTTP that nobody should speak: answered with 4xx or a closed connection, and never passed on as something else."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.fuzz.conftest import MARK, Target
from tests.gateway.stage import CHAT, KEY

pytestmark = pytest.mark.timeout(600)
many = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)

BODY = json.dumps(CHAT).encode()
SMUGGLED = b'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{"model":"smuggled"}'
HEAD = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode()


def frame(*lines: bytes, body: bytes = BODY) -> bytes:
    return HEAD + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


CONTRADICTORY = {
    "two lengths": frame(b"Content-Length: %d" % len(BODY), b"Content-Length: 5"),
    "two lengths, the second right": frame(b"Content-Length: 5", b"Content-Length: %d" % len(BODY)),
    "lengths in one line": frame(b"Content-Length: %d, 5" % len(BODY)),
    "length and chunked": frame(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "chunked and length": frame(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED),
    "negative length": frame(b"Content-Length: -1"),
    "signed length": frame(b"Content-Length: +%d" % len(BODY)),
    "hexadecimal length": frame(b"Content-Length: 0x10"),
    "length with a gap": frame(b"Content-Length: 1 0"),
    "length beyond any number": frame(b"Content-Length: " + b"9" * 40),
    "space before the colon": frame(b"Content-Length : %d" % len(BODY)),
    "unknown coding": frame(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + SMUGGLED),
    "chunked is not last": frame(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n" + SMUGGLED),
    "chunked twice": frame(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "coding behind a tab": frame(b"Transfer-Encoding:\x0bchunked", body=b"0\r\n\r\n" + SMUGGLED),
    "folded line": frame(b"X-Note: a\r\n b", b"Content-Length: %d" % len(BODY)),
    "folded coding": frame(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n" + SMUGGLED),
    "NUL in a value": frame(b"X-Note: a\0b", b"Content-Length: %d" % len(BODY)),
    "NUL in a name": frame(b"X\0Note: a", b"Content-Length: %d" % len(BODY)),
    "line without a colon": frame(b"nonsense", b"Content-Length: %d" % len(BODY)),
    "carriage return in a value": frame(b"X-Note: a\rContent-Length: 0", b"Content-Length: %d" % len(BODY)),
    "giant header": frame(b"X-Note: " + b"a" * 100_000, b"Content-Length: %d" % len(BODY)),
    "thousands of headers": frame(*[b"X-Note: a"] * 5000, b"Content-Length: %d" % len(BODY)),
    "giant path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "no version": b"GET /v1/models\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 50,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "bad chunk size": frame(b"Transfer-Encoding: chunked", body=b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size beyond any number": frame(b"Transfer-Encoding: chunked", body=b"f" * 40 + b"\r\n" + BODY),
    "chunk longer than it says": frame(b"Transfer-Encoding: chunked", body=b"1\r\n" + BODY + b"\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("name", CONTRADICTORY)
def test_framing_that_can_be_read_two_ways_is_refused(target: Target, name: str) -> None:
    before = len(target.seen)
    statuses = target.check(target.send(CONTRADICTORY[name]))
    assert statuses in ([], [400]), "refused, and nothing behind it is taken for a request"
    assert len(target.seen) == before
    target.check_alive()


@pytest.mark.parametrize(
    "garbage", [b"\x00\x01\x02", b"GET", b"\r\n\r\nGARBAGE\r\n\r\n", b"nonsense\r\n\r\n", SMUGGLED, b"\xff" * 5000]
)
def test_garbage_behind_a_good_request_harms_no_other_connection(target: Target, garbage: bytes) -> None:
    statuses = target.check(target.send(frame(b"Content-Length: %d" % len(BODY)) + garbage))
    # What came together may be refused together.
    assert statuses[0] in {200, 400}
    assert all(400 <= status < 500 for status in statuses[1:])
    target.check_alive()


def test_requests_in_a_row_are_answered_in_a_row(target: Target) -> None:
    good = frame(b"Content-Length: %d" % len(BODY))
    bad = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    assert target.check(target.send((good + bad) * 20)) == [200, 401] * 20


@pytest.mark.parametrize(
    "line",
    [
        b"CONNECT 127.0.0.1:22 HTTP/1.1",
        b"GET http://10.0.0.1/v1/models HTTP/1.1",
        b"GET //10.0.0.1/ HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"TRACE / HTTP/1.1",
        b"GET /v1/models/%00 HTTP/1.1",
        b"GET /v1/models/%ff%fe HTTP/1.1",
        b"GET /v1/models/%zz HTTP/1.1",
        b"GET /v1/models/..%2f..%2fetc HTTP/1.1",
        b"GET /v1/models/" + MARK.encode() + b"?a=b#c HTTP/1.1",
        b"GET /v1/models HTTP/1.0",
        b"get /v1/models HTTP/1.1",
    ],
)
def test_strange_requests_are_answered_with_4xx(target: Target, line: bytes) -> None:
    statuses = target.check(target.send(line + b"\r\nHost: x\r\n\r\n"))
    assert all(400 <= status < 500 for status in statuses)
    statuses = target.check(target.send(line + f"\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()))
    assert all(status == 200 or 400 <= status < 500 for status in statuses)
    target.check_alive()


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c", b"TLS/1.0"])
def test_an_upgrade_is_not_made(target: Target, upgrade: bytes) -> None:
    lines = (b"Connection: Upgrade", b"Upgrade: " + upgrade, b"Content-Length: %d" % len(BODY))
    statuses = target.check(target.send(frame(*lines) + SMUGGLED))
    assert 101 not in statuses
    target.check_alive()


Token = st.sampled_from([
    b"GET", b"POST", b"HTTP/1.1", b"HTTP/9.9", b" ", b"  ", b"\r\n", b"\n", b"\r", b"\0", b":", b",", b"\t", b"/", b"*",
    b"/v1/chat/completions", b"/v1/models", b"Host: x", b"Content-Length: 5", b"Content-Length: 0", b"Content-Length:",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding:", b"Connection: close", b"Connection: keep-alive, upgrade",
    b"Expect: 100-continue", b"Expect: everything", b"Upgrade: h2c", b"0\r\n\r\n", b"5\r\nhello\r\n", b"{}", BODY,
    f"Authorization: Bearer {KEY}".encode(), b"\xff\xfe", b"a" * 9000, b"%", b"?", b"#", b"\r\n\r\n",
])  # fmt: skip


@many
@given(tokens=st.lists(Token | st.binary(max_size=8), max_size=25))
def test_any_sequence_of_pieces_of_http(target: Target, tokens: list[bytes]) -> None:
    target.check(target.send(b"".join(tokens)))


@many
@given(headers=st.lists(Token | st.binary(max_size=12), max_size=12))
def test_any_header_lines_in_a_good_request(target: Target, headers: list[bytes]) -> None:
    target.check(target.send(frame(*headers, b"Content-Length: %d" % len(BODY))))


@many
@given(data=st.data())
def test_a_good_request_with_bytes_changed(target: Target, data: st.DataObject) -> None:
    raw = bytearray(frame(b"Content-Length: %d" % len(BODY)))
    for _ in range(data.draw(st.integers(1, 5))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    target.check(target.send(bytes(raw)))


def test_it_still_answers(target: Target) -> None:
    target.check_alive()
