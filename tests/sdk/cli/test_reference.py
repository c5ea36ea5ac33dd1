"""The reference page is what the command line says about itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmos.cli.reference import main, render_page


def test_the_committed_page_is_up_to_date() -> None:
    assert main(["--out", str(Path(__file__).parents[3] / "docs" / "reference"), "--check"]) == 0


def test_a_page_that_fell_behind_is_found_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cli.md").write_text("old")
    assert main(["--out", str(tmp_path), "--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert main(["--out", str(tmp_path)]) == 0
    assert main(["--out", str(tmp_path), "--check"]) == 0


@pytest.mark.parametrize(
    "command",
    [
        *("status", "plan", "chat", "wait", "tune", "get", "logs", "suspend", "resume", "why"),
        *("keys create", "keys list", "keys revoke", "version"),
    ],
)
def test_every_command_stands_on_the_page_with_its_options(command: str) -> None:
    assert f"## `llmos {command}`\n" in render_page()
