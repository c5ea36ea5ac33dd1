"""TLS from files, and new files while the gateway runs."""

from __future__ import annotations

import asyncio
import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from llmos_gateway.http.tls import TlsFiles
from tests.gateway.stage import open_gateway


def write_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a certificate that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for path, content in ((folder / "tls.crt", certificate.public_bytes(pem)), (folder / "tls.key", private)):
        fresh = path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(path)
    return folder / "tls.crt", folder / "tls.key"


async def _say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def read_name(port: int) -> str:
    """Return the name in the certificate that a port shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    (name,) = x509.load_der_x509_certificate(shown).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


async def test_callers_are_served_over_tls(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path, "first")
    async with open_gateway(certificate=certificate, key=key) as stage:
        assert stage.url.startswith("https://")
        async with stage.get("/v1/models", ssl=False) as response:
            assert response.status == 200
        assert await read_name(int(stage.url.rpartition(":")[2])) == "first"


async def test_new_files_are_used_for_new_connections(tmp_path: Path) -> None:
    files = TlsFiles(*write_pair(tmp_path, "first"))
    server = await asyncio.start_server(_say_nothing, "127.0.0.1", 0, ssl=files.context)
    port = server.sockets[0].getsockname()[1]
    async with server:
        assert await read_name(port) == "first"
        assert not files.reload()
        write_pair(tmp_path, "second")
        assert files.reload()
        assert await read_name(port) == "second"


async def test_a_pair_that_does_not_fit_leaves_the_old_one_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = TlsFiles(*write_pair(tmp_path, "first"))
    (tmp_path / "other").mkdir()
    _, other_key = write_pair(tmp_path / "other", "other")
    os.replace(other_key, tmp_path / "tls.key")  # noqa: PTH105 - as a renewal half done
    assert not files.reload()
    assert "stay in use" in caplog.text
    server = await asyncio.start_server(_say_nothing, "127.0.0.1", 0, ssl=files.context)
    async with server:
        assert await read_name(server.sockets[0].getsockname()[1]) == "first"
    write_pair(tmp_path, "third")
    assert files.reload()


def test_files_that_are_missing_are_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="tls"):
        TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
