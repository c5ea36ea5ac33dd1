"""The part of a kubelet that the API server fetches logs from: HTTPS, `/containerLogs/NAMESPACE/POD/CONTAINER`.

It obeys `sinceTime`, `tailLines` and `follow` as the real one does, from logs that a test writes.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

LOG_S = 60


class Kubelet:
    """Logs by pod and container, and what was asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.logs: dict[tuple[str, str], list[str]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.ended: set[str] = set()
        """Pods whose containers write nothing more."""

    def write(self, pod: str, container: str, *texts: str) -> None:
        """Add lines, each a millisecond after the one before."""
        lines = self.logs.setdefault((pod, container), [])
        for text in texts:
            stamp = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(milliseconds=len(lines))
            lines.append(f"{stamp:%Y-%m-%dT%H:%M:%S.%f}000Z {text}")


def serve_log(kubelet: Kubelet, request: BaseHTTPRequestHandler) -> None:
    """Answer one request of the API server."""
    url = urlsplit(request.path)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    _, _, _namespace, pod, container = url.path.split("/")
    kubelet.asked.append((pod, query))
    lines = kubelet.logs.get((pod, container), [])
    since = query.get("sinceTime", "").removesuffix("Z")
    start = len(lines) - int(query["tailLines"]) if "tailLines" in query else 0
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    given, deadline = max(0, start), time.monotonic() + LOG_S
    while True:
        for line in lines[given:]:
            if line[:19] >= since:
                body = f"{line}\n".encode()
                request.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n")
        given = len(lines)
        request.wfile.flush()
        if query.get("follow") != "true" or pod in kubelet.ended or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    request.wfile.write(b"0\r\n\r\n")


@contextmanager
def run_kubelet(host: str, pki: Path) -> Iterator[Kubelet]:
    """A kubelet on the address, with the certificate that the cluster's authority gave for it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            serve_log(kubelet, self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (as above)
            """Keep the output of the tests clean."""

    server = ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pki / "kubelet.crt", pki / "kubelet.key")
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    kubelet = Kubelet(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield kubelet
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
