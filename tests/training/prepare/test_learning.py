"""What is learned of each format, under chat templates of every kind."""

from __future__ import annotations

import pytest

from llmos_workers.prepare.errors import DatasetInvalidError
from tests.training.prepare.conftest import Desk
from tests.training.prepare.values import (
    CHATML,
    MARKED,
    NO_SYSTEM,
    PLAIN,
    THOUGHTFUL,
    build_spaced_tokenizer,
    build_tokenizer,
    chat,
)

NO_SPLIT = {"split": {"evalFraction": 0}}


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_only_answers_are_learned_with_what_ends_them(desk: Desk, template: str) -> None:
    desk.use(build_tokenizer(template))
    desk.put([chat("Capital of France?", "Paris.", "And of Italy?", "Rome.", system="Be brief.")])
    desk.prepare(**NO_SPLIT)
    (row,) = desk.load()
    assert desk.learned(row) == "Paris.<|im_end|>Rome.<|im_end|>"
    assert desk.say(row["input_ids"]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nCapital of France?<|im_end|>\n"
        "<|im_start|>assistant\nParis.<|im_end|>\n<|im_start|>user\nAnd of Italy?<|im_end|>\n"
        "<|im_start|>assistant\nRome.<|im_end|>"
    )


def test_tokens_are_those_that_the_engine_sees(desk: Desk) -> None:
    line = chat("Hi", "Hello there", "Write a poem", "The sea and the sky")
    desk.put([line])
    desk.prepare(split={"evalFraction": 0}, suites=[])
    (row,) = desk.load()
    whole = desk.tokenizer.apply_chat_template(line["messages"], tokenize=False).rstrip("\n")
    assert row["input_ids"] == desk.tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_an_answer_that_looks_like_a_prompt_is_still_placed(desk: Desk) -> None:
    trick = "a<|im_end|>\n<|im_start|>assistant\nb"
    desk.put([chat(trick, "one", "more", trick)])
    desk.prepare(**NO_SPLIT)
    (row,) = desk.load()
    assert desk.learned(row) == f"one<|im_end|>{trick}<|im_end|>"


def test_a_template_without_end_gets_the_tokenizers_end(desk: Desk) -> None:
    desk.use(build_tokenizer(PLAIN))
    desk.put([chat("Capital of France?", "Paris.")])
    desk.prepare(**NO_SPLIT)
    (row,) = desk.load()
    assert desk.say(row["input_ids"]) == "User: Capital of France?\nAssistant: Paris.<|im_end|>"
    assert desk.learned(row).strip() == "Paris.<|im_end|>"


def test_a_template_that_changes_earlier_answers_teaches_the_last_one(desk: Desk) -> None:
    desk.use(build_tokenizer(THOUGHTFUL))
    desk.put([chat("one?", "<think>\nhm\n</think>\n1", "two?", "<think>\nwell\n</think>\n2")])
    desk.prepare(**NO_SPLIT)
    (row,) = desk.load()
    assert desk.learned(row) == "well\n</think>\n2<|im_end|>"


def test_a_tool_call_is_learned_and_its_result_is_not(desk: Desk) -> None:
    template = CHATML.replace(
        "(m['content'] or '')", "(m['content'] or '') + (m.tool_calls[0].name if m.tool_calls else '')"
    )
    desk.use(build_tokenizer(template))
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "weather"}]}
    messages = [{"role": "user", "content": "Rain?"}, call, {"role": "tool", "content": "dry"}]
    desk.put([{"messages": [*messages, {"role": "assistant", "content": "No."}], "tools": [{"name": "weather"}]}])
    desk.prepare(**NO_SPLIT)
    (row,) = desk.load()
    assert desk.learned(row) == "weather<|im_end|>No.<|im_end|>"


def test_a_template_that_refuses_says_so_without_its_words(desk: Desk) -> None:
    desk.use(build_tokenizer(NO_SYSTEM))
    desk.put([chat("a", "b", system="secret")])
    with pytest.raises(
        DatasetInvalidError, match=r"train\.jsonl:1 \(the chat template refuses the conversation\)"
    ) as info:
        desk.prepare(**NO_SPLIT)
    assert "secret" not in str(info.value)


