"""A teacher has to speak of the same tokens, or nothing is prepared."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from llmos.api import Reason
from llmos_workers.prepare.errors import TeacherMismatchError
from llmos_workers.prepare.preparing import prepare
from tests.training.prepare.conftest import BASE_DIGEST, Desk
from tests.training.prepare.values import build_job, build_tokenizer

LINES = [{"prompt": f"What is {number}?", "completion": f"A number, {number}."} for number in range(30)]


def prepare_with(desk: Desk, teacher: Path, tokenizer: PreTrainedTokenizerBase | None) -> str:
    """Prepare a dataset for a student of this teacher; return the dataset's digest."""
    if tokenizer is not None:
        tokenizer.save_pretrained(teacher)
    desk.put(LINES)
    places = replace(desk.places, teacher=teacher)
    return prepare(build_job(format={"type": "instruction"}), places, BASE_DIGEST, io.StringIO()).digest


def test_the_same_tokens_are_taken_whatever_the_template(desk: Desk, tmp_path: Path) -> None:
    other = build_tokenizer()
    other.chat_template = "{{ messages }}"
    assert prepare_with(desk, tmp_path / "teacher", other).startswith("sha256:")


def test_another_vocabulary_is_refused_with_both_numbers_and_digests(desk: Desk, tmp_path: Path) -> None:
    other = build_tokenizer()
    other.add_tokens([AddedToken("<tool>", special=True)])
    count = len(desk.tokenizer.get_vocab())
    with pytest.raises(TeacherMismatchError) as info:
        prepare_with(desk, tmp_path / "teacher", other)
    assert info.value.reason is Reason.TeacherMismatch
    told = str(info.value)
    assert f"teacher's vocabulary has {count + 1} tokens (sha256:" in told
    assert f"that of the base model {count} tokens (sha256:" in told
    assert f"token {count} is '<tool>' in the teacher and None in the base model" in told
    assert not (desk.places.dataset / "manifest.json").exists()


def test_as_many_tokens_in_another_order_are_refused(desk: Desk, tmp_path: Path) -> None:
    other = build_tokenizer()
    other.add_tokens([AddedToken("<one>"), AddedToken("<two>")])
    ours = build_tokenizer()
    ours.add_tokens([AddedToken("<two>"), AddedToken("<one>")])
    desk.use(ours)
    with pytest.raises(TeacherMismatchError, match=r"is '<one>' in the teacher and '<two>' in the base model"):
        prepare_with(desk, tmp_path / "teacher", other)


def test_a_teacher_without_a_tokenizer_is_refused(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    with pytest.raises(TeacherMismatchError, match="No tokenizer can be read"):
        prepare_with(desk, tmp_path / "teacher", None)
