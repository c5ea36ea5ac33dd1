"""serve owns where the engine listens and how it ends; the rest is the user's."""

from __future__ import annotations

import pytest

from llmos_workers.serve.command import (
    EngineName,
    EngineOptions,
    build_command,
    build_environment,
    find_owned_arguments,
)


def options(engine: EngineName, *arguments: str) -> EngineOptions:
    return EngineOptions(engine, "/model", "name", "127.0.0.1", 8000, arguments)


def test_vllm_gets_its_model_the_drain_middleware_and_the_users_arguments_last() -> None:
    command = build_command(options("vllm", "--max-num-seqs", "64"), python="python")
    assert " ".join(command) == (
        "python -m vllm.entrypoints.openai.api_server --model /model --served-model-name name --host 127.0.0.1 "
        "--port 8000 --shutdown-timeout 10 --middleware llmos_workers.serve.drain.DrainMiddleware "
        "--disable-access-log-for-endpoints /health,/metrics --max-num-seqs 64"
    )


def test_the_simulator_is_called_like_vllm() -> None:
    command = build_command(options("simulator", "--seed", "3"), python="python")
    assert command[:5] == ("python", "-m", "llmos_workers.simulate", "--model-dir", "/model")
    assert command[-2:] == ("--seed", "3")


@pytest.mark.parametrize("argument", ["--port=9", "--served_model_name", "--ssl-keyfile", "--api-key=x", "--ssl-key=x"])
def test_arguments_that_would_hide_the_engine_are_found(argument: str) -> None:
    assert len(find_owned_arguments(["--max-num-seqs", "3", argument])) == 1


def test_other_arguments_are_the_users() -> None:
    assert find_owned_arguments(["--max-num-seqs", "port", "--enable-lora"]) == {}


def test_what_the_user_sets_in_the_environment_stays() -> None:
    environment = build_environment({"HF_HUB_OFFLINE": "0", "A": "b"})
    assert environment["HF_HUB_OFFLINE"] == "0"
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert environment["A"] == "b"
