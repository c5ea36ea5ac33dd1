"""From `kubectl apply` of one pool to its Pod, with nothing else going on. KubeAI's method, step 1."""

from __future__ import annotations

import asyncio
import json
import time

from bench.operator.figures import Outcome, Row, compute_spread, format_spread
from bench.operator.objects import Object, build_pool
from bench.operator.scenarios.throughput import has_status
from bench.operator.stage import Cluster, build_namespace_name
from bench.operator.watching import Sightings, watch
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS

ROUNDS = 5
KUBEAI_POD_S = 0.112
TIMEOUT_S = 60.0


async def measure(cluster: Cluster) -> Outcome:
    """Apply one pool after the other."""
    namespace = await cluster.add_namespace(build_namespace_name("first-pod"))
    async with cluster.operator():
        rounds = [await _measure_round(cluster, namespace, f"pool-{index}") for index in range(ROUNDS)]
    await cluster.clean(namespace)
    spreads = {step: compute_spread([r[step] for r in rounds]) for step in rounds[0]}
    pod = spreads["pod"]
    rows = (
        Row("first-pod", "of which kubectl itself", format_spread(spreads["kubectl"], "s", 3)),
        Row(
            "first-pod",
            "kubectl apply started -> Pod created",
            format_spread(pod, "s", 3),
            f"<= {KUBEAI_POD_S} s",
            pod.median <= KUBEAI_POD_S,
            "KubeAI: 0.112 s (0.106-0.161)",
        ),
        Row("first-pod", "-> first status", format_spread(spreads["status"], "s", 3), peer="KubeAI: 3.144 s"),
    )
    return Outcome(rows, {"rounds": rounds})


async def _measure_round(cluster: Cluster, namespace: str, name: str) -> dict[str, float]:
    manifest = json.dumps(build_pool(namespace, name, replicas=1)).encode()

    def is_of_pool(pod: Object) -> bool:
        return str(pod["metadata"]["name"]).startswith(f"{name}-")

    pods, pools = Sightings(is_of_pool), Sightings(has_status)
    async with (
        watch(cluster.configuration, PODS, namespace, pods.see),
        watch(cluster.configuration, INFERENCE_POOLS, namespace, pools.see),
    ):
        await asyncio.sleep(0.5)
        began_s = time.perf_counter()
        kubectl = await asyncio.create_subprocess_exec(
            *(str(cluster.stage.kubectl), f"--kubeconfig={cluster.stage.plane.kubeconfig}", "apply", "-f", "-"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        await kubectl.communicate(manifest)
        kubectl_s = time.perf_counter() - began_s
        if kubectl.returncode != 0:
            raise RuntimeError("kubectl apply failed; its message is above.")
        status_s = await pools.wait([name], TIMEOUT_S) - began_s
        pod_s = await pods.wait_for_any(TIMEOUT_S) - began_s
        return {"kubectl": kubectl_s, "pod": pod_s, "status": status_s}
