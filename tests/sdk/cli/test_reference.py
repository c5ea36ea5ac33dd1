"""The reference page is what the command line says about itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from llmos.cli.app import app
from llmos.cli.reference import main, render_page


def test_the_committed_page_is_up_to_date() -> None:
    assert main(["--out", str(Path(__file__).parents[3] / "docs" / "reference"), "--check"]) == 0


def test_a_page_that_fell_behind_is_found_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cli.md").write_text("old")
    assert main(["--out", str(tmp_path), "--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert main(["--out", str(tmp_path)]) == 0
    assert main(["--out", str(tmp_path), "--check"]) == 0


def find_commands(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Yield the words that name each command, and the command."""
    if not hasattr(command, "commands"):
        yield " ".join(path), command
    for name, inner in getattr(command, "commands", {}).items():
        yield from find_commands(inner, *path, name)


COMMANDS = dict(find_commands(get_command(app)))


def test_the_commands_that_the_documentation_speaks_of_are_there() -> None:
    named = {"status", "plan", "chat", "wait", "tune", "get", "logs", "why", "replay", "doctor", "keys create"}
    assert named <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_on_the_page_with_its_options(name: str) -> None:
    section = render_page().partition(f"## `llmos {name}`\n")[2].partition("\n## `")[0]
    options = [option for parameter in COMMANDS[name].params for option in parameter.opts if option.startswith("--")]
    assert options
    assert [option for option in options if f"`{option}" not in section and f", {option}" not in section] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_answer_in_json(name: str) -> None:
    assert "--json" in {option for parameter in COMMANDS[name].params for option in parameter.opts}
