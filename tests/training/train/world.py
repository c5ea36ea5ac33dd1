"""A tiny base model, a prepared dataset and a job, made in code; and attempts as processes that can be killed.

An attempt is a process forked from a server that has imported torch once: the same code as `python -m`, without the
seconds that the imports take. One test starts the real command.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import datasets
import torch
from tensorboardX.proto.event_pb2 import Event
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [f"w{number}" for number in range(60)]
BASE_DIGEST = "sha256:" + "b" * 64
TEACHER_DIGEST = "sha256:" + "a" * 64
DATASET_DIGEST = "sha256:" + "d" * 64
DEADLINE_S = 120.0


def make_base(folder: Path, *, layers: int = 2, hidden: int = 32, dtype: torch.dtype = torch.float32) -> Path:
    """A random Llama with a tokenizer of sixty words."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<eos>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    fast.save_pretrained(str(folder))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        tie_word_embeddings=True,
        # Wide enough that frozen weights can say something: with the usual 0.02 all logits are nearly the same.
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(str(folder))
    return folder


def make_rows(count: int, *, answers: int = 2) -> list[dict[str, Any]]:
    """Questions w_i w_j ? of different lengths, whose answer is a rule that can be learned: the words that follow."""
    rows = []
    for number in range(count):
        first = (number * 7) % 50
        prompt = [2 + first + step % 3 for step in range(2 + number % 9)]
        answer = [2 + (first + 1 + step) % 60 for step in range(answers)]
        rows.append(
            {
                "input_ids": [*prompt, *answer, 1],
                "labels": [-100] * len(prompt) + [*answer, 1],
                "prompt_ids": prompt,
                "completion": " ".join(WORDS[token - 2] for token in answer),
            }
        )
    return rows


def make_pairs(count: int) -> list[dict[str, Any]]:
    """Questions with two answers, of which the one that follows the rule is chosen; the others are of other lengths."""
    pairs = []
    for number, row in enumerate(make_rows(count)):
        prompt = row["prompt_ids"]
        wrong = [2 + (prompt[0] + 29 + step * 7) % 60 for step in range(1 + number % 4)]
        rejected = {"other_ids": [*prompt, *wrong, 1], "other_labels": [-100] * len(prompt) + [*wrong, 1]}
        pairs.append({**row, **rejected})
    return pairs


def make_words(count: int) -> list[dict[str, Any]]:
    """Words of which each is even, odd, or (every fifth number) not labelled."""
    rows = []
    for number in range(count):
        ids = [2 + (number * 7 + step * 11) % 60 for step in range(3 + number % 9)]
        rows.append({"input_ids": ids, "labels": [-100 if word % 5 == 0 else word % 2 for word in ids]})
    return rows


def make_text_pairs(count: int) -> list[dict[str, Any]]:
    """Texts that belong to those with the words that follow theirs, in another order."""
    rows = []
    for row in make_words(count):
        ids = row["input_ids"]
        other = [2 + (word - 2 + 30) % 60 for word in reversed(ids)]
        rows.append({"input_ids": ids, "labels": ids, "other_ids": other, "other_labels": other})
    return rows


def make_texts(count: int) -> list[dict[str, Any]]:
    """Texts with one of three labels, which their last word tells."""
    rows = []
    for row in make_words(count):
        ids = row["input_ids"]
        rows.append({"input_ids": ids, "labels": [ids[-1] % 3] + [-100] * (len(ids) - 1)})
    return rows


