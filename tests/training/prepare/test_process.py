"""The gate as the pod runs it: exit codes, progress, memory, and what never leaves it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from llmos_workers.prepare.main import main
from tests.training.prepare.values import build_job, chat, write_lines

SECRET = "erika.mustermann@example.com"


@dataclass
class Pod:
    """A claim and a model in a folder, and the program's arguments."""

    folder: Path
    termination: Path

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def put(self, lines: list[Any]) -> None:
        write_lines(self.work / "source/dataset/data/train.jsonl", lines)

    def build_arguments(self, **dataset: Any) -> list[str]:
        """Write the job's file and return the command line."""
        job = build_job(**dataset).model_dump(mode="json", by_alias=True, exclude_none=True)
        (self.folder / "job.json").write_text(json.dumps({"metadata": job["metadata"], "spec": job["spec"]}))
        places = ["--model", str(self.folder / "model"), "--work", str(self.work)]
        return ["--job", str(self.folder / "job.json"), *places, "--base-digest", "sha256:x"]

    @property
    def told(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.termination.read_text())
        return document


@pytest.fixture
def pod(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> Pod:
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("LLMOS_TERMINATION_LOG", str(tmp_path / "termination"))
    return Pod(tmp_path, tmp_path / "termination")


def test_a_good_dataset_is_prepared(pod: Pod) -> None:
    pod.put([chat(f"question {number}", f"answer {number}") for number in range(50)])
    command = [sys.executable, "-m", "llmos_workers.prepare", *pod.build_arguments()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert pod.told["outcome"] == "prepared"
    assert pod.told["report"]["trainExamples"] + pod.told["report"]["evalExamples"] == 50
    assert all(json.loads(line)["activeAt"] for line in done.stdout.splitlines())
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["phase"]) == ("progress", "preparing")
    assert last["progress"]["bytesDone"] == last["progress"]["bytesTotal"] > 0


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        ({"validate": {"maxErrorRate": 0}}, "DatasetInvalid"),
        ({"validate": {"maxErrorRate": 1}, "clean": {"pii": "fail"}}, "PersonalDataFound"),
        ({"validate": {"maxErrorRate": 1, "overlong": "fail"}, "maxLength": 16}, "ExamplesTooLong"),
    ],
)
def test_a_bad_dataset_is_refused_and_no_text_of_it_gets_out(
    pod: Pod, dataset: dict[str, Any], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    role = f'{{"messages": [{{"role": "{SECRET}", "content": "{SECRET}"}}]}}'.encode()
    pod.put([chat(f"mail {SECRET} please", SECRET), role, f'{{"{SECRET}'.encode(), chat("a", "b")])
    assert main(pod.build_arguments(**dataset)) == 1
    assert pod.told["reason"] == reason
    assert "train.jsonl:" in pod.told["message"]
    assert SECRET not in "".join(capfd.readouterr()) + json.dumps(pod.told)


def test_an_unexpected_error_is_told_by_its_type_only(pod: Pod, capfd: pytest.CaptureFixture[str]) -> None:
    pod.put([chat("a", "b")])
    pod.folder.joinpath("work/dataset").write_text(SECRET)
    assert main(pod.build_arguments()) == 1
    assert pod.told["reason"] == "PreparationFailed"
    assert ".py:" in pod.told["message"]
    assert SECRET not in "".join(capfd.readouterr()) + json.dumps(pod.told)


def test_a_job_that_cannot_be_read_is_told_by_its_fields(pod: Pod) -> None:
    arguments = pod.build_arguments()
    pod.folder.joinpath("job.json").write_text(json.dumps({"metadata": {"name": "a"}, "spec": {"dataset": {}}}))
    assert main(arguments) == 1
    assert "spec.dataset.source" in pod.told["message"]


MEASURED = """
import io, json, sys
from pathlib import Path
from llmos_workers.prepare.main import read_job
from llmos_workers.prepare.preparing import Places, prepare

class Out(io.StringIO):
    peaks = []
    def write(self, text):
        if text.strip():
            peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
            self.peaks.append((json.loads(text)["progress"]["bytesDone"], int(peak.split()[1]) * 1024))
        return len(text)

folder = Path(sys.argv[1])
out = Out()
prepare(read_job(folder / "job.json"), Places(folder / "model", folder / "work"), "sha256:x", out)
print(json.dumps(out.peaks))
"""


def test_memory_does_not_grow_with_the_file(pod: Pod) -> None:
    pod.build_arguments(maxLength=4096)
    path = pod.work / "source/dataset/train.jsonl"
    path.parent.mkdir(parents=True)
    with path.open("w") as out:
        for number in range(50_000):
            words = " ".join(f"word{(number * 7919 + index * index) % 9973}" for index in range(230))
            out.write(json.dumps(chat(f"question {number}", words)) + "\n")
    assert path.stat().st_size > 100e6
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    command = [sys.executable, "-c", MEASURED, str(pod.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    peaks = json.loads(done.stdout)
    early = next(peak for done_bytes, peak in peaks if done_bytes > 15e6)
    assert peaks[-1][1] - early < 64 << 20
