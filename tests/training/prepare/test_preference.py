"""Pairs of answers: what of them is learned, and which lines are no pairs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmos.api.finetunejob_dataset import DatasetFormat
from llmos_workers.prepare.canonical import compute_digest
from llmos_workers.prepare.errors import DatasetInvalidError
from llmos_workers.prepare.examples import LineError, map_texts, parse_line
from tests.training.prepare.conftest import Desk
from tests.training.prepare.values import CHATML, MARKED, build_spaced_tokenizer, build_tokenizer, chat

FORMAT = {"type": "preference"}
NO_SPLIT: dict[str, Any] = {"evalFraction": 0}
SECRET = "Erika Mustermann"
TURNS = chat("Capital of France?", "Paris.", "And of Italy?")["messages"][:3]


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def sides(desk: Desk, row: dict[str, Any]) -> list[tuple[str, str]]:
    """Text and learned text of both answers."""
    return [
        (desk.say(row[ids]), desk.say(label for label in row[labels] if label != -100))
        for ids, labels in (("input_ids", "labels"), ("other_ids", "other_labels"))
    ]


@pytest.mark.parametrize("template", [CHATML, MARKED])
@pytest.mark.parametrize("wrap", [str, say])
def test_of_a_conversation_only_the_two_answers_are_learned(desk: Desk, template: str, wrap: Any) -> None:
    desk.use(build_tokenizer(template))
    desk.put([{"prompt": TURNS, "chosen": wrap("Rome."), "rejected": wrap("I do not know.")}])
    report = desk.prepare(format=FORMAT, split=NO_SPLIT).report
    (row,) = desk.load()
    asked = (
        "<|im_start|>user\nCapital of France?<|im_end|>\n<|im_start|>assistant\nParis.<|im_end|>\n"
        "<|im_start|>user\nAnd of Italy?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert sides(desk, row) == [
        (f"{asked}Rome.<|im_end|>", "Rome.<|im_end|>"),
        (f"{asked}I do not know.<|im_end|>", "I do not know.<|im_end|>"),
    ]
    assert report.train_tokens == len(row["input_ids"]) + len(row["other_ids"])
    assert report.length_max == len(row["other_ids"])


def test_texts_need_no_template_and_may_stand_beside_conversations(desk: Desk) -> None:
    desk.use(build_spaced_tokenizer())
    desk.put(
        [
            {"q": "the capital", "good": "of France", "bad": "sea"},
            {"q": TURNS[:1], "good": "Paris", "bad": "sea"},
        ]
    )
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    desk.prepare(format={**FORMAT, "columns": columns}, split=NO_SPLIT)
    text, conversation = desk.load()
    beginning, end = desk.tokenizer.bos_token_id, desk.tokenizer.eos_token_id
    for row in (text, conversation):
        for ids in (row["input_ids"], row["other_ids"]):
            assert (ids[0], ids[-1], ids.count(beginning)) == (beginning, end, 1)
    prompt = desk.tokenizer("the capital")["input_ids"]
    assert text["input_ids"][: len(prompt)] == text["other_ids"][: len(prompt)] == prompt


def test_a_model_without_a_template_takes_texts_only(desk: Desk) -> None:
    desk.use(build_tokenizer(None))
    (desk.places.model / "chat_template.jinja").unlink(missing_ok=True)
    desk.put([{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": TURNS, "chosen": "b", "rejected": "c"}])
    with pytest.raises(DatasetInvalidError, match=r"train\.jsonl:2 \(the base model has no chat template"):
        desk.prepare(format=FORMAT, split=NO_SPLIT)


def test_too_long_pairs_are_cut_on_both_sides_or_left_out(desk: Desk) -> None:
    long = "the sea and the sky " * 20
    desk.put(
        [
            {"prompt": "a", "chosen": f"x {long}", "rejected": "y"},
            {"prompt": long, "chosen": "x", "rejected": "y"},
            {"prompt": "b", "chosen": "x", "rejected": "y"},
        ]
    )
    report = desk.prepare(format=FORMAT, split=NO_SPLIT, maxLength=32).report
    assert (report.overlong, report.train_examples) == (2, 2)
    assert "what is learned lies beyond it" in report.examples[1].problem
    assert max(len(row["input_ids"]) for row in desk.load()) == 32


def test_suites_and_held_out_pairs_have_both_answers(desk: Desk) -> None:
    desk.put([{"prompt": f"question {number}", "chosen": "yes", "rejected": "no"} for number in range(20)])
    desk.put([{"prompt": "quiz", "chosen": "yes", "rejected": "no"}], "suite-quiz", "quiz.jsonl")
    suites = [{"name": "quiz", "source": {"uri": "https://example.com/quiz.jsonl"}, "metrics": ["reward_accuracy"]}]
    desk.prepare(format=FORMAT, split={"evalFraction": 0.3}, suites=suites)
    names = {"input_ids", "labels", "other_ids", "other_labels"}
    assert set(desk.load("train").column_names) == names
    for name in ("eval", "suite-quiz"):
        assert set(desk.load(name).column_names) == names | {"prompt_ids", "completion"}
        assert all(row["other_ids"] != row["input_ids"] for row in desk.load(name))


BROKEN = [
    ({"chosen": "a", "rejected": "b"}, "no field 'prompt'"),
    ({"prompt": "a", "rejected": "b"}, "no field 'chosen'"),
    ({"prompt": "a", "chosen": "b"}, "no field 'rejected'"),
    ({"prompt": 7, "chosen": "a", "rejected": "b"}, "field 'prompt' is a number, neither a string nor an array"),
    ({"prompt": " ", "chosen": "a", "rejected": "b"}, "field 'prompt' is empty"),
    ({"prompt": "a", "chosen": say(SECRET), "rejected": "b"}, "field 'chosen' is an array, not a string"),
    ({"prompt": "a", "chosen": SECRET, "rejected": f" {SECRET}"}, "fields 'chosen' and 'rejected' say the same"),
    ({"prompt": TURNS, "chosen": [], "rejected": "b"}, "field 'chosen' is not one message of the assistant"),
    ({"prompt": TURNS, "chosen": "a", "rejected": TURNS}, "field 'rejected' is not one message of the assistant"),
    ({"prompt": TURNS, "chosen": say(" "), "rejected": "b"}, "the message of field 'chosen' has no content"),
    ({"prompt": TURNS, "chosen": None, "rejected": "b"}, "field 'chosen' is null"),
    ({"prompt": TURNS[:2], "chosen": "a", "rejected": "b"}, "message 3 is the assistant's after the assistant's"),
    ({"prompt": [], "chosen": "a", "rejected": "b"}, "message 1 is the assistant's at the beginning"),
]


@pytest.mark.parametrize(("line", "problem"), BROKEN, ids=range(len(BROKEN)))
def test_what_is_no_pair_is_named_by_line_without_its_content(desk: Desk, line: dict[str, Any], problem: str) -> None:
    with pytest.raises(LineError) as info:
        parse_line(json.dumps(line).encode(), DatasetFormat(type="preference"))
    assert problem in str(info.value)
    assert SECRET not in str(info.value)
    desk.put([{"prompt": "a", "chosen": "b", "rejected": "c"}, line])
    with pytest.raises(DatasetInvalidError) as refused:
        desk.prepare(format=FORMAT, split=NO_SPLIT)
    assert f"train.jsonl:2 ({problem}" in str(refused.value)


def test_pairs_are_the_same_only_if_both_answers_are() -> None:
    lines = [{"prompt": "a", "chosen": "b", "rejected": rejected} for rejected in ("c", " c ", "d")]
    examples = [parse_line(json.dumps(line).encode(), DatasetFormat(type="preference")) for line in lines]
    same, again, other = map(compute_digest, examples)
    assert same == again != other
    assert map_texts(examples[0], str.upper).rejected == "C"
