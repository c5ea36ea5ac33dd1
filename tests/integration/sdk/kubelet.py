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

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

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
def run_kubelet(host: str, folder: Path) -> Iterator[Kubelet]:
    """A kubelet on the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            serve_log(kubelet, self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (as above)
            """Keep the output of the tests clean."""

    server = ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    server.socket = build_tls(folder).wrap_socket(server.socket, server_side=True)
    kubelet = Kubelet(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield kubelet
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def build_tls(folder: Path) -> ssl.SSLContext:
    """A certificate of nobody, as kubelets have by default."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubelet")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = folder / "kubelet.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context