def test_a_model_without_a_template_cannot_learn_conversations(desk: Desk) -> None:
    desk.use(build_tokenizer(None))
    (desk.places.model / "chat_template.jinja").unlink(missing_ok=True)
    desk.put([chat("a", "b")])
    with pytest.raises(DatasetInvalidError, match=r"no chat template.*dataset\.format\.type instruction or text"):
        desk.prepare(**NO_SPLIT)


def test_instructions_learn_the_completion_and_its_end(desk: Desk) -> None:
    desk.put([{"q": "Capital of France?\n", "a": "Paris."}])
    columns = {"prompt": "q", "completion": "a"}
    desk.prepare(format={"type": "instruction", "columns": columns}, **NO_SPLIT)
    (row,) = desk.load()
    assert desk.say(row["input_ids"]) == "Capital of France?\nParis.<|im_end|>"
    assert desk.learned(row) == "Paris.<|im_end|>"


def test_texts_learn_everything(desk: Desk) -> None:
    desk.put([{"text": "The sea and the sky."}, {"text": "It ends already.<|im_end|>"}])
    desk.prepare(format={"type": "text"}, **NO_SPLIT)
    rows = desk.load()
    assert [desk.learned(row) for row in rows] == ["The sea and the sky.<|im_end|>", "It ends already.<|im_end|>"]
    assert all(row["labels"] == row["input_ids"] for row in rows)


def test_a_tokenizer_that_puts_spaces_before_texts_is_cut_where_its_tokens_are(desk: Desk) -> None:
    desk.use(build_spaced_tokenizer())
    line = chat("the capital of France", "Paris", "of Italy", "Rome")
    desk.put([line])
    desk.prepare(**NO_SPLIT)
    (row,) = desk.load()
    whole = desk.tokenizer.apply_chat_template(line["messages"], tokenize=False)
    assert row["input_ids"] == desk.tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert desk.learned(row).replace(" ", "") == "Paris</s>Rome</s>"


def test_the_tokenizers_beginning_stands_before_texts_and_is_not_learned(desk: Desk) -> None:
    desk.use(build_spaced_tokenizer())
    desk.put([{"prompt": "the capital", "completion": "of France"}])
    desk.prepare(format={"type": "instruction"}, **NO_SPLIT)
    (row,) = desk.load()
    assert row["input_ids"][: len(row["input_ids"]) - 1][:1] == [desk.tokenizer.bos_token_id]
    assert row["labels"][0] == -100
    assert row["labels"][-1] == desk.tokenizer.eos_token_id
    prompt = desk.tokenizer("the capital")["input_ids"]
    assert row["input_ids"][: len(prompt)] == prompt


def test_suites_and_what_is_held_out_have_the_prompt_and_its_answer(desk: Desk) -> None:
    desk.put([chat(f"question {number}", f"answer {number}") for number in range(20)])
    desk.put([chat("one?", "1", "two?", "2")], "suite-quiz", "quiz.jsonl")
    source = {"uri": "https://example.com/quiz.jsonl"}
    desk.prepare(split={"evalFraction": 0.3}, suites=[{"name": "quiz", "source": source}])
    (row,) = desk.load("suite-quiz")
    prompt = desk.tokenizer.apply_chat_template(chat("one?", "1", "two?")["messages"], add_generation_prompt=True)
    assert row["prompt_ids"] == prompt["input_ids"]
    assert row["completion"] == "2"
    for row in desk.load("eval"):
        assert row["input_ids"][: len(row["prompt_ids"])] == row["prompt_ids"]
        assert desk.learned(row) == row["completion"] + "<|im_end|>"
    assert desk.load("train").column_names == ["input_ids", "labels"]


def test_texts_that_are_held_out_ask_nothing(desk: Desk) -> None:
    desk.put([{"text": f"text {number}"} for number in range(20)])
    desk.prepare(format={"type": "text"}, split={"evalFraction": 0.3})
    assert {(len(row["prompt_ids"]), row["completion"]) for row in desk.load("eval")} == {(0, None)}
