"""The stories of a serving pod, told with real processes: it starts, serves, drains, fails, hangs."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ServerDisconnectedError

from llmos.api.load import EngineLoad
from llmos_workers.serve.control import REFRESH_S

StartServe = Callable[..., Awaitable[Any]]


async def read_stream(response: Any) -> tuple[int, bool]:
    """Chunks of a streamed answer, and whether it came to its end."""
    chunks, is_complete = 0, False
    async for line in response.content:
        chunks += line.startswith(b"data: {")
        is_complete |= line.startswith(b"data: [DONE]")
    return chunks, is_complete


async def test_a_pod_is_ready_after_its_first_token_and_tells_its_load(start_serve: StartServe) -> None:
    serve = await start_serve("--start-delay-s", "0.5")
    await serve.wait_for("/healthz", 200)
    status, why = await serve.probe("/readyz")
    assert (status, why) == (503, "the engine is starting\n")
    await serve.wait_for("/readyz", 200)
    async with serve.complete(max_tokens=500, stream=True):
        await asyncio.sleep(0.5)
        told = EngineLoad.model_validate_json((await serve.probe("/load"))[1])
        assert (told.running, told.waiting, told.ready, told.draining) == (1, 0, True, False)


async def test_the_load_tells_what_the_engine_did_since_its_start(start_serve: StartServe) -> None:
    serve = await start_serve("--decode-step-ms", "1")
    await serve.wait_for("/readyz", 200)
    before = EngineLoad.model_validate_json((await serve.probe("/load"))[1])
    async with serve.complete(prompt=list(range(100)), max_tokens=20) as response:
        assert response.status == 200
    await asyncio.sleep(REFRESH_S)
    after = EngineLoad.model_validate_json((await serve.probe("/load"))[1])
    assert after.generation_tokens_total - before.generation_tokens_total == 20
    assert after.prompt_tokens_total - before.prompt_tokens_total == 100
    assert after.steps_total - before.steps_total == 20
    assert after.boot == before.boot
    assert after.boot
    assert after.age_s <= REFRESH_S, "figures are read when they are asked for"
    async with serve.complete(prompt=list(range(100)), max_tokens=1) as response:
        assert response.status == 200
    await asyncio.sleep(REFRESH_S)
    again = EngineLoad.model_validate_json((await serve.probe("/load"))[1])
    assert again.cached_tokens_total - after.cached_tokens_total == 96, "full blocks of the same prompt"
    assert again.prompt_tokens_total - after.prompt_tokens_total == 4


async def test_a_replica_that_was_never_asked_yet_tells_its_age(start_serve: StartServe) -> None:
    serve = await start_serve("--start-delay-s", "10")
    await serve.wait_for("/healthz", 200)
    first = EngineLoad.model_validate_json((await serve.probe("/load"))[1])
    await asyncio.sleep(0.5)
    second = EngineLoad.model_validate_json((await serve.probe("/load"))[1])
    assert not second.ready
    assert second.age_s > first.age_s, "figures that nobody read grow old"


async def test_a_drain_lets_streams_end_and_moves_kept_connections_away(
    start_serve: StartServe, drain_file: Path
) -> None:
    drain_file.parent.mkdir()
    drain_file.touch()  # noqa: ASYNC240 - left behind by the container's last run
    serve = await start_serve("--decode-step-ms", "10")
    await serve.wait_for("/readyz", 200)
    async with serve.complete(max_tokens=1) as before:
        assert "Connection" not in before.headers
    async with serve.complete(max_tokens=150, stream=True) as streaming:
        serve.process.send_signal(signal.SIGTERM)
        assert await serve.wait_for("/readyz", 503) == "draining\n"
        assert (await serve.probe("/healthz"))[0] == 200
        async with serve.complete(max_tokens=1) as during:
            assert during.status == 200
            assert during.headers["Connection"] == "close"
        assert json.loads((await serve.probe("/load"))[1])["draining"] is True
        assert await read_stream(streaming) == (150, True)
    assert await serve.wait_for_exit() == 0
    assert not serve.termination_log.exists()


async def test_an_idle_pod_stays_for_the_settle_time(start_serve: StartServe) -> None:
    serve = await start_serve(serve_args=("--settle-s=1",))
    await serve.wait_for("/readyz", 200)
    began = time.monotonic()
    serve.process.send_signal(signal.SIGTERM)
    assert await serve.wait_for_exit() == 0
    assert time.monotonic() - began >= 1


async def test_the_drain_timeout_ends_the_wait(start_serve: StartServe) -> None:
    serve = await start_serve("--decode-step-ms", "10", serve_args=("--drain-timeout-s=0.6",))
    await serve.wait_for("/readyz", 200)
    async with serve.complete(max_tokens=150, stream=True) as streaming:
        serve.process.send_signal(signal.SIGTERM)
        # The engine itself still gives what is in flight some seconds.
        assert await read_stream(streaming) == (150, True)
    assert await serve.wait_for_exit() == 0
    assert "drain timeout: 1 requests in flight" in serve.output.read_text()


async def test_a_second_signal_stops_at_once(start_serve: StartServe) -> None:
    serve = await start_serve()
    await serve.wait_for("/readyz", 200)
    engine = serve.find_engine()
    async with serve.complete(max_tokens=5000, stream=True):
        serve.process.send_signal(signal.SIGTERM)
        await serve.wait_for("/readyz", 503)
        serve.process.send_signal(signal.SIGINT)
        assert await serve.wait_for_exit(3) == 128 + signal.SIGINT
    assert not engine.is_running()


async def test_a_pod_that_is_still_starting_stops_without_a_drain(start_serve: StartServe) -> None:
    serve = await start_serve("--start-delay-s", "60", serve_args=("--settle-s=30",))
    await serve.wait_for("/healthz", 200)
    serve.process.send_signal(signal.SIGTERM)
    assert await serve.wait_for_exit(5) == 0


async def test_a_model_without_generation_is_ready_by_an_embedding(start_serve: StartServe) -> None:
    serve = await start_serve("--runner", "pooling")
    await serve.wait_for("/readyz", 200)


async def test_a_crash_leaves_a_termination_message(start_serve: StartServe) -> None:
    # The readiness probe is the first request.
    serve = await start_serve("--fault-crash-after-requests", "1")
    await serve.wait_for("/readyz", 200)
    with pytest.raises(ServerDisconnectedError):
        async with serve.complete(max_tokens=5):
            pass
    assert await serve.wait_for_exit() == 1
    told = serve.read_termination()
    assert told["reason"] == "EngineCrashed"
    assert "status 1" in told["message"]
    assert "kubectl logs" in told["message"]
    assert "EngineDeadError" in told["detail"]


@pytest.mark.parametrize(
    ("engine_args", "reason", "words"),
    [
        (("--no-such-flag",), "BadEngineArgument", "unrecognized arguments: --no-such-flag"),
        (("--port=1",), "BadEngineArgument", "--port is set by LLMOS"),
        (("--fault-start=oom",), "OutOfMemory", "CUDA out of memory"),
        (("--max-model-len=999", "--kv-blocks=3"), "DoesNotFit", "only 3 blocks is free"),
        (("--fault-start=crash",), "EngineCrashed", "Engine core initialization failed"),
    ],
)
async def test_a_failed_start_names_its_reason(
    start_serve: StartServe, engine_args: tuple[str, ...], reason: str, words: str
) -> None:
    serve = await start_serve(*engine_args)
    assert await serve.wait_for_exit() == 1
    told = serve.read_termination()
    assert told["reason"] == reason
    assert words in told["message"]


async def test_a_context_longer_than_the_models_is_told(start_serve: StartServe, tmp_path: Path) -> None:
    config = {"max_position_embeddings": 2048}
    (tmp_path / "config.json").write_text(json.dumps(config))
    serve = await start_serve("--max-model-len=4096", model_dir=str(tmp_path))
    assert await serve.wait_for_exit() == 1
    assert serve.read_termination()["reason"] == "ContextTooLong"
    assert "4096 tokens was asked for, the model has 2048" in serve.read_termination()["message"]


async def test_missing_model_files_are_told_without_starting_an_engine(start_serve: StartServe, tmp_path: Path) -> None:
    serve = await start_serve(model_dir=str(tmp_path / "nowhere"))
    assert await serve.wait_for_exit() == 1
    assert serve.read_termination()["reason"] == "ModelFilesMissing"
    assert "starting:" not in serve.output.read_text()


async def test_an_engine_that_never_comes_up_is_given_up(start_serve: StartServe) -> None:
    serve = await start_serve("--fault-start=hang", serve_args=("--start-timeout-s=1",))
    assert await serve.wait_for_exit() == 1
    assert serve.read_termination()["reason"] == "EngineStartTimeout"


async def test_an_engine_that_generates_nothing_is_given_up_with_its_last_answer(start_serve: StartServe) -> None:
    serve = await start_serve("--fault-error-rate=1", serve_args=("--start-timeout-s=3",))
    assert await serve.wait_for_exit() == 1
    told = serve.read_termination()
    assert told["reason"] == "ReadinessNeverReached"
    assert "status 500" in told["message"]


async def test_a_stalled_engine_turns_unhealthy_and_ends_without_a_drain(start_serve: StartServe) -> None:
    serve = await start_serve("--fault-hang-after-requests=1", serve_args=("--watchdog-s=0.5", "--drain-timeout-s=60"))
    await serve.wait_for("/readyz", 200)
    hanging = asyncio.create_task(_ask_in_vain(serve))
    assert "no progress" in await serve.wait_for("/healthz", 503)
    assert (await serve.probe("/readyz"))[0] == 503
    serve.process.send_signal(signal.SIGTERM)
    assert await serve.wait_for_exit(5) == 1
    with pytest.raises(ServerDisconnectedError):
        await hanging
    told = serve.read_termination()
    assert told["reason"] == "EngineHung"
    assert told["message"].startswith("The engine has made no progress for")


async def test_a_frozen_engine_is_unhealthy_until_it_answers_again(start_serve: StartServe) -> None:
    serve = await start_serve(serve_args=("--watchdog-s=0.5",))
    await serve.wait_for("/readyz", 200)
    engine = serve.find_engine()
    engine.suspend()
    assert "has not answered /health" in await serve.wait_for("/healthz", 503)
    engine.resume()
    await serve.wait_for("/healthz", 200)
    await serve.wait_for("/readyz", 200)


async def test_a_slow_but_living_engine_is_left_alone(start_serve: StartServe) -> None:
    # A prefill step of three seconds moves no counter, but the watchdog's own request is answered after it.
    serve = await start_serve("--prefill-tokens-per-s=333", serve_args=("--watchdog-s=2",))
    await serve.wait_for("/readyz", 200)
    async with serve.complete(prompt="x" * 4000, max_tokens=1) as response:
        assert response.status == 200
    assert (await serve.probe("/healthz"))[0] == 200
    output = serve.output.read_text()
    assert "asking for one token" in output
    assert "the engine has made no progress" not in output


async def _ask_in_vain(serve: Any) -> None:
    async with serve.complete(max_tokens=5):
        raise AssertionError("a hung engine answered")
