"""`llmos chat --url` against a real server on loopback: the simulator, as its own process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from llmos.cli.app import app
from tests.sdk.cli.simulator import is_idle_soon, run_simulator


@pytest.fixture(scope="module")
def simulator() -> Iterator[str]:
    with run_simulator() as url:
        yield url


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
    # A parent that runs in the background ignores SIGINT, and its children would inherit that.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from llmos.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "chat", "--url", simulator, "Tell me all."]
    with subprocess.Popen(
        [*command, "--max-tokens", "4000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.read(20)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    assert is_idle_soon(simulator)
