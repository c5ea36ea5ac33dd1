"""Pairs of texts that belong together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmos.api.finetunejob_dataset import DatasetFormat
from llmos_workers.prepare.canonical import compute_digest, get_whole
from llmos_workers.prepare.errors import DatasetInvalidError
from llmos_workers.prepare.examples import map_texts, parse_line
from tests.training.prepare.conftest import Desk
from tests.training.prepare.test_labels import BUILDERS

PAIRS = {"type": "pairs"}
NO_SPLIT: dict[str, Any] = {"evalFraction": 0}


@pytest.mark.parametrize("build", BUILDERS)
def test_both_texts_are_encoded_as_their_tokenizer_does(desk: Desk, build: Any) -> None:
    desk.use(build())
    desk.put([{"question": "the capital of France", "passage": "Paris"}, {"question": "the sea", "passage": "a poem"}])
    columns = {"anchor": "question", "positive": "passage"}
    desk.prepare(format={**PAIRS, "columns": columns}, split=NO_SPLIT)
    row = desk.load()[0]
    assert row["input_ids"] == desk.tokenizer("the capital of France")["input_ids"]
    assert row["other_ids"] == desk.tokenizer("Paris")["input_ids"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"positive": "a"}, "no field 'anchor'"),
        ({"anchor": "a"}, "no field 'positive'"),
        ({"anchor": "a", "positive": ["b"]}, "field 'positive' is an array, not a string"),
        ({"anchor": " ", "positive": "b"}, "field 'anchor' is empty"),
    ],
)
def test_what_is_no_pair_is_named_by_line(desk: Desk, line: dict[str, Any], problem: str) -> None:
    desk.put([{"anchor": "a", "positive": "b"}, line])
    with pytest.raises(DatasetInvalidError) as info:
        desk.prepare(format=PAIRS, split=NO_SPLIT)
    assert f"train.jsonl:2 ({problem}" in str(info.value)


def test_both_texts_make_a_pair_what_it_is() -> None:
    lines = [{"anchor": "a", "positive": "b"}, {"anchor": "a ", "positive": "b"}, {"anchor": "a", "positive": "c"}]
    examples = [parse_line(json.dumps(line).encode(), DatasetFormat(type="pairs")) for line in lines]
    same, again, other = map(compute_digest, examples)
    assert same == again != other
    assert get_whole(map_texts(examples[0], str.upper)) == "A\nB"
