"""`llmos status`: reads everything, lets report.py judge and screen.py draw."""

from __future__ import annotations

import json
import sys
from typing import Final

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from llmos.api import AcceleratorClass, FineTuneJob
from llmos.cli.exits import ExitCode
from llmos.cli.report import Health, Snapshot, build_status_json, compute_all_health, find_problems
from llmos.cli.screen import draw_status
from llmos.cli.session import Session
from llmos.client import Client, ForbiddenError, NotInstalledError, OverloadedError, UnreachableError

_LONGEST_PAUSE_S: Final = 30.0
_WIDTH_OF_FILES: Final = 240


def run_status(
    session: Session, client: Client, *, all_namespaces: bool, watch: bool, interval_s: float, as_json: bool
) -> ExitCode:
    """Print the screen once and say whether something is wrong, or keep it up to date until Ctrl-C."""
    scope = "all namespaces" if all_namespaces else f"namespace {client.namespace}"
    if watch:
        return _keep_drawing(session, client, scope, all_namespaces=all_namespaces, interval_s=interval_s)
    snapshot = observe_snapshot(client, all_namespaces=all_namespaces)
    healths = compute_all_health(snapshot, session.now())
    if as_json:
        print(json.dumps(build_status_json(snapshot, healths), indent=2))
    else:
        build_console().print(draw_status(snapshot, healths, scope=scope), soft_wrap=True)
    return _exit_code(healths)


def build_console() -> Console:
    """As wide as the terminal; what goes to a file or a pipe is not folded."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH_OF_FILES)


def observe_snapshot(client: Client, *, all_namespaces: bool) -> Snapshot:
    """Read all objects that the user may see."""
    models = client.models.list(all_namespaces=all_namespaces)
    pools = client.pools.list(all_namespaces=all_namespaces)
    jobs = _observe_jobs(client, all_namespaces=all_namespaces)
    return Snapshot(models, pools, jobs, _observe_accelerators(client))


def _observe_jobs(client: Client, *, all_namespaces: bool) -> tuple[FineTuneJob, ...] | None:
    try:
        return client.jobs.list(all_namespaces=all_namespaces)
    except ForbiddenError:
        return None
    except NotInstalledError:
        return ()  # An older LLMOS, which does not know the kind.


def _observe_accelerators(client: Client) -> tuple[AcceleratorClass, ...] | None:
    try:
        return client.accelerators.list()
    except ForbiddenError:
        return None


def _exit_code(healths: tuple[Health, ...]) -> ExitCode:
    return ExitCode.PROBLEM if find_problems(healths) else ExitCode.OK


def _keep_drawing(session: Session, client: Client, scope: str, *, all_namespaces: bool, interval_s: float) -> ExitCode:
    """Redraw until Ctrl-C; while the cluster cannot be reached, say so and ask less and less often."""
    pause_s = interval_s
    drawn: RenderableType = Text("Reading...")
    code = ExitCode.OK
    with Live(drawn, console=build_console(), auto_refresh=False, screen=False) as live:
        try:
            while True:
                try:
                    snapshot = observe_snapshot(client, all_namespaces=all_namespaces)
                    healths = compute_all_health(snapshot, session.now())
                    drawn, code, pause_s = draw_status(snapshot, healths, scope=scope), _exit_code(healths), interval_s
                except (UnreachableError, OverloadedError) as error:
                    code, pause_s = ExitCode.UNREACHABLE, min(2 * pause_s, _LONGEST_PAUSE_S)
                    drawn = Text(f"{error}\nAsking again in {pause_s:g} s.", style="bold red")
                live.update(drawn, refresh=True)
                session.sleep(pause_s)
        except KeyboardInterrupt:
            return code
