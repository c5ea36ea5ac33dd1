"""Labels of words and of texts: where they stand among the tokens, which there are, and which lines have none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llmos.api.finetunejob_dataset import DatasetFormat
from llmos_workers.prepare.canonical import compute_digest
from llmos_workers.prepare.errors import DatasetInvalidError, NothingToLearnError
from llmos_workers.prepare.examples import LineError, map_texts, parse_line
from tests.training.prepare.conftest import Desk
from tests.training.prepare.values import CORPUS, build_spaced_tokenizer, build_tokenizer

WORDS, TEXT = {"type": "tokens-labels"}, {"type": "text-label"}
NO_SPLIT: dict[str, Any] = {"evalFraction": 0}
SECRET = "Erika Mustermann"
LINE = {"tokens": ["Paris", "is", "Straßenfest"], "labels": ["B-LOC", "O", "O"]}


def build_bert_tokenizer() -> PreTrainedTokenizerBase:
    """WordPiece between [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokens = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)


BUILDERS = [build_tokenizer, build_spaced_tokenizer, build_bert_tokenizer]


@pytest.mark.parametrize("build", BUILDERS)
def test_the_label_of_a_word_stands_at_its_first_token(desk: Desk, build: Any) -> None:
    desk.use(build())
    desk.put([LINE, {"tokens": ["Rome"], "labels": ["B-LOC"]}])
    manifest = desk.prepare(format=WORDS, split=NO_SPLIT)
    assert (manifest.labels, manifest.report.labels) == (("B-LOC", "O"), 2)
    row = desk.load()[0]
    text = "Paris is Straßenfest"
    assert row["input_ids"] == desk.tokenizer(text)["input_ids"]
    words = desk.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    labelled = [place for place, label in enumerate(row["labels"]) if label != -100]
    assert [label for label in row["labels"] if label != -100] == [0, 1, 1]
    # Tokenizers differ in whether the space before a word is part of its token.
    starts = [text[: words[place][1]].rstrip().rfind(" ") + 1 for place in labelled]
    assert starts == [0, 6, 9]
    assert all(words[place][0] in (start, start - 1) for place, start in zip(labelled, starts, strict=True))


@pytest.mark.parametrize("build", BUILDERS)
def test_a_text_is_encoded_as_its_tokenizer_does_and_has_its_label_first(desk: Desk, build: Any) -> None:
    desk.use(build())
    desk.put([{"review": "the sea and the sky", "stars": stars} for stars in (10, 9, -1)])
    columns = {"text": "review", "label": "stars"}
    manifest = desk.prepare(format={**TEXT, "columns": columns}, split=NO_SPLIT)
    assert manifest.labels == ("-1", "9", "10")
    for row, label in zip(desk.load(), (2, 1, 0), strict=True):
        assert row["input_ids"] == desk.tokenizer("the sea and the sky")["input_ids"]
        assert row["labels"] == [label] + [-100] * (len(row["input_ids"]) - 1)


def test_a_text_that_is_cut_keeps_its_label(desk: Desk) -> None:
    desk.put([{"text": "the sea and the sky " * 30, "label": "long"}, {"text": "sea", "label": "short"}])
    report = desk.prepare(format=TEXT, split=NO_SPLIT, maxLength=16).report
    assert (report.overlong, report.train_examples) == (1, 2)
    row = desk.load()[0]
    assert (len(row["input_ids"]), row["labels"][0]) == (16, 0)


def test_numbers_of_labels_depend_on_the_labels_only(desk: Desk) -> None:
    desk.put([{"text": f"text {number}", "label": label} for number, label in enumerate("cabcabcab")])
    assert desk.prepare(format=TEXT, split={"evalFraction": 0.3}).labels == ("a", "b", "c")


def test_a_suite_has_the_datasets_labels(desk: Desk) -> None:
    desk.put([{"text": f"text {number}", "label": label} for number, label in enumerate("abababab")])
    desk.put([{"text": "quiz", "label": "b"}], "suite-quiz", "quiz.jsonl")
    suites = [{"name": "quiz", "source": {"uri": "https://example.com/quiz.jsonl"}, "metrics": ["accuracy"]}]
    desk.prepare(format=TEXT, split=NO_SPLIT, suites=suites)
    (row,) = desk.load("suite-quiz")
    assert row["labels"][0] == 1
    assert row["completion"] is None


