"""What holds for every dataset: duplicates, splits, sets of digests, and the tokens of both encoders."""

from __future__ import annotations

import io
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from llmos_workers.prepare.digests import DigestSet
from llmos_workers.prepare.errors import NothingToLearnError
from llmos_workers.prepare.near import NearDuplicates
from llmos_workers.prepare.preparing import Places, prepare
from llmos_workers.prepare.splitting import Smallest, compute_place, is_held_out
from llmos_workers.prepare.tokenizing import Piece, Tokens
from tests.training.prepare.conftest import Desk
from tests.training.prepare.values import build_job, build_spaced_tokenizer, build_tokenizer, chat, write_lines

digests = st.binary(min_size=16, max_size=16)
texts = st.text(min_size=1, max_size=12).filter(lambda text: text.strip() != "")


@given(
    st.lists(st.one_of(digests, st.sampled_from([bytes(16), b"\xff" * 16, bytes(8) + b"\xff" * 8]))), st.integers(1, 8)
)
def test_a_set_of_digests_is_a_set(added: list[bytes], gather: int) -> None:
    ours, theirs = DigestSet(gather), set[bytes]()
    for digest in added:
        assert ours.add(digest) == (digest not in theirs)
        theirs.add(digest)
        assert digest in ours
    assert len(ours) == len(theirs)


@given(digests, st.integers(0, 2**31 - 1), st.floats(0, 1))
def test_a_larger_fraction_holds_out_more(digest: bytes, seed: int, fraction: float) -> None:
    assert 0 <= compute_place(digest, seed) < 1
    assert not is_held_out(digest, fraction, seed) or is_held_out(digest, min(1.0, fraction * 1.5), seed)


def test_the_fraction_is_kept() -> None:
    places = [compute_place(number.to_bytes(16, "big"), 42) for number in range(4000)]
    assert np.mean([place < 0.05 for place in places]) == pytest.approx(0.05, abs=0.015)


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), max_size=20))
def test_the_smallest_and_its_copies_are_held_back_and_nothing_is_lost(offered: list[float]) -> None:
    smallest: Smallest[float] = Smallest()
    released = [row for place in offered for row in smallest.offer(place, place)]
    kept = smallest.release()
    assert sorted(released + kept) == sorted(offered)
    assert kept == [min(offered)] * offered.count(min(offered)) if offered else kept == []
    assert smallest.release() == []


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_texts_are_near_from_the_threshold_on(tmp_path: Path, threshold: float) -> None:
    words = [f"word{number}" for number in range(400)]
    for changed in (0, 4, 18, 50):
        other = ["other" if index % 5 == 2 and index < 5 * changed else word for index, word in enumerate(words)]
        grams = [{tuple(text[place : place + 5]) for place in range(396)} for text in (words, other)]
        similarity = len(grams[0] & grams[1]) / len(grams[0] | grams[1])
        assert abs(similarity - threshold) > 0.08 or similarity == threshold, "far from where the estimate decides"
        near = NearDuplicates(threshold, tmp_path)
        assert near.add(" ".join(words))
        assert near.add(" ".join(other)) == (similarity < threshold)
        near.close()


def run(lines: list[Any], tokenizer: PreTrainedTokenizerBase, **dataset: Any) -> tuple[set[Any], set[Any], Any]:
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Places(Path(folder) / "model", Path(folder) / "work"), tokenizer)
        tokenizer.save_pretrained(desk.places.model)
        write_lines(desk.places.source("dataset") / "train.jsonl", lines)
        report = prepare(build_job(**dataset), desk.places, "sha256:x", io.StringIO()).report
        sides = [{tuple(row) for row in desk.load(name)["input_ids"]} for name in ("train", "eval")]
        assert sum(map(len, sides)) == report.train_examples + report.eval_examples, "nothing is there twice"
        return sides[0], sides[1], report


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(texts, texts), min_size=2, max_size=12),
    st.randoms(use_true_random=False),
    st.sampled_from([0.0, 0.01, 0.3]),
)
def test_order_and_copies_change_nothing(
    tokenizer: PreTrainedTokenizerBase, pairs: list[tuple[str, str]], shuffle: random.Random, fraction: float
) -> None:
    lines = [chat(*pair) for pair in pairs]
    shuffled = lines + lines[: len(lines) // 2]
    shuffle.shuffle(shuffled)
    split = {"evalFraction": fraction}
    try:
        train, held_out, report = run(lines, tokenizer, split=split)
    except NothingToLearnError:
        with pytest.raises(NothingToLearnError):
            run(shuffled, tokenizer, split=split)
        return
    assert run(shuffled, tokenizer, split=split)[:2] == (train, held_out)
    assert not train & held_out
    assert bool(held_out) == (fraction > 0)
    assert report.lines == report.duplicates + report.train_examples + report.eval_examples


@pytest.fixture(scope="module", params=["byte level", "spaced"])
def encoders(request: pytest.FixtureRequest) -> tuple[Tokens, Tokens]:
    tokenizer = build_tokenizer() if request.param == "byte level" else build_spaced_tokenizer()
    return Tokens(tokenizer), Tokens(tokenizer, use_fast=False)


pieces = st.lists(st.builds(Piece, st.text(min_size=1, max_size=20), st.booleans()), min_size=1, max_size=5)


@settings(deadline=None)
@given(examples=st.lists(st.tuples(pieces, st.booleans(), st.booleans()), min_size=1, max_size=5))
def test_both_encoders_agree_and_keep_rows_apart(
    encoders: tuple[Tokens, Tokens], examples: list[tuple[list[Piece], bool, bool]]
) -> None:
    fast, slow = encoders
    inputs = [pieces for pieces, _, _ in examples]
    begins, ends = [begin for _, begin, _ in examples], [end for _, _, end in examples]
    rows, others = fast.encode(inputs, begins=begins, ends=ends), slow.encode(inputs, begins=begins, ends=ends)
    for name in ("ids", "labels", "bounds", "prompts"):
        assert np.array_equal(getattr(rows, name), getattr(others, name))
    assert rows.bounds[-1] == len(rows.ids) == len(rows.labels)
    for index, row in enumerate(inputs):
        alone = fast.encode([row], begins=begins[index : index + 1], ends=ends[index : index + 1])
        assert np.array_equal(rows.ids[rows.bounds[index] : rows.bounds[index + 1]], alone.ids)
        assert 0 <= alone.prompts[0] <= len(alone.ids)


def test_the_fast_encoder_is_used_where_it_can(encoders: tuple[Tokens, Tokens]) -> None:
    assert Tokens(build_tokenizer()).is_fast
    assert not encoders[1].is_fast
