"""The command line as a process: exit codes, termination log, progress, what a kill leaves, and that nothing leaks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmos.api import REASONS, Reason, ResolvedModel
from llmos_workers.certificates import build_ca_environment
from llmos_workers.fetch.errors import InvalidSourceError
from llmos_workers.fetch.main import build_failure_json, main
from llmos_workers.fetch.progress import Progress
from llmos_workers.fetch.redaction import redact
from tests.workers.fetch.models import PARAMETERS, build_model
from tests.workers.fetch.servers import Fault, FileServer


@dataclass
class Step:
    """Runs the command line in this process and keeps what it leaves."""

    termination: Path
    capsys: pytest.CaptureFixture[str]
    stdout: str = ""
    stderr: str = ""

    def run(self, *arguments: str) -> int:
        code = main(arguments)
        self.stdout, self.stderr = self.capsys.readouterr()
        return code

    @property
    def failure(self) -> dict[str, str]:
        left: dict[str, str] = json.loads(self.termination.read_text())
        return left


@pytest.fixture
def step(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Step:
    monkeypatch.setenv("LLMOS_TERMINATION_LOG", str(tmp_path / "termination"))
    return Step(tmp_path / "termination", capsys)


@pytest.fixture
def uri(files: FileServer) -> str:
    files.files = {f"m/{name}": data for name, data in build_model().items()}
    return f"{files.url}/m"


def test_inspect_leaves_the_facts_in_the_termination_log(uri: str, step: Step) -> None:
    assert step.run("inspect", "--source", uri, "--format", "auto") == 0
    facts = ResolvedModel.model_validate_json(step.termination.read_text())
    assert facts.parameters == PARAMETERS
    assert ResolvedModel.model_validate_json(step.stdout.splitlines()[-1]) == facts


def test_fetch_ends_with_a_line_of_progress(uri: str, step: Step, tmp_path: Path) -> None:
    assert step.run("fetch", "--source", uri, "--revision", "", "--dest", str(tmp_path / "volume")) == 0
    last = json.loads(step.stdout.splitlines()[-1])
    assert last["bytesDone"] == last["bytesTotal"] > 0
    assert last["etaSeconds"] == 0
    assert (tmp_path / "volume/model/config.json").is_file()


def test_a_failure_names_reason_cause_and_remedy_and_no_secret(
    uri: str, files: FileServer, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijk")
    files.faults["m/manifest.json"] = [Fault(403)]
    secret_uri = uri.replace("http://", "http://user:hunter22@") + "?X-Amz-Signature=sig0123456789"
    assert step.run("inspect", "--source", secret_uri) == 1
    assert step.failure["reason"] == "AccessDenied"
    assert "answered 403" in step.failure["message"]
    assert step.failure["message"].endswith(REASONS[Reason.AccessDenied].remedy)
    everything = step.stdout + step.stderr + step.termination.read_text()
    assert not [secret for secret in ("hunter22", "sig0123456789", "hf_abcdefghijk") if secret in everything]


def test_what_may_pass_by_itself_ends_with_75(uri: str, files: FileServer, step: Step) -> None:
    files.faults["m/manifest.json"] = [Fault(503)] * 9
    assert step.run("inspect", "--source", uri, "--attempts", "2", "--first-wait-s", "0.01") == 75
    assert step.failure["reason"] == "SourceUnavailable"
    assert "attempt 1 failed" in step.failure["detail"]


def test_a_killed_download_goes_on_where_it_was(files: FileServer, step: Step, tmp_path: Path) -> None:
    size_bytes = 20 << 20
    header = json.dumps({"w": {"dtype": "U8", "shape": [size_bytes], "data_offsets": [0, size_bytes]}}).encode()
    data = len(header).to_bytes(8, "little") + header + os.urandom(size_bytes)
    files.files = {"m/model.safetensors": data, "m/config.json": b"{}"}
    files.faults["m/model.safetensors"] = [Fault(pause_s=0.1)]
    volume = tmp_path / "volume"
    command = [
        sys.executable,
        "-m",
        "llmos_workers.fetch",
        "fetch",
        "--source",
        f"{files.url}/m",
        "--dest",
        str(volume),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        part_bytes = _wait_for_part(volume, 3 << 20)
        process.send_signal(signal.SIGKILL)
    assert not (volume / "model").exists()
    assert step.run(*command[3:]) == 0
    assert (volume / "model/model.safetensors").read_bytes() == data
    resumed = [asked for method, path, asked in files.requests if method == "GET" and path == "m/model.safetensors"][-1]
    assert int(resumed.removeprefix("bytes=").rstrip("-")) >= part_bytes
    assert json.loads(step.stdout.splitlines()[0])["bytesDone"] >= part_bytes


def _wait_for_part(volume: Path, least_bytes: int) -> int:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        for part in volume.glob(".incoming-*/model/model.safetensors.part"):
            if (size_bytes := part.stat().st_size) >= least_bytes:
                return size_bytes
        time.sleep(0.02)
    raise TimeoutError


def test_gguf_needs_the_image_with_torch_and_says_so(
    files: FileServer, step: Step, tmp_path: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    files.files["x/tiny.gguf"] = gguf_bytes
    assert step.run("fetch", "--source", f"{files.url}/x/tiny.gguf", "--dest", str(tmp_path / "volume")) == 1
    assert step.failure["reason"] == "ConversionFailed"
    assert "llmos-worker" in step.failure["message"]


def test_an_unknown_scheme_is_invalid(step: Step) -> None:
    assert step.run("inspect", "--source", "ftp://host/model") == 1
    assert step.failure["reason"] == "InvalidSource"


def test_a_ca_bundle_is_given_to_every_client(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    assert build_ca_environment({"LLMOS_CA_BUNDLE": str(bundle)}) == {}
    bundle.write_text("certificates")
    given = build_ca_environment({"LLMOS_CA_BUNDLE": str(bundle)})
    assert given["SSL_CERT_FILE"] == given["REQUESTS_CA_BUNDLE"] == given["AWS_CA_BUNDLE"] == str(bundle)


def test_a_failure_fits_a_termination_log_whatever_it_holds() -> None:
    for letter in ("x", "ü", '"', "\x01"):
        text = build_failure_json(InvalidSourceError(letter * 20_000), [letter * 5_000] * 20)
        assert len(text.encode()) <= 4096
        assert json.loads(text)["reason"] == "InvalidSource"


def test_redaction_keeps_the_place_and_hides_the_rest() -> None:
    environment = {"AWS_SECRET_ACCESS_KEY": "abc/def+ghi", "PATH": "/usr/bin"}
    text = "GET https://me:pw@host/path?sig=1#f failed: abc/def+ghi, Bearer abcdefghijkl, hf_0123456789, /usr/bin"
    assert redact(text, environment) == "GET https://host/path failed: [hidden], [hidden], [hidden], /usr/bin"


def test_progress_prints_at_most_once_a_second_and_forgets_old_rates() -> None:
    now_s, lines = [0.0], []

    class Out:
        def write(self, text: str) -> int:
            lines.append(text)
            return len(text)

        def flush(self) -> None:
            return

    progress = Progress(1000, Out(), lambda: now_s[0])  # type: ignore[arg-type]  # only these two are called
    for step in range(40):
        now_s[0] = step * 0.1
        progress.add(10)
    assert len([line for line in lines if line.strip()]) == 4
    assert progress.compute(4.0).bytes_per_second == 100
    assert progress.compute(4.0).eta_seconds == 6
    assert progress.compute(100.0).eta_seconds is None
