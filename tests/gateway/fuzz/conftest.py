"""The gateway as a process of its own, before an engine that answers everything and remembers what reached it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmos_gateway.http.public import ENGINE_PATHS, PARTS
from tests.gateway.stage import CHAT, DEADLINE_S, KEY

MARK = "smuggled"
"""Stands in everything that must never reach the engine as a request of its own."""
QUIET_S = 0.25
"""How long a gateway may be silent about bytes that are no whole request."""


@dataclass
class Target:
    """A running gateway, and what its engine got."""

    port: int
    engine_port: int
    process: subprocess.Popen[bytes]
    seen: list[tuple[str, Any]] = field(default_factory=list)
    """Paths and bodies that reached the engine."""

    def send(self, data: bytes, quiet_s: float = QUIET_S) -> bytes:
        """Send bytes and return what comes back until the gateway closes or is silent for so long."""
        received = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S) as connection:
            try:
                connection.sendall(data)
                connection.settimeout(quiet_s)
                while piece := connection.recv(65536):
                    received += piece
            except (TimeoutError, ConnectionError):
                pass
        return received

    def ask(self, body: bytes, path: str = "/v1/chat/completions") -> tuple[int, bytes]:
        """Send a body in a well-formed request; return status and body of the answer."""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
        # It is whole, and the gateway closes after its answer, however busy the machine is.
        received = self.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, DEADLINE_S)
        answer_head, _, answer = received.partition(b"\r\n\r\n")
        return int(answer_head.split(b" ", 2)[1]), answer

    def check(self, received: bytes) -> list[int]:
        """Return the statuses in what came back; none may be a fault, and nothing may leak."""
        for secret in (b"Traceback", b"aiohttp", b".py", str(self.engine_port).encode()):
            assert secret not in received, received
        # Heads only: an answer's body holds no line that begins like one.
        heads = received.split(b"HTTP/1.1 ")[1:] + received.split(b"HTTP/1.0 ")[1:]
        statuses = [int(head[:3]) for head in heads]
        assert all(200 <= status < 300 or 400 <= status < 500 for status in statuses), received
        assert {path for path, _ in self.seen} <= {ENGINE_PATHS.get(path, path) for path in PARTS}
        assert not any(MARK in json.dumps(body.get("model", "")) for _, body in self.seen)
        return statuses

    def check_alive(self) -> None:
        """The process runs, and a good request is answered."""
        assert self.process.poll() is None
        assert self.ask(json.dumps(CHAT).encode())[0] == 200


@pytest.fixture(scope="package")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Run a gateway for all tests here; it must have nothing to say of them in its own log."""
    seen: list[tuple[str, Any]] = []
    engine = ThreadingHTTPServer(("127.0.0.1", 0), _build_handler(seen))
    serving = threading.Thread(target=engine.serve_forever, daemon=True)
    serving.start()
    folder = tmp_path_factory.mktemp("gateway")
    process = _start_gateway(folder, engine.server_port)
    assert process.stderr is not None
    words = json.loads(process.stderr.readline())["message"].replace(",", "").split()
    running = Target(next(int(word) for word in words if word.isdigit()), engine.server_port, process, seen)
    try:
        yield running
        running.check_alive()
        process.terminate()
        _, said = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
        process.wait()
        engine.shutdown()
        engine.server_close()
        serving.join()
    assert [line for line in said.splitlines() if json.loads(line)["level"] != "info"] == []
    assert process.returncode == 0


def _start_gateway(folder: Path, engine_port: int) -> subprocess.Popen[bytes]:
    catalog = folder / "catalog.yaml"
    catalog.write_text(
        f"pools: [{{namespace: team, name: chat, model: qwen, endpoints: ['127.0.0.1:{engine_port}']}}]\n"
        f"keys: [{{key: {KEY}}}]\n"
    )
    command = [sys.executable, "-m", "llmos_gateway.main", "run", "--host", "127.0.0.1", "--port", "0"]
    command += ["--admin-port", "0", "--catalog", str(catalog), "--settle-s", "0", "--no-access-log"]
    secret = folder / "secret"
    secret.write_bytes(bytes(32))
    command += ["--max-body-mib", "1", "--cache-salt-secret-file", str(secret)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)


def _build_handler(seen: list[tuple[str, Any]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, body))
            answer = b'{"choices":[]}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    return Handler
