"""`llmos wait`, `llmos version`, and what holds for every command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmos.cli.exits import ExitCode, find_exit_code
from llmos.cli.kinds import Kind, parse_kind
from llmos.client import errors
from tests.sdk.cli.conftest import Run
from tests.sdk.client.support import READY, STARTING, Script, accelerator, answer, condition, events, model, pool


def test_waiting_prints_what_holds_it_up_and_then_the_end(llmos: Run) -> None:
    fetch = {"bytesDone": 1 * 2**30, "bytesTotal": 4 * 2**30}
    fetching = model("smollm2", condition("False", "Fetching"), fetch=fetch)
    ready = model("smollm2", condition("True", "Available"))
    result = llmos(Script(answer(fetching), events(("MODIFIED", ready))), "wait", "model", "smollm2")
    assert (result.exit_code, result.stdout) == (0, "LLMModel smollm2 is ready.\n")
    assert "smollm2: Fetching: 25 % of 4.0 GiB" in result.stderr


def test_json_prints_the_object(llmos: Run) -> None:
    result = llmos(Script(answer(pool("smol", READY))), "wait", "pool", "smol", "--json")
    assert json.loads(result.stdout)["metadata"]["name"] == "smol"


def test_a_deadline_that_passes_ends_with_4(llmos: Run) -> None:
    result = llmos(Script(answer(pool("smol", STARTING))), "wait", "pool", "smol", "--timeout", "0")
    assert (result.exit_code, "after 0 s (Starting)" in result.stderr) == (4, True)


def test_an_accelerator_can_be_waited_for(llmos: Run) -> None:
    script = Script(answer(accelerator("gold", "80Gi", condition("True", "NodesFound"))))
    assert llmos(script, "wait", "accelerator", "gold").exit_code == 0


@pytest.mark.parametrize("word", ["pool", "pools", "InferencePool", "inferencepools", "ipool"])
def test_a_kind_may_be_called_by_any_of_its_names(word: str) -> None:
    assert parse_kind(word) is Kind.POOL


def test_kind_and_name_may_be_one_word(llmos: Run) -> None:
    assert llmos(Script(answer(pool("smol", READY))), "wait", "ipool/smol").exit_code == 0


@pytest.mark.parametrize("words", [("pool",), ("pool/",)])
def test_a_kind_without_a_name_ends_with_2_and_asks_for_it(llmos: Run, words: tuple[str, ...]) -> None:
    result = llmos(Script(), "wait", *words)
    assert (result.exit_code, "Say its name" in result.stderr) == (2, True)


def test_an_unknown_kind_ends_with_2(llmos: Run) -> None:
    assert llmos(Script(), "wait", "cat", "felix").exit_code == 2


def test_the_version_names_program_and_api(llmos: Run) -> None:
    assert json.loads(llmos(Script(), "version", "--json").stdout)["api"] == "llmos.dev/v1alpha1"
    assert "llmos.dev/v1alpha1" in llmos(Script(), "version").stdout


def test_every_error_of_the_client_has_an_exit_code_of_its_own_kind() -> None:
    codes = {
        errors.NotFoundError("c", "r"): ExitCode.NOT_FOUND,
        errors.NotReadyError("c", "r", reason="x", message=""): ExitCode.NOT_READY,
        errors.ConfigurationError("c", "r"): ExitCode.UNREACHABLE,
        errors.UnauthenticatedError("c", "r"): ExitCode.UNREACHABLE,
        errors.UnreachableError("c", "r"): ExitCode.UNREACHABLE,
        errors.OverloadedError("c", "r"): ExitCode.UNREACHABLE,
        errors.InvalidError("c", "r"): ExitCode.PROBLEM,
        errors.EngineError("c", "r", status=500): ExitCode.PROBLEM,
    }
    assert {error: find_exit_code(error) for error in codes} == codes


def test_help_loads_neither_the_client_nor_the_planner() -> None:
    code = (
        "import sys\nsys.argv = ['llmos', '--help']\nfrom llmos.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('httpx', 'kubernetes', 'llmos.api', 'llmos_operator') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("program", ["llmos", "kubectl-llmos"])
def test_both_programs_are_installed(program: str) -> None:
    command = [str(Path(sys.executable).with_name(program)), "status", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "--all-namespaces" in done.stdout


@pytest.mark.parametrize("program", ["llmos", "kubectl-llmos"])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(program: str, shell: str) -> None:
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE"

    def complete(*words: str) -> str:
        typed = " ".join((program, *words))
        asked = {variable: f"complete_{shell}", "COMP_WORDS": typed, "COMP_CWORD": str(len(words))}
        asked |= {"_TYPER_COMPLETE_ARGS": typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        done = subprocess.run(
            [str(Path(sys.executable).with_name(program))],
            env={**os.environ, **asked},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout

    assert {"status", "suspend"} <= set(re.findall(r"[a-z]+", complete("s")))
    assert "chat" not in complete("s")
    assert "--all-namespaces" in complete("status", "--a")
