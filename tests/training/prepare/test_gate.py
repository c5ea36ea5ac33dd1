"""What the gate leaves out, what it says about it, and when the job ends."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from llmos.api import Reason
from llmos_workers.prepare.errors import (
    BaseModelChangedError,
    DatasetInvalidError,
    ExamplesTooLongError,
    NothingToLearnError,
    PersonalDataFoundError,
    SourceGoneError,
)
from llmos_workers.prepare.main import build_failure_json, build_result_json
from llmos_workers.prepare.manifest import compute_inputs
from llmos_workers.prepare.preparing import prepare
from tests.training.prepare.conftest import Desk
from tests.training.prepare.values import build_job, chat

NO_SPLIT: dict[str, Any] = {"evalFraction": 0}
TEXT = {"type": "text"}
WORDS = [f"word{number}" for number in range(30)]


def pairs(count: int) -> list[dict[str, Any]]:
    return [chat(f"question number {number}", f"answer {number}") for number in range(count)]


def test_few_broken_lines_are_left_out_and_named(desk: Desk) -> None:
    desk.put([*pairs(99), b"{broken"])
    report = desk.prepare(validate={"maxErrorRate": 0.01}, split=NO_SPLIT).report
    assert (report.lines, report.broken, report.train_examples) == (100, 1, 99)
    assert [(one.line, one.problem) for one in report.examples] == [
        ("train.jsonl:100", "not valid JSON at character 2")
    ]
    assert len(desk.load()) == 99


def test_more_of_them_end_the_job_with_the_lines_named(desk: Desk) -> None:
    desk.put([*pairs(98), b"{broken", {"messages": []}])
    with pytest.raises(DatasetInvalidError) as info:
        desk.prepare(validate={"maxErrorRate": 0.01})
    assert "2 of 100 lines cannot be learned from, more than maxErrorRate allows (1.00%)" in str(info.value)
    assert "train.jsonl:99 (not valid JSON" in str(info.value)
    assert "train.jsonl:100 (there are no messages)" in str(info.value)
    assert info.value.report is not None
    assert not (desk.places.dataset / "manifest.json").exists()


def test_the_same_example_is_learned_once(desk: Desk) -> None:
    first = chat("What?", "That.")
    reordered = (
        b'{"id": 7, "messages": [{"content": " What? ", "role": "user"}, {"content": "That.", "role": "assistant"}]}'
    )
    desk.put([first, reordered, chat("What?", "Not that.")])
    report = desk.prepare(split=NO_SPLIT).report
    assert (report.duplicates, report.train_examples) == (1, 2)
    assert report.examples[0].line == "train.jsonl:2"


def test_copies_are_kept_where_that_is_asked_for(desk: Desk) -> None:
    desk.put([chat("What?", "That.")] * 3)
    assert desk.prepare(clean={"exactDedup": False}, split=NO_SPLIT).report.train_examples == 3


def test_almost_the_same_example_is_learned_once(desk: Desk) -> None:
    text = " ".join(f"word{number}" for number in range(200))
    other = " ".join(f"other{number}" for number in range(200))
    desk.put([{"text": text}, {"text": text.replace("word7 ", "word8 ").upper()}, {"text": other}, {"text": "short"}])
    clean = {"nearDedup": {"threshold": 0.8}}
    report = desk.prepare(maxLength=8192, format=TEXT, clean=clean, split=NO_SPLIT).report
    assert (report.near_duplicates, report.train_examples) == (1, 3)
    assert report.examples[0].line == "train.jsonl:2"


PERSONAL = [
    ("mail me at erika.mustermann@example.com today", "EMAIL_ADDRESS"),
    ("the server is 192.168.17.23 as always", "IP_ADDRESS"),
    ("call +49 30 901820 or come by", "PHONE_NUMBER"),
    ("pay to DE89 3704 0044 0532 0130 00 now", "IBAN_CODE"),
    ("card 4111 1111 1111 1111 please", "CREDIT_CARD"),
]


@pytest.mark.parametrize(("text", "kind"), PERSONAL)
def test_personal_data_is_redacted(desk: Desk, text: str, kind: str) -> None:
    desk.put([{"text": text}, {"text": "nothing personal, 12 apples @ noon"}])
    report = desk.prepare(format=TEXT, clean={"pii": "redact"}, split=NO_SPLIT).report
    learned = desk.learned(desk.load()[0])
    assert (report.personal, report.train_examples) == (1, 2)
    assert f"<{kind}>" in learned
    assert report.examples[0].problem == f"personal data: {kind}"


def test_personal_data_is_dropped(desk: Desk) -> None:
    desk.put([{"text": text} for text, _ in PERSONAL] + [{"text": "nothing"}])
    report = desk.prepare(format=TEXT, clean={"pii": "drop"}, split=NO_SPLIT).report
    assert (report.personal, report.train_examples) == (5, 1)


def test_personal_data_ends_the_job_without_being_told(desk: Desk) -> None:
    desk.put([{"text": "nothing"}, {"text": PERSONAL[0][0]}])
    with pytest.raises(PersonalDataFoundError, match=r"train\.jsonl:2 \(personal data: EMAIL_ADDRESS\)") as info:
        desk.prepare(format=TEXT, clean={"pii": "fail"})
    assert "erika" not in build_failure_json(info.value)


def test_lines_that_are_the_same_without_personal_data_are_learned_once(desk: Desk) -> None:
    desk.put([{"text": f"mail {name}@example.com"} for name in ("erika", "max")])
    report = desk.prepare(format=TEXT, clean={"pii": "redact"}, split=NO_SPLIT).report
    assert (report.personal, report.duplicates, report.train_examples) == (2, 1, 1)


def test_what_stands_in_a_suite_is_not_learned(desk: Desk) -> None:
    run = " ".join(WORDS[:13])
    desk.put([chat("Capital of  FRANCE", "Paris"), chat("tell me", f"Well, {run}!"), chat("fine", "yes"), *pairs(3)])
    desk.put([chat("capital of France?", "Lyon"), chat("a tale", f"Once {run}"), chat("x", "y")], "suite-quiz")
    suites = [{"name": "quiz", "source": {"uri": "https://example.com/q.jsonl"}}]
    report = desk.prepare(suites=suites, split=NO_SPLIT).report
    assert (report.contaminated, report.train_examples) == (2, 4)
    assert [one.line for one in report.examples] == ["train.jsonl:1", "train.jsonl:2"]


def test_twelve_words_in_a_row_are_no_contamination(desk: Desk) -> None:
    desk.put([chat("tell me", " ".join(WORDS[:12])), *pairs(3)])
    desk.put(
        [chat("a tale", "Once " + " ".join(WORDS[:12]) + " the end"), chat("x", "y"), chat("y", "z")], "suite-quiz"
    )
    suites = [{"name": "quiz", "source": {"uri": "https://example.com/q.jsonl"}}]
    assert desk.prepare(suites=suites, split=NO_SPLIT).report.contaminated == 0


def test_the_form_that_all_questions_of_a_suite_share_is_no_contamination(desk: Desk) -> None:
    form = "Classify the following text into one of the classes sport, politics, science or art and say only that: "
    system = " ".join(WORDS)
    desk.put([chat(f"{form}text {number}", "art", system=system) for number in range(5)])
    desk.put([chat(f"{form}other {number}", "art", system=system) for number in range(5)], "suite-quiz")
    suites = [{"name": "quiz", "source": {"uri": "https://example.com/q.jsonl"}}]
    assert desk.prepare(suites=suites, split=NO_SPLIT).report.contaminated == 0


def test_suites_may_be_learned_where_that_is_asked_for(desk: Desk) -> None:
    desk.put([chat("a", "b"), chat("c", "d")])
    desk.put([chat("a", "b")], "suite-quiz")
    suites = [{"name": "quiz", "source": {"uri": "https://example.com/q.jsonl"}}]
    report = desk.prepare(suites=suites, clean={"decontaminate": False}, split=NO_SPLIT).report
    assert (report.contaminated, report.train_examples) == (0, 2)


def test_a_suite_holds_its_first_questions_up_to_its_limit(desk: Desk) -> None:
    desk.put(pairs(30))
    desk.put([chat(f"ask {number}", str(number)) for number in range(9)], "suite-quiz")
    suites = [{"name": "quiz", "source": {"uri": "https://example.com/q.jsonl"}, "limit": 4}, {"name": "heldout"}]
    desk.prepare(suites=suites)
    assert desk.load("suite-quiz")["completion"] == ["0", "1", "2", "3"]
    assert not (desk.places.dataset / "suite-heldout").exists()


def test_a_suite_may_have_a_format_of_its_own_which_counts_as_an_input(desk: Desk) -> None:
    desk.put([chat(f"question {number}", f"answer {number}") for number in range(20)])
    desk.put([{"ask": "capital of France?", "say": "Paris"}], "suite-quiz")
    quiz = {"name": "quiz", "source": {"uri": "https://example.com/q.jsonl"}}
    columns = {"prompt": "ask", "completion": "say"}
    own = {**quiz, "format": {"type": "instruction", "columns": columns}}
    prepared = desk.prepare(suites=[own])
    (row,) = desk.load("suite-quiz")
    assert (row["completion"], desk.say(row["prompt_ids"])) == ("Paris", "capital of France?")
    assert desk.learned(row).startswith("Paris")
    assert compute_inputs(build_job(suites=[own]).spec) == prepared.inputs
    assert compute_inputs(build_job(suites=[quiz]).spec) != prepared.inputs


def test_a_suite_of_conversations_has_the_chat_template_beside_a_dataset_without(desk: Desk) -> None:
    desk.put([{"text": f"a text of {number} words"} for number in range(20)])
    desk.put([chat("capital of France?", "Paris")], "suite-quiz")
    own = {"name": "quiz", "source": {"uri": "https://example.com/q.jsonl"}, "format": {"type": "chat"}}
    desk.prepare(suites=[own], format={"type": "text"})
    (row,) = desk.load("suite-quiz")
    assert row["completion"] == "Paris"
    assert desk.say(row["prompt_ids"]).endswith("assistant\n")


def test_a_broken_suite_ends_the_job(desk: Desk) -> None:
    desk.put(pairs(30))
    desk.put([b"{"], "suite-quiz", "quiz.jsonl")
    with pytest.raises(DatasetInvalidError, match=r"suite-quiz/quiz\.jsonl:1 \(not valid JSON") as info:
        desk.prepare(suites=[{"name": "quiz", "source": {"uri": "https://example.com/q.jsonl"}}])
    assert info.value.report is None


LONG = {"text": "the sea and the sky " * 50}


@pytest.mark.parametrize(("overlong", "kept"), [("truncate", 2), ("drop", 1)])
def test_examples_that_are_too_long(desk: Desk, overlong: str, kept: int) -> None:
    desk.put([LONG, {"text": "short"}])
    report = desk.prepare(maxLength=64, format=TEXT, validate={"overlong": overlong}, split=NO_SPLIT).report
    assert (report.overlong, report.train_examples) == (1, kept)
    assert max(map(len, desk.load()["input_ids"])) <= 64
    assert report.length_max > 64
    assert report.length_p50 < 16
    assert report.train_tokens == sum(map(len, desk.load()["input_ids"]))


def test_the_report_has_a_histogram_of_lengths(desk: Desk) -> None:
    desk.put([LONG, *({"text": f"short {number}"} for number in range(4))])
    report = desk.prepare(maxLength=64, format=TEXT, split=NO_SPLIT).report
    buckets = {bucket.up_to: bucket.examples for bucket in report.lengths}
    assert buckets[16] == 4
    assert sum(buckets.values()) == report.train_examples == 5
    assert max(buckets) / 2 < report.length_max <= max(buckets), "as long as it was before it was cut"


def test_they_end_the_job_where_that_is_asked_for(desk: Desk) -> None:
    desk.put([{"text": "short"}, LONG])
    with pytest.raises(ExamplesTooLongError, match=r"1 examples.*train\.jsonl:2 \(\d+ tokens, maxLength is 64\)"):
        desk.prepare(maxLength=64, format=TEXT, validate={"overlong": "fail"})


def test_an_answer_beyond_the_end_teaches_nothing(desk: Desk) -> None:
    desk.put([chat(LONG["text"], "too late"), chat("a", "b")])
    report = desk.prepare(maxLength=64, split=NO_SPLIT).report
    assert (report.overlong, report.train_examples) == (1, 1)
    assert "beyond" in report.examples[0].problem


@pytest.mark.parametrize(
    "lines", [[b""], [chat("a", "b")] * 5, [chat("alone", "one")]], ids=["blank", "one, copied", "one"]
)
def test_nothing_to_learn_or_to_hold_out_ends_the_job(desk: Desk, lines: list[Any]) -> None:
    desk.put(lines)
    with pytest.raises(NothingToLearnError):
        desk.prepare()


def test_a_small_dataset_still_holds_one_example_out(desk: Desk) -> None:
    desk.put(pairs(4))
    report = desk.prepare(split={"evalFraction": 0.001}).report
    assert (report.train_examples, report.eval_examples) == (3, 1)


def test_a_second_run_only_reports(desk: Desk) -> None:
    desk.put(pairs(30))
    first = desk.prepare()
    assert list(desk.places.source("dataset").iterdir()) == [desk.places.source("dataset") / ".prepared"]
    assert desk.prepare() == first
    assert first.files.keys() == {
        str(path.relative_to(desk.places.dataset)) for path in desk.places.dataset.rglob("*/*") if path.is_file()
    }


def test_the_digest_is_of_what_is_learned(desk: Desk, tmp_path: Path) -> None:
    digests = set()
    runs: list[tuple[list[Any], dict[str, Any]]] = [
        (pairs(30), {}),
        ([*pairs(30), b"  "], {}),
        (pairs(31), {}),
        (pairs(30), {"maxLength": 256}),
        (pairs(30), {"split": {"seed": 1}}),
    ]
    for number, (lines, settings) in enumerate(runs):
        other = Desk(type(desk.places)(desk.places.model, tmp_path / str(number)), desk.tokenizer)
        other.put(lines)
        digests.add(other.prepare(**settings).digest)
    assert len(digests) == 4


def test_another_base_model_is_refused_by_name(desk: Desk) -> None:
    desk.put(pairs(30))
    desk.prepare()
    with pytest.raises(BaseModelChangedError) as info:
        prepare(build_job(), desk.places, "sha256:other", io.StringIO())
    assert info.value.reason == Reason.BaseModelChanged


def test_a_run_that_was_cut_off_is_begun_anew(desk: Desk) -> None:
    desk.put(pairs(30))
    (desk.places.dataset / "train").mkdir(parents=True)
    (desk.places.dataset / "train/data-00000-of-00001.arrow").write_bytes(b"half")
    desk.places.scratch.mkdir()
    assert desk.prepare().report.lines == 30
    assert not desk.places.scratch.exists()


def test_files_that_are_gone_are_fetched_again(desk: Desk) -> None:
    desk.put(pairs(30))
    desk.prepare()
    suites = [{"name": "quiz", "source": {"uri": "https://example.com/q.jsonl"}}]
    with pytest.raises(SourceGoneError, match="fetches them again"):
        desk.prepare(suites=suites)
    assert not (desk.places.source("dataset") / ".prepared").exists()


def test_messages_fit_a_termination_log(desk: Desk) -> None:
    name = "ü" * 100 + ".jsonl"
    desk.put([*pairs(30), *[b"{"] * 30], file=name)
    with pytest.raises(DatasetInvalidError) as info:
        desk.prepare()
    told = build_failure_json(info.value)
    assert len(told.encode()) <= 4096
    failure = json.loads(told)
    assert failure["reason"] == "DatasetInvalid"
    assert failure["report"]["broken"] == 30
    assert failure["message"].endswith("make a new FineTuneJob.")
    report = desk.prepare(validate={"maxErrorRate": 0.9}).report
    told = build_result_json(report)
    assert len(told.encode()) <= 4096
    assert json.loads(told)["report"]["trainExamples"] == report.train_examples