def write_dataset(work: Path, parts: dict[str, list[dict[str, Any]]], labels: Sequence[str] = ()) -> None:
    """What the step prepare leaves."""
    integers = datasets.List(datasets.Value("int32"))
    answer = datasets.Value("string")
    for name, rows in parts.items():
        features = datasets.Features({column: answer if column == "completion" else integers for column in rows[0]})
        datasets.Dataset.from_list(rows, features=features).save_to_disk(str(work / "dataset" / name))
    folder = work / "dataset"
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    files = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    manifest = {"digest": DATASET_DIGEST, "baseDigest": BASE_DIGEST, "report": {}, "files": files, "labels": labels}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def make_job(**changes: Any) -> dict[str, Any]:
    """A job; `changes` replace parts of its spec, one level deep, and `hyperparameters` those of the trainer."""
    hyperparameters = {"batchTokens": 64, "maxLength": 32, "epochs": 2, "learningRate": 0.01, "warmupFraction": 0.1}
    hyperparameters |= changes.pop("hyperparameters", {})
    spec: dict[str, Any] = {
        "baseModelRef": {"name": "tiny"},
        "method": {"tuning": "lora", "lora": {"rank": 4, "alpha": 8, "dropout": 0.1}},
        "dataset": {"source": {"uri": "hf://org/data"}},
        "trainer": {"accelerator": {"class": "cpu"}, "hyperparameters": hyperparameters},
        "checkpoint": {"everySteps": 3},
        "evaluate": {"everySteps": 5},
        "output": {"name": "tuned"},
    }
    for name, value in changes.items():
        spec[name] = {**spec[name], **value} if name in spec else value
    return {"metadata": {"name": "job", "namespace": "team"}, "spec": spec}


@dataclass(frozen=True)
class World:
    """A base model, a claim and a job."""

    base: Path
    work: Path
    job: dict[str, Any]
    base_digest: str = BASE_DIGEST
    attempt: int = 1
    trial: int = 0
    store_uri: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    """More variables of the attempts."""
    parameters: str = "{}"
    """Of the trial."""
    teacher: Path | None = None
    teacher_digest: str = TEACHER_DIGEST

    def with_job(self, **changes: Any) -> World:
        """The same claim with another job."""
        return replace(self, job=make_job(**changes))

    @property
    def arguments(self) -> list[str]:
        """Command line of an attempt."""
        path = self.work.with_name(self.work.name + "-job.json")
        path.write_text(json.dumps(self.job))
        return [
            f"--job={path}",
            f"--model={self.base}",
            f"--work={self.work}",
            f"--base-digest={self.base_digest}",
            f"--attempt={self.attempt}",
            f"--trial={self.trial}",
            f"--store-uri={self.store_uri}",
            f"--parameters={self.parameters}",
            "--metrics-port=0",
            *([f"--teacher={self.teacher}", f"--teacher-digest={self.teacher_digest}"] if self.teacher else ()),
        ]

    @property
    def message_path(self) -> Path:
        """Stand-in for the termination log."""
        return self.work.with_name(self.work.name + "-termination")

    @property
    def log_path(self) -> Path:
        """Standard output and error of the attempts."""
        return self.work.with_name(self.work.name + "-log")

    @property
    def message(self) -> dict[str, Any]:
        """What the last attempt left for the operator."""
        message: dict[str, Any] = json.loads(self.message_path.read_text())
        return message

    def start(self, *, address_space_bytes: int = 0) -> BaseProcess:
        """Begin an attempt."""
        self.message_path.unlink(missing_ok=True)
        files = (str(self.message_path), str(self.log_path))
        process = _SERVER.Process(
            target=_run, args=(self.arguments, *files, address_space_bytes, dict(self.environment))
        )
        process.start()
        return process

    def run(self, **options: int) -> int:
        """Make an attempt and return its exit code."""
        return finish(self.start(**options))

    def complete(self) -> dict[str, Any]:
        """Make an attempt that must succeed, and return what it said."""
        assert self.run() == 0, self.log_path.read_text()[-4000:]
        return self.message

    def checkpoints(self) -> list[int]:
        """Steps of the checkpoints that are there."""
        return sorted(
            int(path.name.removeprefix("step-")) for path in (self.work / "checkpoints").glob("step-????????")
        )

    def result_files(self) -> dict[str, bytes]:
        """The result, but for what the attempt says about itself."""
        folder = self.work / "output"
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}

    def losses(self) -> dict[int, float]:
        """The loss of each step; where several attempts did it, they must agree."""
        return self._read_tag("train/loss")

    def eval_losses(self) -> dict[int, float]:
        """The loss of each evaluation."""
        return self._read_tag("eval/loss")

    def _read_tag(self, tag: str) -> dict[int, float]:
        found: dict[int, float] = {}
        for path in sorted((self.work / "tensorboard").iterdir()):
            for event in read_events(path):
                for value in event.summary.value:
                    if value.tag == tag:
                        before = found.setdefault(event.step, value.simple_value)
                        assert before == value.simple_value, f"{tag} of step {event.step} is not the same again"
        return found


