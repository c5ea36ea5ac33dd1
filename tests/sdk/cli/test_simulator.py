"""`llmos chat --url` against a real server on loopback: the simulator, as its own process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from typer.testing import CliRunner

from llmos.cli.app import app

START_TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def simulator() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llmos_workers.simulate", "--port", str(port), "--served-model-name", "sim"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_it_answers(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def wait_until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=2, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(f"the simulator did not start; exit status {process.poll()}")


def test_a_real_server_streams_an_answer(simulator: str) -> None:
    result = CliRunner().invoke(app, ["chat", "--url", simulator, "What is it like?", "--max-tokens", "12"])
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.split()) > 3


def test_a_real_server_counts_its_tokens(simulator: str) -> None:
    result = CliRunner().invoke(app, ["chat", "--url", f"{simulator}/v1", "Hello", "--max-tokens", "12", "--json"])
    answer = json.loads(result.stdout)
    assert (answer["model"], answer["usage"]["completionTokens"], answer["finishReason"]) == ("sim", 12, "length")


def test_a_real_servers_refusal_is_quoted(simulator: str) -> None:
    result = CliRunner().invoke(app, ["chat", "--url", simulator, "Hello", "--model", "unknown"])
    assert result.exit_code == 1
    assert "unknown" in result.stderr
    assert "what to do:" in result.stderr


def test_ctrl_c_on_the_real_program_ends_the_answer_and_the_program(simulator: str) -> None:
    command = [sys.executable, "-c", "from llmos.cli import main; main()", "chat", "--url", simulator, "Tell me all."]
    with subprocess.Popen(
        [*command, "--max-tokens", "4000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.read(20)
        process.send_signal(2)
        assert process.wait(timeout=30) == 130
    deadline = time.monotonic() + 10
    while running_requests(simulator) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running_requests(simulator) == 0


def running_requests(url: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=5, trust_env=False).text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))
