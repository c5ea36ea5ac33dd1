"""Whoever waits for another one waits longer: kubelet and the operator for the worker, the worker for its engine.

The command line of a pod is read by the worker's own parser.
"""

from __future__ import annotations

import pytest

from llmos_operator.manifests.replica import ENGINE_STOP_S, ReplicaTemplate, build_replica_pods
from llmos_workers.serve.command import ENGINE_SHUTDOWN_S
from llmos_workers.serve.options import ServeOptions, parse_options
from llmos_workers.serve.supervisor import STOP_S
from tests.operator.manifests.samples import TEMPLATES, template

BY_NAME = {
    **TEMPLATES,
    "a short drain": template(drain={"timeoutSeconds": 1}),
    "a long drain": template(drain={"timeoutSeconds": 86400}),
}


def read_worker(pod: dict[str, object]) -> ServeOptions:
    """Return what the worker of a pod makes of its command line."""
    engine = pod["spec"]["containers"][0]  # type: ignore[index]
    command = [*engine["command"], *engine.get("args", ())]
    return parse_options(command[command.index("llmos_workers.serve") + 1 :])


@pytest.mark.parametrize("replica", BY_NAME.values(), ids=BY_NAME.keys())
def test_nobody_is_killed_before_its_own_deadline(replica: ReplicaTemplate) -> None:
    for pod in build_replica_pods(replica, revision="abc", ordinal=0, attempt=0):
        worker = read_worker(pod)
        drain = replica.pool.spec.drain.timeout_seconds
        assert worker.drain_timeout_s >= drain
        waits_s = max(worker.settle_s, worker.drain_timeout_s)
        assert pod["spec"]["terminationGracePeriodSeconds"] >= waits_s + STOP_S + 5
        assert worker.start_timeout_s <= replica.settings.start_timeout_s


def test_an_engine_that_does_not_stop_is_killed_by_its_worker_and_the_worker_by_kubelet_only_later() -> None:
    assert ENGINE_SHUTDOWN_S < STOP_S < ENGINE_STOP_S
