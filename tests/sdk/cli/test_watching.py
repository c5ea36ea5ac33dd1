"""`llmos status --watch` draws again and again, and ends only by Ctrl-C."""

from __future__ import annotations

import httpx
from typer.testing import CliRunner

from llmos.cli.app import app
from llmos.cli.session import Session
from llmos.client import Client
from tests.sdk.client.support import BORN, CONNECTION, READY, TOO_BIG, Script, objects, pool


def watch(script: Script, looks: int) -> tuple[int, str, list[float]]:
    """Exit code, output and pauses of a watch that is interrupted after so many looks."""
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == looks:
            raise KeyboardInterrupt

    session = Session(
        connect=lambda _target: Client(connection=CONNECTION, transport=httpx.MockTransport(script)),
        sleep=sleep,
        now=lambda: BORN,
    )
    result = CliRunner().invoke(app, ["status", "--watch"], obj=session)
    return result.exit_code, result.stdout, pauses


def test_the_screen_follows_the_cluster_and_the_last_state_decides_the_exit_code() -> None:
    script = Script(
        *(objects(), objects(pool("smol", READY)), objects(), objects()),
        *(objects(), objects(pool("smol", TOO_BIG)), objects(), objects()),
    )
    code, text, _ = watch(script, looks=2)
    assert code == 1
    assert "DoesNotFit" in text


def test_a_lost_cluster_is_asked_less_and_less_often_until_it_is_back() -> None:
    lost = [httpx.ConnectError("refused")] * 6
    code, _, pauses = watch(Script(*lost, objects(), objects(pool("smol", READY)), objects(), objects()), looks=7)
    assert code == 0
    assert pauses == [4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 2.0]


def test_watch_and_json_exclude_each_other() -> None:
    assert CliRunner().invoke(app, ["status", "--watch", "--json"], obj=Session()).exit_code == 2
