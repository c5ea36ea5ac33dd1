"""Adapters of a replica: serve as a real process with the simulator, share pods as real processes, all on loopback."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmos.api.adapters import compute_token_hash
from llmos_workers.share.app import observe_manifest
from tests.workers.fetch.models import build_adapter, write_files
from tests.workers.serve.conftest import START_S, Serve, StartServe, find_free_ports

TOKEN, SHARE_TOKEN = "of-the-pool", "of-the-model"
ENGINE_ARGS = ("--enable-lora", "--max-loras=4", "--max-cpu-loras=8", "--max-lora-rank=16")
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Share:
    """A share pod that runs."""

    url: str
    digest: str
    process: asyncio.subprocess.Process

    def want(self, name: str = "support", **change: str) -> dict[str, str]:
        return {"name": name, "digest": self.digest, "url": self.url, "token": SHARE_TOKEN, **change}


StartShare = Callable[..., Awaitable[Share]]


@pytest.fixture
async def share(tmp_path: Path) -> AsyncIterator[StartShare]:
    started: list[asyncio.subprocess.Process] = []

    async def start(files: dict[str, bytes], *, port: int = 0) -> Share:
        folder = write_files(tmp_path / f"share-{len(started)}", files)
        port = port or find_free_ports(1)[0]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "llmos_workers.share", f"--dir={folder}", "--host=127.0.0.1", f"--port={port}"),
            env={**os.environ, "LLMOS_TOKEN_SHA256": compute_token_hash(SHARE_TOKEN)},
        )
        started.append(process)
        await until(lambda: listens(port), bool)
        return Share(f"http://127.0.0.1:{port}", observe_manifest(folder).digest, process)

    yield start
    for process in started:
        if process.returncode is None:
            process.terminate()
            await process.wait()


@pytest.fixture
def patience_s() -> float:
    """Longer than any test: where readiness comes, it is not because the time is over."""
    return 600


@pytest.fixture
async def replica(start_serve: StartServe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience_s: float) -> Serve:
    monkeypatch.setenv("LLMOS_TOKEN_SHA256", compute_token_hash(TOKEN))
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    own = (f"--adapter-dir={tmp_path / 'adapters'}", "--adapters-bytes=100000")
    times = (f"--adapters-timeout-s={patience_s}", "--drain-timeout-s=600")
    return await start_serve(*ENGINE_ARGS, "--decode-step-ms=20", serve_args=(*own, *times))


async def put(serve: Serve, *wanted: dict[str, str], headers: dict[str, str] = AUTHORIZED) -> Any:
    """PUT the list; the answer, or its status."""
    url = f"http://127.0.0.1:{serve.control_port}/adapters"
    async with serve.session.put(url, json={"adapters": wanted}, headers=headers) as answer:
        return (await answer.json())["adapters"] if answer.status == 200 else answer.status


async def read(serve: Serve) -> dict[str, Any]:
    async with serve.session.get(f"http://127.0.0.1:{serve.control_port}/adapters") as answer:
        return {adapter["name"]: adapter for adapter in (await answer.json())["adapters"]}


async def until(look: Callable[[], Awaitable[Any]], is_so: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(START_S):
        while True:
            seen = await look()
            if is_so(seen):
                return seen
            await asyncio.sleep(0.05)


async def wait_for(serve: Serve, name: str, *, state: str) -> None:
    await until(lambda: read(serve), lambda held: name in held and held[name]["state"] == state)


async def wait_for_failure(serve: Serve, name: str, words: str) -> None:
    """Wait until an adapter has failed for this reason: it may have failed for another one before."""
    await until(lambda: read(serve), lambda held: held[name]["state"] == "failed" and words in held[name]["message"])


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def served(serve: Serve) -> dict[str, str]:
    async with serve.session.get(f"{serve.engine_url}/v1/models") as answer:
        return {card["id"]: card["root"] for card in (await answer.json())["data"] if card["parent"]}


async def say(serve: Serve, model: str) -> str:
    async with serve.complete(model=model, max_tokens=8) as answer:
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["choices"][0]["text"])


async def start_listening(serve: Serve) -> None:
    await until(lambda: serve.probe("/adapters"), lambda told: told[0] != 0)


async def start(serve: Serve, *wanted: dict[str, str]) -> None:
    """Tell the first list, and wait until the replica is ready."""
    await start_listening(serve)
    await put(serve, *wanted)
    await serve.wait_for("/readyz", 200)


async def test_a_replica_is_not_ready_before_its_adapters_are_loaded(replica: Serve, share: StartShare) -> None:
    source = await share(build_adapter())
    await start_listening(replica)
    (held,) = await put(replica, source.want())
    assert held["state"] == "loading"
    assert await replica.wait_for("/readyz", 200)
    assert (await read(replica))["support"]["state"] == "loaded"
    assert await say(replica, "support") != await say(replica, "m")


async def test_readiness_waits_for_the_list(replica: Serve) -> None:
    await start_listening(replica)
    await until(lambda: replica.probe("/readyz"), lambda told: "has not told" in told[1])
    await put(replica)
    assert await replica.wait_for("/readyz", 200)


@pytest.mark.parametrize("patience_s", [1])
async def test_readiness_does_not_wait_for_ever(replica: Serve) -> None:
    assert await replica.wait_for("/readyz", 200)
    assert "ready without adapters: the operator has not told" in replica.output.read_text()


@pytest.mark.parametrize("patience_s", [1])
async def test_an_adapter_that_cannot_be_had_does_not_keep_the_base_model_away(
    replica: Serve, share: StartShare
) -> None:
    good = await share(build_adapter())
    await start_listening(replica)
    (port,) = find_free_ports(1)
    await put(replica, good.want("good"), good.want("lost", url=f"http://127.0.0.1:{port}"))
    await replica.wait_for("/readyz", 200)
    await wait_for(replica, "good", state="loaded")
    await wait_for_failure(replica, "lost", "share pod does not answer")


async def test_it_goes_on_trying_until_the_share_is_there(replica: Serve, share: StartShare) -> None:
    await start(replica)
    (port,) = find_free_ports(1)
    folder_of = await share(build_adapter())
    await put(replica, folder_of.want(url=f"http://127.0.0.1:{port}"))
    await wait_for(replica, "support", state="failed")
    await share(build_adapter(), port=port)
    await wait_for(replica, "support", state="loaded")


async def test_a_new_version_of_the_same_name_is_really_loaded_and_nobody_misses_the_name(
    replica: Serve, share: StartShare
) -> None:
    first, second = await share(build_adapter()), await share(build_adapter(seed=8))
    await start(replica, first.want())
    before, text = await served(replica), await say(replica, "support")

    second_loaded = {"name": "support", "digest": second.digest, "state": "loaded", "message": ""}
    all_ask = asyncio.Barrier(5)

    async def keep_asking() -> None:
        await say(replica, "support")
        await all_ask.wait()
        while (await read(replica))["support"] != second_loaded:
            await say(replica, "support")

    async with asyncio.timeout(START_S), asyncio.TaskGroup() as asking:
        for _ in range(all_ask.parties - 1):
            asking.create_task(keep_asking())
        await all_ask.wait()
        await put(replica, second.want())
    after = await served(replica)
    assert after["support"] != before["support"]
    assert await say(replica, "support") != text


async def test_a_detached_adapter_serves_until_its_requests_have_ended(
    replica: Serve, share: StartShare, tmp_path: Path
) -> None:
    source = await share(build_adapter())
    await start(replica, source.want())
    async with replica.complete(model="support", max_tokens=10_000, stream=True) as endless:
        await endless.content.readline()
        # Longer than what it serves at least, that requests may still arrive.
        async with replica.complete(model="support", max_tokens=150, stream=True) as answer:
            await answer.content.readline()
            assert await put(replica) == []
            assert b"[DONE]" in await answer.read()
        assert "support" in await served(replica)
    await until(lambda: served(replica), lambda names: "support" not in names)
    async with replica.complete(model="support", max_tokens=8) as answer:
        assert answer.status == 404

    async def look() -> list[Path]:
        return [path for path in (tmp_path / "adapters").rglob("*") if path.is_file()]

    await until(look, lambda left: not left)


async def test_files_that_are_not_the_ones_that_were_inspected_are_refused(replica: Serve, share: StartShare) -> None:
    source = await share(build_adapter())
    await start(replica)
    await put(replica, source.want(digest="sha256:" + "0" * 64))
    await wait_for_failure(replica, "support", "changed under the same URI")
    await put(replica, source.want(token="wrong"))
    await wait_for_failure(replica, "support", "answered 401")


async def test_what_the_engine_refuses_is_told_in_its_words(replica: Serve, share: StartShare) -> None:
    large, huge = await share(build_adapter(32)), await share(build_adapter(128))
    await start(replica)
    await put(replica, large.want("large"), huge.want("huge"))
    await wait_for_failure(replica, "large", "rank 32 is greater than max_lora_rank 16")
    await wait_for_failure(replica, "huge", "MiB for adapters are taken")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic of-the-pool"}])
async def test_only_the_operator_says_which_adapters_to_load(replica: Serve, headers: dict[str, str]) -> None:
    await start_listening(replica)
    assert await put(replica, headers=headers) == 401


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/etc"}),
        ("/v1/unload_lora_adapter", {"lora_name": "support"}),
        ("/adapters", {"name": "x", "src": "/etc"}),
        ("/adapters/support", {}),
    ],
)
async def test_nobody_who_reaches_the_engine_loads_or_unloads_adapters(
    replica: Serve, path: str, body: dict[str, str]
) -> None:
    await start(replica)
    async with replica.session.post(f"{replica.engine_url}{path}", json=body) as answer:
        assert answer.status == 403
        assert "spec.adapter.attachTo" in await answer.text()


async def test_a_replica_without_adapters_says_so(start_serve: StartServe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOS_TOKEN_SHA256", compute_token_hash(TOKEN))
    serve = await start_serve()
    await serve.wait_for("/readyz", 200)
    assert (await serve.probe("/adapters"))[0] == 409
    assert await put(serve) == 401


async def test_a_share_without_files_says_why_it_ends(tmp_path: Path) -> None:
    message = tmp_path / "termination"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llmos_workers.share", f"--dir={tmp_path}"),
        env={**os.environ, "LLMOS_TERMINATION_LOG": str(message)},
    )
    assert await process.wait() == 1
    assert "adapter_config.json: No such file" in message.read_text()
