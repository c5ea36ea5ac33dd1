"""What follows from numbers alone: patience, lost time, normalised answers, changed settings."""

from __future__ import annotations

import pytest

from llmos.api.finetunejob_evaluation import EarlyStopping
from llmos_workers.train.attempts import AttemptRecord, compute_lost_s
from llmos_workers.train.evaluation import normalise
from llmos_workers.train.scores import Scored, list_comparable
from llmos_workers.train.settings import find_changes
from llmos_workers.train.state import Patience, State, StepLoss


def record(number: int, resumed: int, step: int, *marks: tuple[int, float], accelerators: int = 1) -> AttemptRecord:
    """An attempt that began at its number times 1000 and took ten seconds for each step."""
    began = number * 1000.0
    return AttemptRecord(
        attempt=number,
        accelerators=accelerators,
        resumed_step=resumed,
        began_at=began,
        step=step,
        step_at=began + 10.0 * (step - resumed),
        marks=marks,
    )


def test_nothing_is_lost_by_the_first_attempt_and_by_one_that_was_stopped_in_order() -> None:
    assert compute_lost_s([record(1, 0, 7)]) == 0
    assert compute_lost_s([record(1, 0, 7, (7, 1070.0)), record(2, 7, 7)]) == 0


def test_lost_is_what_was_done_after_the_checkpoint_times_accelerators_over_all_attempts() -> None:
    first = record(1, 0, 7, (3, 1030.0), (6, 1060.0), accelerators=8)
    second = record(2, 6, 9, accelerators=8)
    assert compute_lost_s([first, second]) == 10 * 8
    # The second one made no checkpoint, so all of it is lost.
    assert compute_lost_s([first, second, record(3, 6, 6)]) == 10 * 8 + 30 * 8


def test_a_newer_checkpoint_that_was_damaged_costs_the_steps_since_the_older_one() -> None:
    assert compute_lost_s([record(1, 0, 7, (3, 1030.0), (6, 1060.0)), record(2, 3, 3)]) == 40


def test_a_clock_that_jumps_back_counts_nothing() -> None:
    assert compute_lost_s([record(1, 0, 7, (6, 99999.0)), record(2, 6, 6)]) == 0


def test_small_differences_are_no_improvement_and_do_not_add_up() -> None:
    rule = EarlyStopping(patience=3, min_delta=0.1)
    patience = Patience()
    for value in (2.0, 1.95, 1.91):
        patience = patience.after(value, rule)
    assert patience == Patience(best=2.0, misses=2)
    assert patience.after(1.85, rule) == Patience(best=1.85, misses=0)


def test_equal_values_are_misses_without_a_delta() -> None:
    assert Patience(best=1.0).after(1.0, EarlyStopping()) == Patience(best=1.0, misses=1)


@pytest.mark.parametrize(
    ("rule", "values", "misses"),
    [
        (EarlyStopping(metric="eval_f1"), (0.5, 0.7, 0.6, 0.6), 2),
        (EarlyStopping(metric="eval_f1", min_delta=0.3), (0.5, 0.7, 0.9), 0),
        (EarlyStopping(metric="eval_kl"), (0.5, 0.7, 0.6), 2),
        # As an older version stored it by default.
        (EarlyStopping(metric="eval_recall_at_1", mode="min"), (0.5, 0.4), 1),
    ],
)
def test_which_value_is_better_depends_on_the_metric(
    rule: EarlyStopping, values: tuple[float, ...], misses: int
) -> None:
    state = State(step=1)
    for value in values:
        state = state.after_evaluation(1.0, rule, value)
    assert (state.patience.misses, state.value) == (misses, values[-1])
    assert state.is_best() == (misses == 0)


def test_another_metric_begins_anew() -> None:
    state = State(step=1).after_evaluation(0.1, EarlyStopping())
    state = state.after_evaluation(2.0, EarlyStopping(metric="eval_f1"), 0.5)
    assert state.is_best()
    assert state.patience == Patience(best=-0.5)


def test_the_best_loss_that_an_older_version_saved_is_still_the_one_to_beat() -> None:
    saved = '{"step": 5, "evaluatedStep": 5, "evalLoss": 1.5, "bestEvalLoss": 1.0}'
    state = State.model_validate_json(saved).after_evaluation(1.2, None)
    assert not state.is_best()
    again = State.model_validate_json(state.model_dump_json(by_alias=True))
    assert again == state
    assert again.after_evaluation(0.9, None).is_best()


def test_checkpoints_are_compared_with_those_judged_by_the_same_metric() -> None:
    def saved(step: int, **facts: object) -> Scored:
        return Scored.model_validate({"step": step, "evaluatedStep": step, **facts})

    old = [saved(1, evalLoss=0.1), saved(2, evalLoss=0.2)]
    new = [saved(step, evalLoss=1.0, judgedBy="eval_f1 max", score=-0.5) for step in (3, 4)]
    assert list_comparable([*old, saved(9, evaluatedStep=2, evalLoss=0.2)], lambda one: one) == old
    assert list_comparable([*old, *new], lambda one: one) == new
    assert [one.compared for one in (*old, *new)] == [0.1, 0.2, -0.5, -0.5]


def test_the_loss_of_the_last_steps_weighs_tokens() -> None:
    state = State()
    for total, learned in ((10.0, 1), (1.0, 9)):
        state = state.after_step(position=1, tokens=1, loss=StepLoss(total=total, learned=learned))
    assert state.loss == pytest.approx(1.1)


def test_an_evaluation_is_due_at_intervals_and_at_the_end_once() -> None:
    state = State(step=10)
    assert state.is_evaluation_due(5, 12)
    assert not state.after_evaluation(1.0, None).is_evaluation_due(5, 12)
    assert State(step=12).is_evaluation_due(5, 12)
    assert not State().is_evaluation_due(5, 12)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("The capital is Paris.", "the capital is paris"),
        ("  a - b ", "a b"),
        ("STRASSE", "straße"),
        ("e\u0301", "\u00e9"),
    ],
)
def test_case_punctuation_and_space_around_do_not_count(said: str, wanted: str) -> None:
    assert normalise(said) == normalise(wanted)


def test_other_words_count() -> None:
    assert normalise("Paris, France") != normalise("Paris")


def test_settings_that_an_older_version_did_not_know_are_no_change() -> None:
    assert find_changes({"rank": 4}, {"rank": 4, "new": 1}) == ()
    assert find_changes({"rank": 4, "seed": 1}, {"rank": 8, "seed": 1}) == ("rank: 4, now 8",)
