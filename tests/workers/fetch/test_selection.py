"""Which files of a model are fetched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos_workers.fetch.errors import (
    ConversionFailedError,
    FetchError,
    InvalidSourceError,
    SourceNotFoundError,
    UnsafeFormatError,
)
from llmos_workers.fetch.selection import Format, Selection, select_files
from llmos_workers.fetch.sources import RemoteFile

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def select(*names: str, wanted: Format = "auto", with_code: bool = False) -> Selection:
    return select_files([RemoteFile(name, 10) for name in names], wanted, with_code=with_code)


def names(selection: Selection) -> set[str]:
    return {file.path for file in selection.files}


def test_weights_and_small_files_are_taken_and_duplicates_left() -> None:
    selection = select(
        "config.json",
        "tokenizer.json",
        "merges.txt",
        "chat_template.jinja",
        "model.safetensors",
        "1_Pooling/config.json",
        "consolidated.safetensors",
        "original/params.json",
        "onnx/model.onnx",
        "onnx/config.json",
        "pytorch_model.bin",
        "model.fp16.safetensors",
        "README.md",
        "image.png",
        ".gitattributes",
        ".cache/x.json",
        "modeling.py",
    )
    assert names(selection) == {
        "config.json",
        "tokenizer.json",
        "merges.txt",
        "chat_template.jinja",
        "model.safetensors",
        "1_Pooling/config.json",
    }
    assert [file.path for file in selection.weights] == ["model.safetensors"]


def test_code_is_taken_only_where_it_was_reviewed() -> None:
    assert "modeling.py" in names(select("model.safetensors", "modeling.py", with_code=True))


def test_shards_win_over_a_single_file() -> None:
    selection = select("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors")
    assert [file.path for file in selection.weights] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]


def test_a_missing_shard_is_seen() -> None:
    with pytest.raises(SourceNotFoundError, match="1 of 3 weight shards"):
        select("model-00002-of-00003.safetensors")


def test_safetensors_win_over_gguf_unless_gguf_is_asked_for() -> None:
    assert select("model.safetensors", "m.gguf").format == "safetensors"
    assert select("model.safetensors", "m.gguf", wanted="gguf").format == "gguf"


def test_an_asked_for_format_that_is_not_there_is_not_found() -> None:
    with pytest.raises(SourceNotFoundError, match="no safetensors files"):
        select("m.gguf", wanted="safetensors")


@pytest.mark.parametrize("name", [f"weights{ending}" for ending in PICKLES])
def test_only_pickle_is_unsafe(name: str) -> None:
    with pytest.raises(UnsafeFormatError):
        select("config.json", name)


def test_several_or_split_ggufs_are_refused_with_a_way_out() -> None:
    with pytest.raises(InvalidSourceError, match="Name one of them"):
        select("q4.gguf", "q8.gguf")
    with pytest.raises(ConversionFailedError, match="llama-gguf-split"):
        select("big-00001-of-00002.gguf", "big-00002-of-00002.gguf")


PARTS = st.sampled_from(["model", "original", "a", "tokenizer", ".hidden", "model-00001-of-00001", "consolidated"])
ENDINGS = st.sampled_from([".safetensors", ".gguf", ".json", ".py", ".txt", ".safetensors.index.json", *PICKLES])
PATHS = st.builds(lambda parts, ending: "/".join(parts) + ending, st.lists(PARTS, min_size=1, max_size=3), ENDINGS)


@given(st.lists(PATHS, unique=True, max_size=20), st.sampled_from(["auto", "safetensors", "gguf"]), st.booleans())
def test_pickle_and_unreviewed_code_are_never_selected(paths: list[str], wanted: Format, with_code: bool) -> None:
    try:
        selection = select(*paths, wanted=wanted, with_code=with_code)
    except FetchError:
        return
    assert not [path for path in names(selection) if path.endswith(PICKLES)]
    assert with_code or not [path for path in names(selection) if path.endswith(".py")]
    assert set(selection.weights) <= set(selection.files)
    assert names(selection) <= set(paths)


@given(st.text(max_size=40))
def test_a_name_that_could_leave_the_folder_is_never_accepted(name: str) -> None:
    try:
        file = RemoteFile(name, 0)
    except InvalidSourceError:
        return
    assert not file.path.startswith("/")
    assert all(part not in {"", ".", ".."} for part in file.path.split("/"))
    assert not set("\\\0\n") & set(file.path)
