"""Files of trials that are not needed any more go, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmos_workers.tidy import main


@pytest.fixture
def work(tmp_path: Path) -> Path:
    work = tmp_path / "job"
    for number in (1, 2, 10):
        folder = work / "trials" / str(number) / "checkpoints" / "step-00000010"
        folder.mkdir(parents=True)
        (folder / "weights.pt").write_bytes(b"w")
    for name in ("dataset", "trials/notes"):
        (work / name).mkdir(parents=True)
        (work / name / "file").write_text("kept")
    return work


def list_files(work: Path) -> list[str]:
    return sorted(str(path.relative_to(work)) for path in work.rglob("*") if path.is_file())


def test_the_best_stays_and_all_that_is_no_trial(work: Path) -> None:
    assert main(["--work", str(work), "--keep", "2"]) == 0
    assert list_files(work) == ["dataset/file", "trials/2/checkpoints/step-00000010/weights.pt", "trials/notes/file"]
    assert main(["--work", str(work), "--keep", "2"]) == 0


def test_a_claim_without_trials_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    assert main(["--work", str(tmp_path), "--keep", "1"]) == 0
    assert (tmp_path / "output").is_dir()


def test_a_link_is_not_followed(work: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("not ours")
    (work / "trials" / "7").symlink_to(elsewhere)
    (work / "trials" / "1" / "link").symlink_to(elsewhere)
    assert main(["--work", str(work), "--keep", "2"]) == 0
    assert (elsewhere / "file").read_text() == "not ours"
    assert not (work / "trials" / "7").is_symlink()
    assert not (work / "trials" / "1").exists()


def test_what_cannot_be_removed_is_told_and_the_rest_goes(
    work: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import os  # noqa: PLC0415
    import shutil  # noqa: PLC0415

    unlink = os.unlink

    def refuse(path: str | Path, *arguments: object, **options: object) -> None:
        if options.get("dir_fd") is not None and str(path) == "stuck":
            raise PermissionError(13, "not yours", path)
        unlink(path, *arguments, **options)  # type: ignore[arg-type]

    (work / "trials" / "1" / "stuck").write_text("s")
    monkeypatch.setattr(shutil.os, "unlink", refuse)  # type: ignore[attr-defined]
    assert main(["--work", str(work), "--keep", "2"]) == 1
    assert (work / "trials" / "1" / "stuck").exists()
    assert not (work / "trials" / "10").exists()
