"""What stands around a reconcile: deadline, logs, metrics, probes, the question how busy a replica is."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime

import aiohttp
import pytest
from aiohttp import web

from llmos.logs import LogLevel, configure_logs
from llmos_operator.kube.errors import Conflict, Unavailable
from llmos_operator.planning.settings import Settings
from llmos_operator.reconcilers.base import DONE, Context, Key, Result
from llmos_operator.runtime.dispatch import Dispatcher
from llmos_operator.runtime.health import HealthLimits, find_problems, serve_health
from llmos_operator.runtime.inflight import InFlightObserver
from llmos_operator.runtime.logs import CHATTY, current_key, read_key_fields
from llmos_operator.runtime.metrics import Metrics
from tests.operator.fake_kube import FakeKube

POOL = Key("InferencePool", "ns", "p")


def dispatcher(
    reconcile: Callable[[Context, Key], Awaitable[Result]], metrics: Metrics, *, timeout_s: float = 60.0
) -> Dispatcher:
    context = Context(kube=FakeKube(), settings=Settings(), now=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    return Dispatcher(context, {"InferencePool": reconcile}, metrics, timeout_s=timeout_s)


@pytest.fixture
def log_lines() -> Iterator[Callable[[], list[dict[str, str]]]]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logs(LogLevel.INFO, stream, chatty=CHATTY, read_context=read_key_fields)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)


class TestDispatch:
    async def test_the_kind_chooses_the_reconcile_and_its_result_the_next_look(self) -> None:
        async def reconcile(_context: Context, key: Key) -> Result:
            assert key == POOL
            return Result(requeue_after_s=7)

        assert await dispatcher(reconcile, Metrics()).process(POOL) == 7

    async def test_the_rest_that_a_reconcile_asks_for_is_told_once(self) -> None:
        async def reconcile(_context: Context, _key: Key) -> Result:
            return Result(rest_s=0.7)

        dispatch = dispatcher(reconcile, Metrics())
        await dispatch.process(POOL)
        assert [dispatch.take_rest_s(POOL) for _ in range(2)] == [0.7, 0.0]

    async def test_a_reconcile_that_hangs_is_cut_off(self) -> None:
        async def reconcile(_context: Context, _key: Key) -> Result:
            await asyncio.sleep(60)
            return DONE

        with pytest.raises(TimeoutError):
            await dispatcher(reconcile, Metrics(), timeout_s=0.01).process(POOL)

    async def test_duration_and_errors_are_counted_by_kind(self) -> None:
        async def reconcile(_context: Context, _key: Key) -> Result:
            return DONE

        metrics = Metrics()
        dispatch = dispatcher(reconcile, metrics)
        await dispatch.process(POOL)
        dispatch.on_failure(POOL, Unavailable("away"), 1.0)
        text = metrics.render().decode()
        assert 'llmos_operator_reconcile_seconds_count{kind="InferencePool"} 1.0' in text
        assert 'llmos_operator_reconcile_errors_total{kind="InferencePool",reason="Unavailable"} 1.0' in text


class TestLogs:
    async def test_each_line_of_a_reconcile_bears_its_key(self, log_lines: Callable[[], list[dict[str, str]]]) -> None:
        async def reconcile(_context: Context, _key: Key) -> Result:
            logging.getLogger("somewhere").info("planned %d", 3)
            return DONE

        await dispatcher(reconcile, Metrics()).process(POOL)
        logging.getLogger("somewhere").info("outside")
        inside, outside = log_lines()
        assert inside["message"] == "planned 3"
        assert (inside["kind"], inside["namespace"], inside["name"]) == POOL
        assert "kind" not in outside
        assert current_key.get() is None

    @pytest.mark.parametrize(
        ("error", "level", "has_traceback"),
        [
            (Conflict("changed"), "info", False),
            (Unavailable("away"), "warning", False),
            (TimeoutError(), "warning", False),
            (ValueError("a bug"), "error", True),
        ],
    )
    async def test_a_failure_is_told_as_loud_as_it_deserves(
        self, log_lines: Callable[[], list[dict[str, str]]], error: Exception, level: str, has_traceback: bool
    ) -> None:
        async def reconcile(_context: Context, _key: Key) -> Result:
            return DONE

        dispatcher(reconcile, Metrics()).on_failure(POOL, error, 1.5)
        (line,) = log_lines()
        assert (line["level"], line["name"], "exception" in line) == (level, "p", has_traceback)


class TestHealth:
    @pytest.mark.parametrize(
        ("waiting_s", "run_s", "silent", "words"),
        [(0, 0, False, ""), (301, 0, False, "waited"), (0, 181, False, "busy"), (0, 0, True, "no watch event")],
    )
    def test_only_what_a_restart_cures_is_a_problem(
        self, waiting_s: float, run_s: float, silent: bool, words: str
    ) -> None:
        problems = find_problems(
            oldest_waiting_s=waiting_s, longest_run_s=run_s, is_watch_silent=silent, limits=HealthLimits()
        )
        assert words in "".join(problems)
        assert bool(problems) is bool(words)

    async def test_probes_and_metrics_are_served(self) -> None:
        problems: list[str] = []
        ready = asyncio.Event()
        metrics = Metrics()
        metrics.set_leader(True)

        async def ask(path: str) -> tuple[int, str]:
            async with session.get(f"http://127.0.0.1:{port}{path}") as response:
                return response.status, await response.text()

        async with (
            serve_health(
                0, problems=lambda: problems, is_ready=ready.is_set, metrics=metrics, host="127.0.0.1"
            ) as port,
            aiohttp.ClientSession() as session,
        ):
            assert await ask("/healthz") == (200, "ok")
            assert (await ask("/readyz"))[0] == 503
            ready.set()
            problems.append("stuck")
            assert await ask("/readyz") == (200, "ok")
            assert await ask("/healthz") == (503, "stuck")
            assert "llmos_operator_is_leader 1.0" in (await ask("/metrics"))[1]


class TestInFlight:
    async def test_only_replicas_that_answer_sensibly_are_counted(self) -> None:
        answers = {"127.0.0.1": {"running": 2, "waiting": 3}, "127.0.0.2": {"unknown": 1}}

        async def load(request: web.Request) -> web.Response:
            return web.json_response(answers[request.host.partition(":")[0]])

        app = web.Application()
        app.add_routes([web.get("/load", load)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, host="0.0.0.0", port=0).start()  # noqa: S104 - two loopback addresses
        try:
            async with aiohttp.ClientSession() as session:
                observer = InFlightObserver(session, port=runner.addresses[0][1])
                replicas = {"busy": "127.0.0.1", "odd": "127.0.0.2", "gone": "127.0.0.3.invalid"}
                assert await observer.observe(replicas) == {"busy": 5}
        finally:
            await runner.cleanup()