def test_a_label_that_only_a_suite_has_is_named_by_its_line(desk: Desk) -> None:
    desk.put([{"text": f"text {number}", "label": label} for number, label in enumerate("abababab")])
    desk.put([{"text": "quiz", "label": SECRET}], "suite-quiz", "quiz.jsonl")
    suites = [{"name": "quiz", "source": {"uri": "https://example.com/quiz.jsonl"}, "metrics": ["accuracy"]}]
    with pytest.raises(DatasetInvalidError, match=r"suite-quiz/quiz\.jsonl:1 \(a label does not occur") as info:
        desk.prepare(format=TEXT, split=NO_SPLIT, suites=suites)
    assert SECRET not in str(info.value)


def test_one_label_is_nothing_to_learn_and_a_thousand_and_one_are_texts(desk: Desk) -> None:
    desk.put([{"text": f"text {number}", "label": "a"} for number in range(9)])
    with pytest.raises(NothingToLearnError, match="the same label"):
        desk.prepare(format=TEXT)
    desk.put([{"text": f"text {number}", "label": f"{SECRET} {number}"} for number in range(1001)])
    with pytest.raises(DatasetInvalidError, match=r"line train\.jsonl:1001 there are more than 1000") as info:
        desk.prepare(format=TEXT)
    assert SECRET not in str(info.value)


BROKEN_WORDS = [
    ({"labels": ["O"]}, "no field 'tokens'"),
    ({"tokens": ["a"]}, "no field 'labels'"),
    ({"tokens": "a", "labels": ["O"]}, "field 'tokens' is a string, not an array"),
    ({"tokens": [], "labels": []}, "field 'tokens' is empty"),
    ({"tokens": [SECRET], "labels": ["O", SECRET]}, "'tokens' and 'labels' have 1 and 2 entries, not as many"),
    ({"tokens": ["a", 7], "labels": ["O", "O"]}, "entry 2 of field 'tokens' is a number, not a string"),
    ({"tokens": ["a", " "], "labels": ["O", "O"]}, "entry 2 of field 'tokens' is empty"),
    ({"tokens": ["a"], "labels": [None]}, "entry 1 of field 'labels' is null, neither a string nor a whole number"),
    ({"tokens": ["a"], "labels": [0.5]}, "entry 1 of field 'labels' is a number, neither"),
    ({"tokens": ["a"], "labels": [True]}, "entry 1 of field 'labels' is true or false, neither"),
    ({"tokens": ["a"], "labels": [""]}, "entry 1 of field 'labels' is empty"),
    ({"tokens": ["a"], "labels": [SECRET * 9]}, "entry 1 of field 'labels' is longer than 128 characters"),
]
BROKEN_TEXTS = [
    ({"label": "a"}, "no field 'text'"),
    ({"text": "a"}, "no field 'label'"),
    ({"text": " ", "label": "a"}, "field 'text' is empty"),
    ({"text": "a", "label": [SECRET]}, "field 'label' is an array, neither a string nor a whole number"),
]


@pytest.mark.parametrize(
    ("kind", "line", "problem"),
    [
        *(("tokens-labels", line, problem) for line, problem in BROKEN_WORDS),
        *(("text-label", line, problem) for line, problem in BROKEN_TEXTS),
    ],
    ids=range(len(BROKEN_WORDS) + len(BROKEN_TEXTS)),
)
def test_a_line_without_its_labels_is_named_without_its_content(kind: Any, line: dict[str, Any], problem: str) -> None:
    with pytest.raises(LineError) as info:
        parse_line(json.dumps(line).encode(), DatasetFormat(type=kind))
    assert problem in str(info.value)
    assert SECRET not in str(info.value)


def test_the_broken_lines_of_a_dataset_are_named(desk: Desk) -> None:
    desk.put([LINE, {"tokens": ["a", "b"], "labels": ["O"]}])
    with pytest.raises(
        DatasetInvalidError, match=r"train\.jsonl:2 \(fields 'tokens' and 'labels' have 2 and 1 entries"
    ):
        desk.prepare(format=WORDS, split=NO_SPLIT)


def test_the_same_words_with_other_labels_are_another_example() -> None:
    form = DatasetFormat(type="tokens-labels")
    lines = [LINE, {**LINE, "id": 7}, {**LINE, "labels": ["O", "O", "O"]}]
    same, again, other = (compute_digest(parse_line(json.dumps(line).encode(), form)) for line in lines)
    assert same == again != other


def test_words_stay_as_many_when_they_are_changed() -> None:
    changed = map_texts(parse_line(json.dumps(LINE).encode(), DatasetFormat(type="tokens-labels")), str.upper)
    assert (changed.words, changed.text) == (("PARIS", "IS", "STRASSENFEST"), "PARIS IS STRASSENFEST")
    assert changed.labels == ("B-LOC", "O", "O")
