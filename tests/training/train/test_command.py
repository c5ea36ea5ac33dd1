"""The real command: what it prints, serves and leaves."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable

from llmos_workers.train.termination import MAX_BYTES, build_message
from tests.training.train.world import DEADLINE_S, World


def test_the_command_trains_shows_metrics_and_stops_in_order(make_world: Callable[..., World]) -> None:
    world = make_world(hyperparameters={"epochs": 1000})
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "llmos_workers.train", *world.arguments[:-1], f"--metrics-port={port}"],
        env={**os.environ, "LLMOS_TERMINATION_LOG": str(world.message_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert _scrape(port, "llmos_train_step") >= 1
        assert _scrape(port, "llmos_train_total_steps") > 10000
        process.terminate()
        out, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    assert process.returncode == 143
    assert world.message["outcome"] == "stopped"
    lines = [json.loads(line) for line in out.splitlines()]
    assert {line["event"] for line in lines} == {"progress"}
    assert (lines[0]["phase"], lines[0].get("progress")) == ("loading", None), "before torch is imported"
    assert all(line["activeAt"] for line in lines)
    last = lines[-1]
    assert last["phase"] == "training"
    assert last["lastCheckpoint"]["step"] == last["progress"]["step"] == world.message["progress"]["step"]
    assert last["progress"].keys() >= {"step", "totalSteps", "epoch", "tokens", "tokensPerSecond", "loss", "display"}


def _scrape(port: int, name: str) -> float:
    """The value of a metric, once it is above zero."""
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            lines = []
        values = [float(line.split()[1]) for line in lines if line.startswith(f"{name} ")]
        if values and values[0] > 0:
            return values[0]
        time.sleep(0.05)
    raise AssertionError(f"{name} stays zero")


def test_a_message_that_is_too_long_keeps_what_gates_ask_for() -> None:
    metrics = [
        {"name": f"{'suite' * 8}{number:02d}_exact_match", "base": 1 / 3, "result": 2 / 3, "examples": 100000}
        for number in range(40)
    ]
    gated = f"{metrics[-1]['name']}"
    text = build_message(
        {"outcome": "complete", "progress": {"display": "1/1"}, "evaluation": {"metrics": metrics}, "output": {}},
        gated=[gated],
    )
    assert len(text.encode()) <= MAX_BYTES
    message = json.loads(text)
    assert message["evaluation"]["metrics"][0]["name"] == gated
    assert message["outcome"] == "complete"
