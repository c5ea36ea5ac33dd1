"""`make quickstart`: from nothing to an answer of a real language model, on a cluster that this program brings up.

It only calls what a user would call: the test cluster, the image build, `helm install`, `kubectl apply`, `llmos wait`,
`llmos keys create`, `kubectl port-forward` to the gateway and `llmos chat`. Run it again and it takes up what is there
already; only the key is a new one each time, because nobody can read the old one again.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster import ClusterError, StateDir, open_cluster
from e2e.cluster.api import apply_ca_bundle
from e2e.cluster.binaries import ensure_binaries
from e2e.cluster.paths import repository_dir
from e2e.cluster.progress import say, step

SYSTEM_NAMESPACE = "llmos-system"
NAMESPACE = "llmos-quickstart"
QUESTION = "What is the capital of France?"
KEY_NAME = "quickstart"
GATEWAY = "llmos-gateway"
IMAGES = ("operator", "gateway", "worker-lite", "worker")
MODEL_TIMEOUT_S = 600
POOL_TIMEOUT_S = 900
FORWARD_TIMEOUT_S = 30.0
CHART_VALUES = (
    "--set=images.registry=localhost",
    "--set=images.operator.tag=dev",
    "--set=images.gateway.tag=dev",
    "--set=images.worker.tag=dev",
    "--set=images.workerLite.tag=dev",
    "--set=fetch.caBundleConfigMap=llmos-ca-bundle",
)


GO_ON = """
Go on:
  eval $(.venv/bin/python -m e2e.cluster env)
  kubectl -n {namespace} get llmmodels,inferencepools,pods
  kubectl -n {system} port-forward service/{gateway} 8080:80 &
  export LLMOS_GATEWAY_URL=http://localhost:8080 LLMOS_API_KEY={key}
  .venv/bin/llmos chat chat
  curl $LLMOS_GATEWAY_URL/v1/chat/completions -H "Authorization: Bearer $LLMOS_API_KEY" \\
    -H 'Content-Type: application/json' -d '{{"model": "chat", "messages": [{{"role": "user", "content": "Hello"}}]}}'
  make quickstart-down"""


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
    """Bring cluster, images, operator, gateway, model and pool up, and ask the model."""
    started = time.monotonic()
    cluster = open_cluster()
    cluster.up()
    for target in IMAGES:
        cluster.load_image(cluster.build_image(repository_dir(), target))
    kubeconfig = StateDir.default().kubeconfig
    _install_chart(kubeconfig)
    _apply_example(kubeconfig)
    _wait("llmmodel", "smollm2", MODEL_TIMEOUT_S, kubeconfig)
    _wait("inferencepool", "chat", POOL_TIMEOUT_S, kubeconfig)
    key = _create_key(kubeconfig)
    say(f"\nReady after {time.monotonic() - started:.0f} s. You: {question}")
    with _forward_gateway(kubeconfig) as url:
        status = _ask(kubeconfig, url, key, question)
    # Not by `say`, which would break lines that are to be pasted.
    print(GO_ON.format(namespace=NAMESPACE, system=SYSTEM_NAMESPACE, gateway=GATEWAY, key=key), flush=True)
    return status


def _create_key(kubeconfig: Path) -> str:
    """Make a key for the pools of the example; one of an earlier run is revoked."""
    _llmos(kubeconfig, "keys", "revoke", KEY_NAME, capture_output=True)
    made = _llmos(kubeconfig, "keys", "create", "--name", KEY_NAME, "--namespace", NAMESPACE, capture_output=True)
    if made.returncode != 0:
        raise ClusterError(f"No API key could be made. {made.stderr}")
    return made.stdout.strip()


@contextmanager
def _forward_gateway(kubeconfig: Path) -> Iterator[str]:
    """Forward a free local port to the gateway, whatever kind of cluster it is, and yield the address."""
    kubectl = str(ensure_binaries("kubectl")["kubectl"])
    command = [kubectl, "--namespace", SYSTEM_NAMESPACE, "port-forward", f"service/{GATEWAY}", ":80"]
    environment = _environment(kubeconfig)
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as port:
        assert port.stdout is not None
        # kubectl says nothing at all while it cannot reach the pod.
        watchdog = threading.Timer(FORWARD_TIMEOUT_S, port.kill)
        watchdog.start()
        try:
            line = port.stdout.readline()
            watchdog.cancel()
            found = re.match(r"Forwarding from (127\.0\.0\.1:\d+) ", line)
            if found is None:
                raise ClusterError(f"The gateway cannot be reached. {line}")
            yield f"http://{found[1]}"
        finally:
            watchdog.cancel()
            port.terminate()


def _ask(kubeconfig: Path, url: str, key: str, question: str) -> int:
    words = ("chat", "chat", question, "--temperature", "0", "--max-tokens", "60")
    # The key goes by the environment: arguments can be seen by every user of the machine.
    return _llmos(kubeconfig, *words, "--namespace", NAMESPACE, "--gateway", url, LLMOS_API_KEY=key).returncode


def bring_down() -> int:
    """Remove the example, operator, gateway and the cluster; built images stay for the next time."""
    if not StateDir.default().record.exists():
        say("Nothing is up.")
        return 0
    open_cluster().down()
    return 0


def _install_chart(kubeconfig: Path) -> None:
    helm = ensure_binaries("helm")["helm"]
    with step("install operator and gateway (helm)"):
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
    result = _llmos(kubeconfig, "wait", kind, name, "--timeout", str(timeout_s), "--namespace", NAMESPACE)
    if result.returncode != 0:
        raise ClusterError(
            f"{kind} {name} is not ready. Look closer with: eval $(.venv/bin/python -m e2e.cluster env) && "
            f"kubectl --namespace {NAMESPACE} describe {kind} {name}"
        )


def _llmos(
    kubeconfig: Path, *words: str, capture_output: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("llmos")), *words]
    given = {**_environment(kubeconfig), **environment}
    return subprocess.run(command, env=given, text=True, check=False, capture_output=capture_output)


def _run(command: list[str], kubeconfig: Path, given: str | None = None) -> None:
    environment = _environment(kubeconfig)
    subprocess.run(command, env=environment, input=given, text=True, check=True, capture_output=True, timeout=600)


def _environment(kubeconfig: Path) -> dict[str, str]:
    return {**os.environ, "KUBECONFIG": str(kubeconfig)}


if __name__ == "__main__":
    sys.exit(main())
