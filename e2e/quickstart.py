"""`make quickstart`: from nothing to an answer of a real language model, on a cluster that this program brings up.

It only calls what a user would call: the test cluster, the image build, `helm install`, `kubectl apply`, `llmos wait`
and
`llmos chat`. Run it again and it takes up what is there already.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from e2e.cluster import ClusterError, StateDir, open_cluster
from e2e.cluster.api import apply_ca_bundle
from e2e.cluster.binaries import ensure_binaries
from e2e.cluster.paths import repository_dir
from e2e.cluster.progress import say, step

SYSTEM_NAMESPACE = "llmos-system"
NAMESPACE = "llmos-quickstart"
QUESTION = "What is the capital of France?"
IMAGES = ("operator", "worker-lite", "worker")
MODEL_TIMEOUT_S = 600
POOL_TIMEOUT_S = 900
CHART_VALUES = (
    "--set=images.registry=localhost",
    "--set=images.operator.tag=dev",
    "--set=images.worker.tag=dev",
    "--set=images.workerLite.tag=dev",
    "--set=fetch.caBundleConfigMap=llmos-ca-bundle",
)


def main() -> int:
    """Bring the quick start up or down; return an exit status for the shell."""
    parser = argparse.ArgumentParser(prog="python -m e2e.quickstart", description=__doc__)
    parser.add_argument("action", choices=["up", "down"], nargs="?", default="up")
    parser.add_argument("--question", default=QUESTION, help="what to ask the model")
    arguments = parser.parse_args()
    try:
        return bring_down() if arguments.action == "down" else bring_up(arguments.question)
    except (ClusterError, subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        say(f"✗ {error}")
        output = getattr(error, "stderr", "") or ""
        if output:
            say(output.strip())
        return 1
    except KeyboardInterrupt:
        say("Stopped. What is up stays up: go on with `make quickstart`, or clean up with `make quickstart-down`.")
        return 130


def bring_up(question: str) -> int:
    """Bring cluster, images, operator, model and pool up, and ask the model."""
    started = time.monotonic()
    cluster = open_cluster()
    cluster.up()
    for target in IMAGES:
        cluster.load_image(cluster.build_image(repository_dir(), target))
    kubeconfig = StateDir.default().kubeconfig
    _install_operator(kubeconfig)
    _apply_example(kubeconfig)
    _wait("llmmodel", "smollm2", MODEL_TIMEOUT_S, kubeconfig)
    _wait("inferencepool", "chat", POOL_TIMEOUT_S, kubeconfig)
    say(f"\nReady after {time.monotonic() - started:.0f} s. You: {question}")
    status = _llmos(kubeconfig, "chat", "chat", question, "--temperature", "0", "--max-tokens", "60").returncode
    say(
        "\nGo on:\n"
        "  eval $(.venv/bin/python -m e2e.cluster env)\n"
        f"  kubectl -n {NAMESPACE} get llmmodels,inferencepools,pods\n"
        f"  .venv/bin/llmos chat -n {NAMESPACE} chat\n"
        "  make quickstart-down"
    )
    return status


def bring_down() -> int:
    """Remove the example, the operator and the cluster; built images stay for the next time."""
    if not StateDir.default().record.exists():
        say("Nothing is up.")
        return 0
    open_cluster().down()
    return 0


def _install_operator(kubeconfig: Path) -> None:
    helm = ensure_binaries("helm")["helm"]
    with step("install the operator (helm)"):
        _run(
            [
                *(str(helm), "upgrade", "--install", "llmos", str(repository_dir() / "charts" / "llmos")),
                *("--namespace", SYSTEM_NAMESPACE, "--create-namespace", "--wait", "--timeout", "5m"),
                *CHART_VALUES,
            ],
            kubeconfig,
        )


def _apply_example(kubeconfig: Path) -> None:
    kubectl = str(ensure_binaries("kubectl")["kubectl"])
    namespace = f'{{"apiVersion": "v1", "kind": "Namespace", "metadata": {{"name": "{NAMESPACE}"}}}}'
    with step("apply examples/quickstart.yaml"):
        _run([kubectl, "apply", "-f", "-"], kubeconfig, given=namespace)
        apply_ca_bundle(kubeconfig, NAMESPACE)
        example = repository_dir() / "examples" / "quickstart.yaml"
        _run([kubectl, "--namespace", NAMESPACE, "apply", "-f", str(example)], kubeconfig)


def _wait(kind: str, name: str, timeout_s: int, kubeconfig: Path) -> None:
    result = _llmos(kubeconfig, "wait", kind, name, "--timeout", str(timeout_s))
    if result.returncode != 0:
        raise ClusterError(
            f"{kind} {name} is not ready. Look closer with: eval $(.venv/bin/python -m e2e.cluster env) && "
            f"kubectl --namespace {NAMESPACE} describe {kind} {name}"
        )


def _llmos(kubeconfig: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("llmos")), *words, "--namespace", NAMESPACE]
    return subprocess.run(command, env=_environment(kubeconfig), text=True, check=False)


def _run(command: list[str], kubeconfig: Path, given: str | None = None) -> None:
    environment = _environment(kubeconfig)
    subprocess.run(command, env=environment, input=given, text=True, check=True, capture_output=True, timeout=600)


def _environment(kubeconfig: Path) -> dict[str, str]:
    return {**os.environ, "KUBECONFIG": str(kubeconfig)}


if __name__ == "__main__":
    sys.exit(main())
