"""Heads of GGUF and safetensors files, good ones and those of strangers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos_workers.fetch.errors import ChecksumMismatchError, FetchError, InvalidSourceError, UnknownArchitectureError
from llmos_workers.fetch.gguf_config import build_config
from llmos_workers.fetch.gguf_header import GgufHeader, parse_gguf_header
from llmos_workers.fetch.safetensors_header import check_local_file
from tests.workers.fetch.models import HEADS, HIDDEN, LAYERS, PARAMETERS, VOCABULARY, build_model, write_gguf


def chunked(data: bytes, size: int = 100) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def test_a_gguf_head_tells_the_shape_and_needs_no_weights(gguf_bytes: bytes) -> None:
    header = parse_gguf_header(chunked(gguf_bytes[:6000]))
    assert header.architecture == "llama"
    assert header.parameters == PARAMETERS
    assert {tensor.quantization for tensor in header.tensors} == {"Q8_0", "F32"}
    config = build_config(header)
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["num_hidden_layers"], config["hidden_size"]) == (LAYERS, HIDDEN)
    assert (config["vocab_size"], config["head_dim"]) == (VOCABULARY, HIDDEN // HEADS)
    assert config["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("qwen2", "Qwen2ForCausalLM"),
        ("qwen3", "Qwen3ForCausalLM"),
        ("phi3", "Phi3ForCausalLM"),
        ("gemma3", "Gemma3ForCausalLM"),
    ],
)
def test_architectures_have_their_names(tmp_path: Path, architecture: str, expected: str) -> None:
    header = parse_gguf_header(chunked(write_gguf(tmp_path / "m.gguf", architecture).read_bytes()))
    assert build_config(header)["architectures"] == [expected]


def test_what_cannot_be_converted_is_refused_before_the_download() -> None:
    with pytest.raises(UnknownArchitectureError, match="convertible are"):
        build_config(GgufHeader({"general.architecture": "rwkv7"}, {}, ()))
    with pytest.raises(UnknownArchitectureError, match="with experts"):
        build_config(GgufHeader({"general.architecture": "llama", "llama.expert_count": 8}, {}, ()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends early"),
        (b"PK\x03\x04", "does not begin"),
        (b"GGUF" + struct.pack("<I", 99), "version is 99"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1), "tensors, more than"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 2**60), "fields, more than"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**60), "bytes in a string"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 4, 2**60), "items in an array"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<II", 9, 9), "nested"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<I", 77), "unknown value type"),
    ],
)
def test_absurd_gguf_heads_are_refused_at_once(data: bytes, message: str) -> None:
    with pytest.raises(InvalidSourceError, match=message):
        parse_gguf_header(chunked(data))


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_make_the_gguf_reader_fail_otherwise(data: bytes, with_magic: bool) -> None:
    prefix = b"GGUF" + struct.pack("<I", 3) if with_magic else b""
    try:
        parse_gguf_header(chunked(prefix + data, 7))
    except InvalidSourceError:
        return


def write_safetensors(folder: Path, header: bytes, body: bytes = b"") -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    return path


def test_a_good_safetensors_file_passes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(build_model()["model.safetensors"])
    check_local_file(path)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_safetensors_file_of_another_size_does_not(tmp_path: Path, change: int) -> None:
    data = build_model()["model.safetensors"]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data[:-1] if change < 0 else data + b"!")
    with pytest.raises(ChecksumMismatchError):
        check_local_file(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{}}",
        b"[1]",
        b'{"w": 1}',
        json.dumps({"w": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"w": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}).encode(),
    ],
)
def test_absurd_safetensors_headers_are_refused(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(InvalidSourceError):
        check_local_file(write_safetensors(tmp_path, header, b"1234"))


@given(st.binary(max_size=200))
def test_no_bytes_make_the_safetensors_reader_fail_otherwise(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "model.safetensors"
    path.write_bytes(data)
    try:
        check_local_file(path)
    except FetchError:
        return
