"""The program itself: its command line, its output, its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.gateway.engines import ANSWER, open_engine
from tests.gateway.stage import CHAT, DEADLINE_S, KEY


@contextmanager
def run_gateway(folder: Path, *arguments: str, address: str = "127.0.0.1:1") -> Iterator[subprocess.Popen[str]]:
    catalog = folder / "catalog.yaml"
    catalog.write_text(
        f"pools: [{{namespace: team, name: chat, model: qwen, endpoints: ['{address}']}}]\nkeys: [{{key: {KEY}}}]\n"
    )
    command = [sys.executable, "-m", "llmos_gateway.main", "run", "--host", "127.0.0.1", "--port", "0"]
    command += ["--admin-port", "0", "--catalog", str(catalog), "--settle-s", "0", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_ports(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Return the public and the admin port from the first line of the log."""
    assert process.stderr is not None
    words = json.loads(process.stderr.readline())["message"].replace(",", "").replace(".", "").split()
    port, admin_port = (int(word) for word in words if word.isdigit())
    return port, admin_port


async def test_the_program_serves_logs_and_ends_by_sigterm(tmp_path: Path) -> None:
    async with open_engine() as engine, aiohttp.ClientSession() as client:
        with run_gateway(tmp_path, address=engine.address) as process:
            port, admin_port = await asyncio.to_thread(read_ports, process)
            async with client.get(f"http://127.0.0.1:{admin_port}/readyz") as response:
                assert response.status == 200
            headers = {"Authorization": f"Bearer {KEY}"}
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            async with client.post(url, json=CHAT, headers=headers) as response:
                assert await response.json() == ANSWER
            process.send_signal(signal.SIGTERM)
            out, _ = await asyncio.to_thread(process.communicate, timeout=DEADLINE_S)
    assert process.returncode == 0
    (line,) = map(json.loads, out.splitlines())
    assert line["status"] == 200
    assert line["pool"] == "team/chat"


def test_a_catalog_that_cannot_be_read_ends_the_program_with_a_reason(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.yaml")
    with run_gateway(tmp_path, "--catalog", missing) as process:
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert "missing.yaml cannot be used" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("content", "complaint"), [(b"short", "at least 32"), (None, "No such file")])
def test_a_secret_that_cannot_be_used_ends_the_program_with_a_reason(
    tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    with run_gateway(tmp_path, "--cache-salt-secret-file", str(secret)) as process:
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert complaint in err
    assert "Traceback" not in err


@pytest.mark.parametrize("has_secret", [True, False])
async def test_gateways_with_one_secret_send_one_salt_and_one_without_says_so(tmp_path: Path, has_secret: bool) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 32)
    arguments = ["--cache-salt-secret-file", str(tmp_path / "secret")] if has_secret else []
    said = []
    async with open_engine() as engine, aiohttp.ClientSession() as client:
        for _ in range(2):
            with run_gateway(tmp_path, *arguments, address=engine.address) as process:
                port, _ = await asyncio.to_thread(read_ports, process)
                url = f"http://127.0.0.1:{port}/v1/chat/completions"
                async with client.post(url, json=CHAT, headers={"Authorization": f"Bearer {KEY}"}) as response:
                    assert response.status == 200
                process.send_signal(signal.SIGTERM)
                assert process.stderr is not None
                # To the end of the file: `communicate` would lose what the reading of the ports has buffered.
                err = await asyncio.wait_for(asyncio.to_thread(process.stderr.read), DEADLINE_S)
                said += [json.loads(line) for line in err.splitlines()]
    assert len({body["cache_salt"] for body in engine.bodies}) == (1 if has_secret else 2)
    warnings = [entry["message"] for entry in said if entry["level"] == "warning"]
    assert len(warnings) == (0 if has_secret else 2)
    assert all("--cache-salt-secret-file" in message for message in warnings)


@pytest.mark.parametrize("arguments", [("--tls-key", "key.pem"), ("--auth", "maybe"), ("--port", "99999")])
def test_nonsense_on_the_command_line_is_refused(tmp_path: Path, arguments: tuple[str, str]) -> None:
    with run_gateway(tmp_path, *arguments) as process:
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert "Traceback" not in err


def test_tracing_is_imported_only_where_it_is_configured() -> None:
    program = "import sys, llmos_gateway.main; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


async def test_a_url_of_a_store_that_cannot_be_read_is_told_without_its_password(tmp_path: Path) -> None:
    with run_gateway(tmp_path, "--budget-store", "redis://:geheim/nis@store:6379/0") as process:
        out, errors = await asyncio.to_thread(process.communicate, timeout=DEADLINE_S)
    assert process.returncode == 2
    assert "%2F" in errors
    assert "geheim" not in out + errors
