from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmos_workers.fetch.retry import RetryPolicy
from tests.workers.fetch.models import write_gguf
from tests.workers.fetch.servers import FileServer, Hub, serve

QUICK = RetryPolicy(attempts=4, first_wait_s=0.01, longest_wait_s=2.0)


@pytest.fixture(autouse=True)
def _no_credentials_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HF_ENDPOINT", "PIP_INDEX_URL", "AWS_ENDPOINT_URL", "LLMOS_CA_BUNDLE", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def quick() -> RetryPolicy:
    return QUICK


@pytest.fixture
def files() -> Iterator[FileServer]:
    server = FileServer()
    with serve(server.handle) as url:
        server.url = url
        yield server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub(FileServer())
    with serve(hub.handle) as url:
        hub.url = url
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield hub


@pytest.fixture(scope="session")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()
