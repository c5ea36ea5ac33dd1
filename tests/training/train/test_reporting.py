"""What a run says of itself: rates, the time to go, evaluations, and what TensorBoard reads."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llmos_workers.pulse import Activity
from llmos_workers.train.events import EventLog
from llmos_workers.train.reporting import Metrics, Reporter
from llmos_workers.train.state import State, StepLoss
from tests.training.train.world import read_events

STEPS = 100
LOSS = StepLoss(total=3.0, learned=2)


class Run:
    """A run of two seconds and 500 tokens a step, seen by its reporter."""

    def __init__(self, folder: Path) -> None:
        self.now_s, self.state, self.out, self.metrics = 1000.0, State(), io.StringIO(), Metrics(0)
        self.folder = folder
        self.reporter = Reporter(
            out=self.out,
            events=EventLog(folder, 1),
            metrics=self.metrics,
            examples=40,
            total_steps=STEPS,
            lost_s=7.0,
            checkpoint=None,
            state=self.state,
            activity=Activity(),
            clock=lambda: self.now_s,
        )

    def step(self) -> None:
        self.now_s += 2
        self.state = self.state.after_step(position=self.state.position + 4, tokens=500, loss=LOSS)
        self.reporter.on_step(self.state, LOSS, 0.001)

    def evaluate(self, value: float) -> None:
        self.now_s += 60
        self.state = self.state.after_evaluation(value, None)
        self.reporter.on_evaluation(self.state)

    @property
    def told(self) -> dict[str, Any]:
        return dict(json.loads(self.out.getvalue().splitlines()[-1]))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path / "tensorboard")
    yield run
    run.reporter.close()


def test_the_rate_and_the_time_to_go_are_those_of_steps_and_outlive_an_evaluation(run: Run) -> None:
    run.step()
    run.step()
    assert run.told["progress"] == {
        "step": 2,
        "totalSteps": STEPS,
        "epoch": 0.2,
        "tokens": 1000,
        "tokensPerSecond": 250.0,
        "etaSeconds": 196,
        "loss": 1.5,
        "display": "2/100",
    }
    run.evaluate(1.25)
    progress = run.told["progress"]
    assert (progress["tokensPerSecond"], progress["etaSeconds"], progress["evalLoss"]) == (250.0, 196, 1.25)
    run.step()
    assert run.told["progress"]["tokensPerSecond"] == 250.0, "the minute of the evaluation counts for nothing"


def test_the_last_evaluations_are_told_with_their_steps(run: Run) -> None:
    for number in range(12):
        run.step()
        run.evaluate(2 - number / 10)
    told = run.told["evaluations"]
    assert [each["step"] for each in told] == list(range(3, 13))
    assert told[-1] == {"step": 12, "loss": 1.5, "evalLoss": 0.9}


def test_tensorboard_has_each_step_and_each_evaluation_at_its_time(run: Run) -> None:
    began = datetime.now(UTC).timestamp()
    run.step()
    run.step()
    run.evaluate(1.25)
    run.reporter.flush()
    (path,) = run.folder.iterdir()
    assert ".tfevents." in path.name, "TensorBoard reads no other files"
    found = [
        (event.step, value.tag, round(value.simple_value, 6))
        for event in read_events(path)
        for value in event.summary.value
    ]
    assert found == [
        (1, "train/loss", 1.5),
        (1, "train/learning_rate", 0.001),
        (1, "train/tokens", 500),
        (2, "train/loss", 1.5),
        (2, "train/learning_rate", 0.001),
        (2, "train/tokens", 1000),
        (2, "eval/loss", 1.25),
    ]
    assert all(event.wall_time >= began - 1 for event in read_events(path))


def test_prometheus_has_the_same_numbers(run: Run) -> None:
    run.step()
    run.step()
    run.evaluate(1.25)
    gauges = (run.metrics.step, run.metrics.total_steps, run.metrics.tokens, run.metrics.rate, run.metrics.loss)
    values = [sample.value for gauge in gauges for metric in gauge.collect() for sample in metric.samples]
    assert values == [2, STEPS, 1000, 250, 1.5]
    (lost,) = (sample.value for metric in run.metrics.lost.collect() for sample in metric.samples)
    (eval_loss,) = (sample.value for metric in run.metrics.eval_loss.collect() for sample in metric.samples)
    assert (lost, eval_loss) == (7.0, 1.25)