def read_events(path: Path) -> list[Event]:
    """The records of an event file; a kill may have cut the last one."""
    data, events, at = path.read_bytes(), [], 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        if at + 16 + length > len(data):
            break
        events.append(Event.FromString(data[at + 12 : at + 12 + length]))
        at += 16 + length
    return events


def finish(process: BaseProcess) -> int:
    """Wait for an attempt, and return its exit code."""
    process.join(DEADLINE_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError("the attempt did not end")
    return process.exitcode


def wait_for(condition: Callable[[], bool], process: BaseProcess) -> bool:
    """Wait until something is true; false = the attempt ended before."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        if process.exitcode is not None:
            return False
        assert time.monotonic() < deadline_s, "nothing happened"
        time.sleep(0.001)
    return True


def steps_done(world: World) -> int:
    """The last step that the youngest attempt said it did."""
    files = sorted((world.work / "attempts").glob("*.json"))
    try:
        return int(json.loads(files[-1].read_bytes())["step"]) if files else 0
    except (ValueError, KeyError):
        return 0


def start_attempt(world: World) -> BaseProcess:
    """Begin an attempt, and return when it trains."""
    before = count_attempts(world)
    process = world.start()
    begun = wait_for(lambda: count_attempts(world) > before and steps_done(world) > 0, process)
    assert begun, world.log_path.read_text()[-2000:]
    return process


def stop_at(world: World, step: int) -> None:
    """Run until a step is done, then end in order."""
    process = start_attempt(world)
    assert wait_for(lambda: steps_done(world) >= step, process)
    process.terminate()
    code = finish(process)
    assert code == 143, f"{code}: {world.log_path.read_text()[-2000:]}"


def kill_within(world: World, steps: int) -> None:
    """Begin an attempt, and kill it when it has done so many steps."""
    before = count_attempts(world)
    process = world.start()
    assert wait_for(lambda: count_attempts(world) > before, process)
    target = steps_done(world) + steps
    assert wait_for(lambda: steps_done(world) >= target, process)
    process.kill()
    assert finish(process) == -signal.SIGKILL


def compare_with_killed(calm: World, killed: World, seed: str, kills: int = 10) -> None:
    """Run one without, and the other with kills, and see that both did the same."""
    calm.complete()
    chance = random.Random(seed)  # noqa: S311  it only chooses when to kill
    for _ in range(kills):
        kill_within(killed, chance.randint(0, 4))
    killed.complete()
    assert killed.losses() == calm.losses()
    assert killed.eval_losses() == calm.eval_losses()
    assert killed.result_files() == calm.result_files()
    assert killed.message["lostAcceleratorSeconds"] > 0
    assert calm.message["lostAcceleratorSeconds"] == 0


def count_attempts(world: World) -> int:
    """Attempts that began to train."""
    return len(list((world.work / "attempts").glob("*.json")))


def _run(arguments: list[str], message: str, log: str, address_space_bytes: int, environment: dict[str, str]) -> None:
    import resource  # noqa: PLC0415

    from llmos_workers.ending import end_on_sigterm  # noqa: PLC0415
    from llmos_workers.train.main import main  # noqa: PLC0415

    end_on_sigterm()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.environ |= {"LLMOS_TERMINATION_LOG": message, **environment}
    if address_space_bytes:
        with Path("/proc/self/statm").open() as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + address_space_bytes,) * 2)
    code = main(arguments)
    sys.stdout.flush()
    # As the real command ends: with nothing of the test's process to clean up.
    os._exit(code)


_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["llmos_workers.train.main"])
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
# Ranks of one attempt find each other here.
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
# Threads that wait for each other make nothing faster here, and everything slow on a machine that does other things.
os.environ.setdefault("OMP_NUM_THREADS", "1")
