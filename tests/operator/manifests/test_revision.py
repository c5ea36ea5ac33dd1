"""The revision: equal in every process, different for all that makes a replica, blind for all else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from llmos_operator.manifests.replica import ReplicaTemplate, build_replica_pods, compute_revision
from tests.operator.manifests.samples import ON_GPU, PLAN, SECRET, SETTINGS, TEMPLATES, accelerator, model, template

PROGRAM = """
from llmos_operator.manifests.replica import compute_revision
from tests.operator.manifests.samples import TEMPLATES
print(*(compute_revision(template) for template in TEMPLATES.values()))
"""


def test_another_process_computes_the_same_revisions() -> None:
    here = [compute_revision(item) for item in TEMPLATES.values()]
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == here
    assert len(set(here)) == len(here)


BASE = template()
CHANGES: dict[str, ReplicaTemplate] = {
    "the engine": template(engine={"name": "simulator"}),
    "the image": template(engine={"name": "vllm", "image": "other"}),
    "the installation's image": template(settings=replace(SETTINGS, worker_image="llmos-worker:2")),
    "an argument": template(engine={"name": "vllm", "args": {"max-num-seqs": 7}}),
    "a variable": template(engine={"name": "vllm", "env": [{"name": "A", "value": "1"}]}),
    "the context": template(plan=PLAN.model_copy(update={"max_model_len": 99})),
    "the memory of the container": template(plan=PLAN.model_copy(update={"container_memory_gib": 4.0})),
    "the accelerator": template(on=accelerator(), **ON_GPU),
    "the model": template(modelRef={"name": "other"}),
    "the source of the model": template(of=model(source=SECRET)),
    "the storage of the model": template(of=model(storage={"mode": "claim"})),
    "the drain": template(drain={"timeoutSeconds": 5}),
    "the priority": template(priorityClassName="high"),
    "the pull secrets": template(settings=replace(SETTINGS, image_pull_secrets=())),
}
SAME: dict[str, ReplicaTemplate] = {
    "the number of replicas": template(replicas=9),
    "the rollout": template(rollout={"maxSurge": 3, "maxUnavailable": 2}),
    "how long the operator waits": template(settings=replace(SETTINGS, unschedulable_after_s=99)),
    "the words of the plan": template(plan=PLAN.model_copy(update={"message": "other words", "kv_cache_tokens": 5})),
}


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES.keys())
def test_the_revision_changes_with(changed: ReplicaTemplate) -> None:
    assert compute_revision(changed) != compute_revision(BASE)


@pytest.mark.parametrize("changed", SAME.values(), ids=SAME.keys())
def test_the_revision_does_not_change_with(changed: ReplicaTemplate) -> None:
    assert compute_revision(changed) == compute_revision(BASE)


def test_the_order_in_which_arguments_were_written_does_not_matter() -> None:
    one = template(engine={"name": "vllm", "args": {"a": 1, "b": 2}})
    other = template(engine={"name": "vllm", "args": {"b": 2, "a": 1}})
    assert compute_revision(one) == compute_revision(other)


def test_replicas_of_one_revision_differ_in_names_and_attempt_only() -> None:
    (first,) = build_replica_pods(BASE, revision="abc", ordinal=0, attempt=0)
    (second,) = build_replica_pods(BASE, revision="abc", ordinal=1, attempt=2)
    assert first["spec"] == second["spec"]
    assert (first["metadata"]["name"], second["metadata"]["name"]) == ("chat-abc-0", "chat-abc-1")
    assert second["metadata"]["annotations"] == {"llmos.dev/attempt": "2"}
