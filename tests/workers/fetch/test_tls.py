"""A private certificate authority: every client refuses it, and with LLMOS_CA_BUNDLE every client trusts it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmos_workers.certificates import build_ca_environment
from llmos_workers.fetch.errors import EXIT_PERMANENT, CertificateNotTrustedError, TemporaryError
from llmos_workers.fetch.inspection import inspect_model
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.fetch.sources import open_source
from tests.authority import Authority, make_authority
from tests.workers.fetch.models import PARAMETERS, build_model
from tests.workers.fetch.servers import FileServer, Hub, add_to_index, build_wheel, serve

ONCE = RetryPolicy(attempts=1)
LISTING = "<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>%s</ListBucketResult>"
ENTRY = (
    "<Contents><Key>m/%s</Key><LastModified>2026-01-01T00:00:00Z</LastModified><ETag></ETag><Size>%d</Size></Contents>"
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def uri(request: pytest.FixtureRequest, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same model behind TLS, for each kind of client."""
    model = build_model()
    files, hub = FileServer({f"m/{name}": data for name, data in model.items()}), Hub(FileServer(model))
    with serve(hub.handle if request.param == "hf" else files.handle, authority.tls) as url:
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
    uri: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    said = r"certificate.*fetch\.caBundleConfigMap"
    with pytest.raises(CertificateNotTrustedError, match=said), open_source(uri) as source:
        inspect_model(source, "auto")
    for name, value in build_ca_environment({"LLMOS_CA_BUNDLE": str(authority.bundle)}).items():
        monkeypatch.setenv(name, value)
    with open_source(uri) as source:
        assert inspect_model(source, "auto", retry=ONCE).parameters == PARAMETERS


def test_a_certificate_that_is_not_trusted_is_not_asked_for_again() -> None:
    assert CertificateNotTrustedError.exit_code == EXIT_PERMANENT
    assert not issubclass(CertificateNotTrustedError, TemporaryError)
