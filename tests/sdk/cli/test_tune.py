"""`llmos tune`, `suspend` and `resume`: what is made, what is refused before that, and how the watching ends."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from rich.console import Console

from llmos.api import FineTuneJob, Gate
from llmos.cli.gates import BadGateError, describe_gate, parse_gate
from llmos.cli.job_progress import JobDisplay
from tests.sdk.cli.conftest import Run
from tests.sdk.client.support import (
    BORN,
    GATE_FAILED,
    JOBS,
    MODELS,
    POOLS,
    READY,
    SUCCEEDED,
    TRAINING,
    Json,
    Script,
    accelerator,
    answer,
    condition,
    events,
    job,
    model,
    objects,
    pool,
    refusal,
)

AVAILABLE = condition("True", "Available")
BASE = answer(model("smollm2", AVAILABLE))
FREE = refusal(404, "llmmodels support not found")
MADE = answer(job("support"), 201)
WORDS = ("tune", "--base", "smollm2", "--data", "https://example.com/support.jsonl", "--name", "support")
ON_CPU = (*WORDS, "--class", "cpu")
EVALUATION: Json = {
    "metrics": [{"name": "eval_loss", "base": 2.0, "result": 1.5, "examples": 10}],
    "gates": [{"metric": "eval_loss", "passed": True, "message": "1.5 is at most 0.95 x 2 = 1.9"}],
}


def serving(**spec: Any) -> httpx.Response:
    thing = pool("chat", READY)
    return answer({**thing, "spec": {**thing["spec"], "adapters": {}, **spec}})


def test_a_job_is_made_and_watched_to_its_end(llmos: Run) -> None:
    progress = {"step": 20, "totalSteps": 80, "loss": 1.75, "evalLoss": 1.8, "tokensPerSecond": 512, "etaSeconds": 61}
    gates = {"gates": [{"metric": "eval_loss", "maxRelativeToBase": 0.95}]}
    done = job("support", SUCCEEDED, phase="Succeeded", evaluate=gates, attach=("chat",), evaluation=EVALUATION)
    script = Script(
        *(BASE, FREE, serving(), MADE, answer(job("support"))),
        events(("MODIFIED", job("support", TRAINING, phase="Training", progress=progress)), ("MODIFIED", done)),
    )
    result = llmos(script, *ON_CPU, "--attach", "chat", "--gate", "eval_loss<=0.95xbase")
    assert result.exit_code == 0, result.output
    assert script.asked[:4] == [
        f"GET {MODELS}/smollm2",
        f"GET {MODELS}/support",
        f"GET {POOLS}/chat",
        f"POST {JOBS}",
    ]
    assert script.body(3)["spec"] == {
        "baseModelRef": {"name": "smollm2"},
        "method": {"tuning": "lora"},
        "dataset": {"source": {"uri": "https://example.com/support.jsonl"}},
        "trainer": {"accelerator": {"class": "cpu"}},
        "evaluate": gates,
        "output": {"name": "support", "attachTo": [{"pool": "chat"}]},
    }
    line = "support: Training: step 20/80, loss 1.75, eval_loss 1.8, 512 tokens/s, 0:01:01 to go"
    assert line in result.stderr
    for words in ("-25.0 %, better", "eval_loss <= 0.95 x base", "LLMModel support", "llmos chat chat --model support"):
        assert words in result.stdout, words


def test_without_waiting_it_says_how_to_watch(llmos: Run) -> None:
    result = llmos(Script(BASE, FREE, MADE), *ON_CPU, "--no-wait")
    assert result.stdout == "FineTuneJob support was made. Watch it with: llmos wait job/support -n team\n"
    told = json.loads(llmos(Script(BASE, FREE, MADE), *ON_CPU, "--no-wait", "--json").stdout)
    assert told["kind"] == "FineTuneJob"


def test_an_adapter_of_four_bits_may_have_a_rank_and_be_attached(llmos: Run) -> None:
    script = Script(BASE, FREE, serving(), MADE)
    wishes = ("--method", "qlora", "--rank", "8", "--attach", "chat")
    assert llmos(script, *ON_CPU, *wishes, "--no-wait").exit_code == 0
    assert script.body(3)["spec"]["method"] == {"tuning": "qlora", "lora": {"rank": 8}}


def test_an_interrupt_leaves_the_job_running_and_says_how_to_go_on(llmos: Run) -> None:
    script = Script(BASE, FREE, MADE, answer(job("support", TRAINING)))

    def interrupted(request: httpx.Request) -> httpx.Response:
        if "watch" in request.url.params:
            raise KeyboardInterrupt
        return script(request)

    result = llmos(interrupted, *ON_CPU)
    assert result.exit_code == 130
    for words in (
        "goes on in the cluster",
        "llmos wait job/support",
        "llmos logs -f job/support -n team",
        "llmos suspend",
    ):
        assert words in result.stderr, words
    assert not any(asked.startswith(("DELETE", "PATCH")) for asked in script.asked)


def test_a_failure_ends_with_4_its_numbers_and_its_remedy(llmos: Run) -> None:
    failed = {**EVALUATION, "gates": [{"metric": "eval_loss", "passed": False, "message": "1.5 is above 0.5 x 2 = 1"}]}
    script = Script(BASE, FREE, MADE, answer(job("support", GATE_FAILED, phase="Failed", evaluation=failed)))
    result = llmos(script, *ON_CPU)
    assert result.exit_code == 4
    assert "1.5 is above 0.5 x 2 = 1" in result.stdout
    assert "error: FineTuneJob support has failed (GateFailed)" in result.stderr
    assert "what to do: Look at status.evaluation" in result.stderr
    assert "goes on in the cluster" not in result.stderr


def test_a_deadline_says_how_to_go_on(llmos: Run) -> None:
    result = llmos(Script(BASE, FREE, MADE, answer(job("support", TRAINING))), *ON_CPU, "--timeout", "0")
    assert (result.exit_code, "goes on in the cluster" in result.stderr) == (4, True)


def test_dry_run_prints_what_would_be_applied_and_needs_no_cluster(llmos: Run) -> None:
    options = ("--format", "instruction", "--suite", "qa=https://example.com/qa.jsonl", "--gate", "qa_exact_match>=0.8")
    numbers = ("--epochs", "3", "--learning-rate", "0.001", "--seed", "0", "--rank", "8", "--pii", "redact")
    more = ("--near-dedup", "0.9", "--patience", "2", "--storage", "5Gi", "--secret", "web", "--output", "helper")
    result = llmos(Script(), *ON_CPU, *options, *numbers, *more, "--dry-run")
    made = yaml.safe_load(result.stdout)
    assert made["spec"]["evaluate"] == {
        "suites": [
            {
                "name": "qa",
                "metrics": ["loss", "exact_match"],
                "source": {"uri": "https://example.com/qa.jsonl"},
            }
        ],
        "gates": [{"metric": "qa_exact_match", "min": 0.8}],
    }
    assert made["spec"]["trainer"]["hyperparameters"] == {"epochs": 3.0, "learningRate": 0.001, "seed": 0}
    assert made["spec"]["dataset"]["clean"] == {"pii": "redact", "nearDedup": {"threshold": 0.9}}
    assert made["spec"]["dataset"]["source"]["secretRef"] == {"name": "web"}
    assert (made["spec"]["output"], made["spec"]["earlyStopping"]) == ({"name": "helper"}, {"patience": 2})
    assert "status" not in made
    assert json.loads(llmos(Script(), *ON_CPU, "--dry-run", "--json").stdout)["kind"] == "FineTuneJob"


@pytest.mark.parametrize(("classes", "chosen"), [((), "cpu"), (("nvidia-l4",), "nvidia-l4")])
def test_the_class_is_the_clusters_only_one_or_the_processor(llmos: Run, classes: tuple[str, ...], chosen: str) -> None:
    result = llmos(Script(objects(*(accelerator(name) for name in classes))), *WORDS, "--dry-run")
    assert yaml.safe_load(result.stdout)["spec"]["trainer"]["accelerator"]["class"] == chosen


def test_several_classes_are_a_question(llmos: Run) -> None:
    result = llmos(Script(objects(accelerator("a"), accelerator("b"))), *WORDS)
    assert (result.exit_code, "Choose with --class: a, b, cpu." in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "option", "told"),
    [
        (("--data", "support.jsonl"), "--data", "must start with one of hf://"),
        (("--data", __file__), "--data", "is a file of this machine"),
        (("--data", "https://a b"), "--data", "hold no spaces"),
        (("--name", "Support"), "--name", "must be a DNS label"),
        (("--name", "smollm2"), "--name", "is the base model"),
        (("--method", "full", "--attach", "chat"), "--attach", "only adapters are attached"),
        (("--method", "full", "--rank", "8"), "--rank", "makes none"),
        (("--epochs", "2", "--max-steps", "9"), "--max-steps", "takes the place of --epochs"),
        (("--epochs", "0"), "--epochs", "greater than 0"),
        (("--learning-rate", "3"), "--learning-rate", "less than or equal to 1"),
        (("--storage", "lots"), "--storage", "should match pattern"),
        (("--near-dedup", "0.1"), "--near-dedup", "greater than or equal to 0.5"),
        (("--gate", "eval_loss<2"), "--gate", "write METRIC<=LIMIT"),
        (("--gate", "accuracy>=0.8"), "--gate", "only eval_loss; --suite adds"),
        (("--gate", "eval_loss<=1", "--eval-fraction", "0"), "--gate", "computes no 'eval_loss'"),
        (("--patience", "2", "--eval-fraction", "0"), "--patience", "needs held-out examples"),
        (("--suite", "QA"), "--suite", "is no NAME or NAME=URI"),
        (("--suite", "qa=qa.jsonl"), "--suite", "must start with one of hf://"),
        (("--suite", "qa", "--eval-fraction", "0"), "--suite", "holds nothing out"),
        (("--suite", "qa", "--format", "text", "--gate", "qa_exact_match>=1"), "--gate", "only eval_loss, qa_loss"),
    ],
)
def test_bad_input_is_told_with_its_option_before_anything_is_asked(
    llmos: Run, words: tuple[str, ...], option: str, told: str
) -> None:
    script = Script()
    result = llmos(script, *ON_CPU, *words)
    said = " ".join(result.stderr.replace("│", " ").split())
    assert (result.exit_code, script.asked) == (2, []), result.output
    assert option in said
    assert told in said


@pytest.mark.parametrize(
    ("answers", "words", "code", "told"),
    [
        (
            [refusal(404, "no"), objects(model("llama"))],
            (),
            3,
            "does not exist. | Choose one with --base: llama.",
        ),
        ([refusal(404, "no"), objects()], (), 3, "does not exist. | Apply an LLMModel for it first"),
        (
            [answer({**model("qa"), "spec": {**model()["spec"], "adapter": {"baseModelRef": {"name": "big"}}}})],
            (),
            1,
            "is an adapter, and adapters are not tuned further. | Take its base model: --base big.",
        ),
        ([answer(model("smollm2", condition("False", "UnsafeFormat", "Pickle.")))], (), 4, "UnsafeFormat"),
        (
            [BASE, refusal(404, "no"), objects(accelerator("nvidia-l4"))],
            ("--class", "gold"),
            3,
            "AcceleratorClass gold does not exist. | Choose one with --class: nvidia-l4, cpu.",
        ),
        ([BASE, answer(model("support"))], (), 1, "that another job or a person made"),
        ([BASE, FREE, refusal(404, "no")], ("--attach", "chat"), 3, "InferencePool team/chat does not exist."),
        (
            [BASE, FREE, serving(modelRef={"name": "llama"})],
            ("--attach", "chat"),
            1,
            "serves llama, and an adapter of smollm2 does not fit it.",
        ),
        (
            [BASE, FREE, serving(adapters=None)],
            ("--attach", "chat", "--rank", "20"),
            1,
            """kubectl patch ipool chat --type=merge -p '{"spec":{"adapters":{"maxRank":32}}}'""",
        ),
        (
            [BASE, FREE, serving()],
            ("--attach", "chat", "--rank", "20"),
            1,
            "holds adapters up to rank 16, and this one has 20. | Lower --rank, or raise spec.adapters.maxRank",
        ),
        (
            [BASE, FREE, refusal(409, "already exists")],
            (),
            1,
            "FineTuneJob team/support exists already. | Look at it with: llmos get job/support",
        ),
    ],
)
def test_what_cannot_succeed_is_told_with_its_remedy_and_nothing_is_made(
    llmos: Run, answers: list[httpx.Response], words: tuple[str, ...], code: int, told: str
) -> None:
    script = Script(*answers)
    result = llmos(script, *ON_CPU, *words)
    said = result.stderr.replace("\nwhat to do: ", " | ")
    assert (result.exit_code, told in said) == (code, True), said
    assert all(asked.startswith("GET") or asked == f"POST {JOBS}" for asked in script.asked)


def test_a_base_that_is_still_fetched_is_only_a_note(llmos: Run) -> None:
    fetching = answer(model("smollm2", condition("False", "Fetching")))
    result = llmos(Script(fetching, FREE, MADE), *ON_CPU, "--no-wait")
    assert (result.exit_code, "note: LLMModel smollm2 is not ready yet (Fetching)" in result.stderr) == (0, True)


def test_an_output_of_the_same_job_may_be_made_again(llmos: Run) -> None:
    there = model("support", AVAILABLE)
    there["metadata"]["labels"] = {"llmos.dev/job": "support"}
    assert llmos(Script(BASE, answer(there), MADE), *ON_CPU, "--no-wait").exit_code == 0


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("eval_loss<=0.95xbase", Gate(metric="eval_loss", max_relative_to_base=0.95)),
        ("eval_loss >= 1.1 * base", Gate(metric="eval_loss", min_relative_to_base=1.1)),
        ("eval_loss<=2", Gate(metric="eval_loss", max=2)),
        ("eval_loss>=-1e-3", Gate(metric="eval_loss", min=-0.001)),
    ],
)
def test_a_gate_is_read_and_written_back(text: str, gate: Gate) -> None:
    metrics = frozenset({"eval_loss"})
    assert parse_gate(text, metrics) == gate
    assert parse_gate(describe_gate(gate), metrics) == gate


def test_a_negative_share_of_the_base_is_refused() -> None:
    with pytest.raises(BadGateError, match="cannot be negative"):
        parse_gate("eval_loss<=-1xbase", frozenset({"eval_loss"}))


def draw(states: list[Json], *, terminal: bool, seconds: int = 1) -> str:
    """What the display writes for one state after the other, so many seconds apart."""
    times = iter(BORN + timedelta(seconds=seconds * index) for index in range(99))
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=160)
    with JobDisplay(lambda: next(times), console) as display:
        for state in states:
            display(FineTuneJob.model_validate(state))
    return file.getvalue()


def steps(*numbers: int, **progress: Any) -> list[Json]:
    return [
        job("support", TRAINING, phase="Training", progress={"step": step, "totalSteps": 80, **progress})
        for step in numbers
    ]


def test_lines_come_with_news_and_seldom_with_numbers_alone() -> None:
    assert len(draw(steps(*range(10)), terminal=False).splitlines()) == 1
    assert len(draw(steps(*range(10)), terminal=False, seconds=10).splitlines()) == 4
    assert len(draw([*steps(1, 2), *steps(3, evalLoss=1.0)], terminal=False).splitlines()) == 2


def test_a_terminal_gets_a_bar_with_phase_and_numbers() -> None:
    text = draw(steps(40, loss=1.25), terminal=True)
    assert "Training" in text
    assert "step 40/80, loss 1.25" in text
    assert "━" in text


@pytest.mark.parametrize(
    ("command", "value", "words"),
    [("suspend", True, "saves a checkpoint"), ("resume", False, "goes on from its last checkpoint")],
)
@pytest.mark.parametrize("name", ["job/support", "ftj/support", "support"])
def test_a_job_is_suspended_and_resumed(llmos: Run, command: str, value: bool, words: str, name: str) -> None:
    script = Script(answer(job("support", TRAINING, suspend=not value)), answer(job("support", suspend=value)))
    result = llmos(script, command, name)
    assert (result.exit_code, words in result.stdout) == (0, True)
    assert script.body() == {"spec": {"suspend": value}}


def test_suspending_twice_says_so_and_a_job_that_ended_is_refused(llmos: Run) -> None:
    suspended = answer(job("support", condition("False", "Suspended"), suspend=True))
    assert "is suspended already" in llmos(Script(suspended, suspended), "suspend", "job/support").stdout
    result = llmos(Script(answer(job("support", SUCCEEDED, phase="Succeeded"))), "suspend", "job/support")
    assert (result.exit_code, "has ended (Succeeded)" in result.stderr) == (1, True)


def test_a_pool_is_not_suspended(llmos: Run) -> None:
    result = llmos(Script(), "suspend", "pool/chat")
    assert (result.exit_code, "kubectl scale" in result.stderr) == (2, True)


def test_every_option_of_the_api_that_is_blamed_exists(llmos: Run) -> None:
    help_text = llmos(Script(), "tune", "--help").stdout
    source = (Path(__file__).parents[3] / "sdk" / "llmos" / "cli" / "tuning.py").read_text()
    named = {part.strip('",') for part in source.split() if part.startswith('"--')}
    assert {option for option in named if option not in help_text} == set()


def spec_of(llmos: Run, *options: str) -> Json:
    """What would be made of these options."""
    result = llmos(Script(), *WORDS, *options, "--dry-run")
    assert result.exit_code == 0, result.output
    spec: Json = yaml.safe_load(result.stdout)["spec"]
    return spec


def test_nodes_and_accelerators_share_a_claim_that_all_can_write(llmos: Run) -> None:
    spec = spec_of(llmos, "--class", "h100", "--nodes", "2", "--accelerators", "8", "--storage-class", "nfs")
    assert spec["trainer"] == {"accelerator": {"class": "h100"}, "nodes": 2, "acceleratorsPerNode": 8}
    assert spec["checkpoint"] == {"storage": {"storageClassName": "nfs", "accessMode": "ReadWriteMany"}}
    assert "checkpoint" not in spec_of(llmos, "--class", "h100", "--nodes", "1", "--accelerators", "8")


def test_a_teacher_makes_a_student(llmos: Run) -> None:
    options = ("--class", "cpu", "--teacher", "big", "--temperature", "3", "--teacher-share", "0.8", "--suite", "qa")
    spec = spec_of(llmos, *options, "--gate", "eval_kl<=0.5xbase", "--gate", "qa_kl<=1")
    taught = {"teacherRef": {"name": "big"}, "temperature": 3, "alpha": 0.8}
    assert spec["method"] == {"task": "distill", "distill": taught, "tuning": "lora"}
    assert spec["evaluate"]["suites"][0]["metrics"] == ["loss", "exact_match", "kl"]
    assert [gate["metric"] for gate in spec["evaluate"]["gates"]] == ["eval_kl", "qa_kl"]


def test_a_search_has_what_varies_and_its_limits(llmos: Run) -> None:
    tries = ("--try", "learning-rate=1e-5..3e-3:log", "--try", "rank=8,16", "--try", "dropout=0..0.2")
    spec = spec_of(
        llmos, "--class", "cpu", *tries, "--search", "tpe", "--trials", "8", "--parallel", "2", "--budget", "4"
    )
    assert spec["search"] == {
        "algorithm": "tpe",
        "maxTrials": 8,
        "parallelism": 2,
        "budgetAcceleratorHours": 4,
        "parameters": [
            {"name": "learningRate", "min": 1e-5, "max": 3e-3, "log": True},
            {"name": "rank", "values": [8, 16]},
            {"name": "dropout", "min": 0, "max": 0.2},
        ],
    }
    assert spec_of(llmos, "--class", "cpu", *tries)["search"].keys() == {"parameters"}


@pytest.mark.parametrize(
    ("options", "option", "says"),
    [
        (("--accelerators", "2"), "--accelerators", "a node of class cpu has one"),
        (("--temperature", "2"), "--temperature", "name one with --teacher"),
        (("--teacher", "smollm2"), "--teacher", "cannot teach itself"),
        (("--teacher", "big", "--teacher-share", "1.5"), "--teacher-share", "less than or equal to 1"),
        (("--teacher", "Big"), "--teacher", "should match"),
        (("--search", "tpe"), "--search", "needs something to vary"),
        (("--budget", "4"), "--budget", "needs something to vary"),
        (("--try", "rank"), "--try", "is no NAME=VALUES"),
        (("--try", "speed=1,2"), "--try", "cannot be searched for"),
        (("--try", "rank=16..8"), "--try", "must be below"),
        (("--try", "learning-rate=0..1:log"), "--try", "begins above 0"),
        (("--try", "rank=8", "--try", "rank=16"), "--try", "given twice"),
        (("--try", "rank=8..16", "--search", "grid"), "--try", "no ranges"),
        (("--try", "rank=8", "--method", "full"), "--try", "an adapter's"),
        (("--try", "rank=8", "--nodes", "2"), "--nodes", "trains on one node"),
        (("--try", "rank=8", "--eval-fraction", "0"), "--eval-fraction", "compared by held-out"),
        (("--try", "rank=8", "--parallel", "3", "--trials", "2"), "--parallel", "not be above"),
        (("--try", "rank=8", "--trials", "65"), "--trials", "less than or equal to 64"),
    ],
)
def test_wishes_that_contradict_themselves_name_the_option(
    llmos: Run, options: tuple[str, ...], option: str, says: str
) -> None:
    result = llmos(Script(), *ON_CPU, *options, "--dry-run")
    assert result.exit_code == 2
    told = " ".join(result.stderr.replace("│", " ").split())
    assert option in told
    assert says in told


def test_a_teacher_is_looked_at_before_a_job_is_made(llmos: Run) -> None:
    adapter = model("big", AVAILABLE)
    adapter["spec"]["adapter"] = {"baseModelRef": {"name": "larger"}}
    result = llmos(Script(BASE, answer(adapter)), *ON_CPU, "--teacher", "big")
    assert result.exit_code != 0
    assert "LLMModel big is an adapter, and adapters teach nobody" in result.stderr
    assert "--teacher larger" in result.stderr
    missing = Script(BASE, refusal(404, "llmmodels big not found"), objects(model("wise", AVAILABLE)))
    assert "Choose one with --teacher: wise" in llmos(missing, *ON_CPU, "--teacher", "big").stderr
