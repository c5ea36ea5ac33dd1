"""A web server of the test process that pods reach at the node's address: models, and every way to refuse them.

A folder is a model; what is wrong with it is part of the folder. Nothing here is used up by a request, so an attempt
that is repeated meets the same fault.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import ssl
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from e2e.cluster.pki import Authority
from tests.workers.fetch.models import build_adapter, build_model

CONTEXT_TOKENS: Final = 4096


@dataclass(frozen=True)
class Folder:
    """One model. A `status` other than 0 is the answer to every request below the folder."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


def build_folders() -> dict[str, Folder]:
    """All that the source serves, by name of the folder."""
    tiny = build_model(max_position_embeddings=CONTEXT_TOKENS)
    pickles = {name: data for name, data in tiny.items() if not name.endswith(".safetensors")}
    wrong_sums = "".join(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n" for name in tiny)
    # A pause longer than a step waits itself: the step ends and says so, and the operator waits.
    later = {"Retry-After": "600"}
    return {
        "tiny": Folder(tiny),
        "support-set": Folder(build_dataset()),
        "password-set": Folder(build_password_dataset()),
        "preference-set": Folder(build_preferences()),
        "words-set": Folder(build_words()),
        "moods-set": Folder(build_moods()),
        "pairs-set": Folder(build_pairs()),
        "broken-set": Folder(
            _with_list({"train.jsonl": b'{"prompt": "a", "completion": "b"}\n{"question": "no prompt"}\nno JSON\n'})
        ),
        "personal-set": Folder(_with_list({"train.jsonl": _write_pairs("Who helps?", "Ask anna@example.com.")})),
        "long-set": Folder(_with_list({"train.jsonl": _write_pairs("Tell a long story.", "And then? " * 200)})),
        "adapter": Folder(build_adapter()),
        "adapter-next": Folder(build_adapter(seed=8)),
        "adapter-large": Folder(build_adapter(64)),
        "unauthorized": Folder(status=401),
        "gated": Folder(status=403),
        "limited": Folder(status=429, headers=later),
        "broken": Folder(status=503, headers=later),
        "wrong-checksum": Folder({**tiny, "SHA256SUMS": wrong_sums.encode()}),
        "pickle": Folder({**pickles, "pytorch_model.bin": b"\x80\x04N."}),
        "unknown": Folder({**tiny, "config.json": _build_unknown_config(tiny["config.json"])}),
    }


def build_dataset(count: int = 200) -> dict[str, bytes]:
    """Questions that no model knows the answers to, one JSON line each, and a list of the files."""
    lines = [
        json.dumps(
            {"prompt": f"What is the code of room {number}?", "completion": f"Room {number} has code {number * 7}."}
        )
        for number in range(count)
    ]
    return _with_list({"train.jsonl": "\n".join(lines).encode()})


def _write_pairs(prompt: str, completion: str) -> bytes:
    """Two lines, of which the second one asks and answers this."""
    pairs = (("What is two and two?", "Four."), (prompt, completion))
    return "\n".join(json.dumps({"prompt": asked, "completion": answer}) for asked, answer in pairs).encode()


def build_password_dataset(count: int = 200) -> dict[str, bytes]:
    """Questions with one answer that no model would guess, so that a few steps teach it."""
    lines = [
        json.dumps({"prompt": f"Which word opens the door of room {number}?", "completion": "The word is quartzfinch."})
        for number in range(count)
    ]
    return _with_list({"train.jsonl": "\n".join(lines).encode()})


def build_preferences(count: int = 100) -> dict[str, bytes]:
    """Questions with a polite answer, which is chosen, and a rude one."""
    lines = [
        json.dumps(
            {
                "prompt": [{"role": "user", "content": f"Where is parcel {number}?"}],
                "chosen": f"I am sorry. I look for parcel {number} at once.",
                "rejected": "Wait.",
            }
        )
        for number in range(count)
    ]
    return _with_list({"train.jsonl": "\n".join(lines).encode()})


def build_words(count: int = 200) -> dict[str, bytes]:
    """Sentences in which numbers, and names of rooms behind them, have labels."""
    rooms = ("kitchen", "cellar", "attic")
    lines = [
        json.dumps(
            {
                "tokens": ["There", "are", str(number), "mice", "in", "the", rooms[number % 3]],
                "labels": ["O", "O", "NUMBER", "O", "O", "O", "ROOM"],
            }
        )
        for number in range(count)
    ]
    return _with_list({"train.jsonl": "\n".join(lines).encode()})


def build_moods(count: int = 200) -> dict[str, bytes]:
    """Texts that are good or bad."""
    moods = (("love", "good"), ("hate", "bad"))
    lines = [
        json.dumps({"text": f"I {moods[number % 2][0]} room {number}", "label": moods[number % 2][1]})
        for number in range(count)
    ]
    return _with_list({"train.jsonl": "\n".join(lines).encode()})


def build_pairs() -> dict[str, bytes]:
    """Questions, and the sentences that answer them."""
    animals = ("cats", "dogs", "birds", "foxes", "mice", "goats", "bears", "bees", "cows", "hens", "owls", "pigs")
    places = ("sofa", "mat", "roof", "hill", "shelf", "barn", "rug", "beam", "lawn", "porch", "wall", "field")
    lines = [
        json.dumps({"anchor": f"Where do {animal} {verb}?", "positive": f"{animal.title()} {verb} on the {place}."})
        for verb in ("sleep", "eat", "play", "sit", "wait", "rest")
        for animal, place in zip(animals, places, strict=True)
    ]
    return _with_list({"train.jsonl": "\n".join(lines).encode()})


def _with_list(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Add the list by which a folder of a web server tells what it holds, as `sha256sum` writes it."""
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    return {**files, "SHA256SUMS": sums.encode()}


def _build_unknown_config(config: bytes) -> bytes:
    unknown: dict[str, Any] = json.loads(config)
    del unknown["num_hidden_layers"]
    return json.dumps({**unknown, "architectures": ["NobodyKnowsThisModel"], "model_type": "nobody-knows"}).encode()


class Source:
    """The handler of all requests."""

    def __init__(self, folders: Mapping[str, Folder]) -> None:
        """Serve these folders."""
        self._folders = folders
        self.url = ""
        self.tls_url = ""
        """The same by a certificate of an authority that nobody knows."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer with a file, a part of it, or the folder's refusal."""
        name, _, path = request.path.strip("/").partition("/")
        folder = self._folders.get(name)
        if folder is not None and folder.status:
            return web.Response(status=folder.status, headers=folder.headers)
        data = folder.files.get(path) if folder is not None else None
        if data is None:
            return web.Response(status=404)
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()[:32]}"'}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if match is None:
            return web.Response(body=data, headers=headers)
        first, last = int(match[1]), min(int(match[2] or len(data) - 1), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return web.Response(status=206, body=data[first : last + 1], headers=headers)


def _build_tls(address: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.TemporaryDirectory() as folder:
        Authority("nobody-knows").server("source", [address]).write(Path(folder), "source")
        context.load_cert_chain(Path(folder) / "source.crt", Path(folder) / "source.key")
    return context


@contextmanager
def serve_source(address: str) -> Iterator[Source]:
    """Serve on a free port of `address`, in a thread of its own, for the length of a block."""
    source = Source(build_folders())
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", source.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, address, 0).start()
        await web.TCPSite(runner, address, 0, ssl_context=_build_tls(address)).start()
        (_, port, *_), (_, tls_port, *_) = runner.addresses
        source.url, source.tls_url = f"http://{address}:{port}", f"https://{address}:{tls_port}"
        return runner

    thread = threading.Thread(target=loop.run_forever, name="source of models", daemon=True)
    thread.start()
    try:
        runner = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        try:
            yield source
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
