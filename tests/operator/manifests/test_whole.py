"""A few manifests as a whole: what a reader meets in the cluster, and what no change may alter unseen."""

from __future__ import annotations

from llmos_operator.manifests.common import Manifest
from llmos_operator.manifests.replica import build_replica_pods, build_service
from llmos_operator.manifests.steps import build_claim, build_fetch_job
from tests.operator.manifests.samples import ON_GPU, SECRET, SETTINGS, accelerator, model, pool, template

POD: Manifest = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "chat-abc-0",
        "namespace": "team-a",
        "labels": {
            "app.kubernetes.io/managed-by": "llmos",
            "llmos.dev/pool": "chat",
            "llmos.dev/component": "replica",
            "llmos.dev/model": "smollm2",
            "llmos.dev/replica": "chat-abc-0",
            "llmos.dev/rank": "0",
            "llmos.dev/revision": "abc",
            "llmos.dev/serving": "true",
            "llmos.dev/fetches": "true",
        },
        "annotations": {"llmos.dev/attempt": "1"},
        "ownerReferences": [
            {
                "apiVersion": "llmos.dev/v1alpha1",
                "kind": "InferencePool",
                "name": "chat",
                "uid": "00000000-0000-0000-0000-00000000000a",
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    },
    "spec": {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 153,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "engine",
                "image": "llmos-worker:1",
                "imagePullPolicy": "IfNotPresent",
                "command": [
                    "python",
                    "-m",
                    "llmos_workers.serve",
                    "--engine",
                    "vllm",
                    "--model-dir",
                    "/model/model",
                    "--served-model-name",
                    "smollm2",
                    "--port",
                    "8000",
                    "--control-port",
                    "8001",
                    "--drain-timeout-s",
                    "120",
                    "--settle-s",
                    "3",
                    "--start-timeout-s",
                    "1800",
                    "--",
                    "--max-model-len",
                    "8192",
                    "--prefix-caching-hash-algo",
                    "sha256",
                    "--allowed-media-domains",
                    "none.invalid",
                    "--tensor-parallel-size",
                    "2",
                    "--gpu-memory-utilization",
                    "0.9",
                ],
                "env": [
                    {"name": "HF_HUB_OFFLINE", "value": "1"},
                    {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
                    {"name": "VLLM_DO_NOT_TRACK", "value": "1"},
                    {"name": "VLLM_MEDIA_URL_ALLOW_REDIRECTS", "value": "0"},
                    {"name": "VLLM_MAX_N_SEQUENCES", "value": "128"},
                ],
                "ports": [{"name": "http", "containerPort": 8000}, {"name": "control", "containerPort": 8001}],
                "readinessProbe": {
                    "httpGet": {"path": "/readyz", "port": "control"},
                    "periodSeconds": 2,
                    "timeoutSeconds": 2,
                    "failureThreshold": 2,
                },
                "livenessProbe": {
                    "httpGet": {"path": "/healthz", "port": "control"},
                    "initialDelaySeconds": 30,
                    "periodSeconds": 10,
                    "timeoutSeconds": 5,
                    "failureThreshold": 3,
                    "terminationGracePeriodSeconds": 30,
                },
                "resources": {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"nvidia.com/gpu": "2"}},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [
                    {"name": "tmp", "mountPath": "/tmp"},
                    {"name": "shm", "mountPath": "/dev/shm"},
                    {"name": "model", "mountPath": "/model", "readOnly": True},
                ],
            }
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "ca", "configMap": {"name": "ca", "optional": True}},
            {"name": "credentials", "secret": {"secretName": "hf-token", "optional": True}},
            {"name": "model", "emptyDir": {"sizeLimit": "20Gi"}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"llmos.dev/pool": "chat", "llmos.dev/component": "replica"}},
            }
        ],
        "initContainers": [
            {
                "name": "fetch",
                "image": "llmos-worker:1",
                "imagePullPolicy": "IfNotPresent",
                "command": [
                    "python",
                    "-m",
                    "llmos_workers.fetch",
                    "fetch",
                    "--source",
                    "hf://org/name@main",
                    "--format",
                    "auto",
                    "--revision",
                    "main-commit",
                    "--dest",
                    "/model",
                    "--capacity-bytes",
                    "21474836480",
                ],
                "env": [
                    {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
                    {"name": "LLMOS_CA_BUNDLE", "value": "/etc/llmos/ca/ca.crt"},
                ],
                "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [
                    {"name": "tmp", "mountPath": "/tmp"},
                    {"name": "ca", "mountPath": "/etc/llmos/ca", "readOnly": True},
                    {"name": "credentials", "mountPath": "/etc/llmos/credentials", "readOnly": True},
                    {"name": "model", "mountPath": "/model"},
                ],
                "envFrom": [{"secretRef": {"name": "hf-token"}}],
            }
        ],
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    },
}

FETCH_JOB: Manifest = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {
        "name": "smollm2-fetch-hash-2",
        "namespace": "team-a",
        "labels": {
            "app.kubernetes.io/managed-by": "llmos",
            "llmos.dev/model": "smollm2",
            "llmos.dev/component": "fetch",
        },
        "annotations": {"llmos.dev/source-hash": "hash", "llmos.dev/inputs": "98d3b4e4cb", "llmos.dev/attempt": "2"},
        "ownerReferences": [
            {
                "apiVersion": "llmos.dev/v1alpha1",
                "kind": "LLMModel",
                "name": "smollm2",
                "uid": "00000000-0000-0000-0000-00000000000a",
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    },
    "spec": {
        "backoffLimit": 0,
        "activeDeadlineSeconds": 86400,
        "template": {
            "metadata": {
                "labels": {
                    "app.kubernetes.io/managed-by": "llmos",
                    "llmos.dev/model": "smollm2",
                    "llmos.dev/component": "fetch",
                }
            },
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "imagePullSecrets": [{"name": "registry"}],
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 65532,
                    "runAsGroup": 65532,
                    "fsGroup": 65532,
                    "fsGroupChangePolicy": "OnRootMismatch",
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "fetch",
                        "image": "llmos-worker-lite:1",
                        "imagePullPolicy": "IfNotPresent",
                        "command": [
                            "python",
                            "-m",
                            "llmos_workers.fetch",
                            "fetch",
                            "--source",
                            "hf://org/name@main",
                            "--format",
                            "auto",
                            "--revision",
                            "main-commit",
                            "--dest",
                            "/model",
                            "--capacity-bytes",
                            "5368709120",
                        ],
                        "env": [
                            {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
                            {"name": "LLMOS_CA_BUNDLE", "value": "/etc/llmos/ca/ca.crt"},
                        ],
                        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "terminationMessagePolicy": "FallbackToLogsOnError",
                        "volumeMounts": [
                            {"name": "tmp", "mountPath": "/tmp"},
                            {"name": "ca", "mountPath": "/etc/llmos/ca", "readOnly": True},
                            {"name": "credentials", "mountPath": "/etc/llmos/credentials", "readOnly": True},
                            {"name": "model", "mountPath": "/model"},
                        ],
                        "envFrom": [{"secretRef": {"name": "hf-token"}}],
                    }
                ],
                "volumes": [
                    {"name": "tmp", "emptyDir": {}},
                    {"name": "ca", "configMap": {"name": "ca", "optional": True}},
                    {"name": "credentials", "secret": {"secretName": "hf-token", "optional": True}},
                    {"name": "model", "persistentVolumeClaim": {"claimName": "smollm2-hash"}},
                ],
            },
        },
    },
}

CLAIM: Manifest = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {
        "name": "smollm2-hash",
        "namespace": "team-a",
        "labels": {
            "app.kubernetes.io/managed-by": "llmos",
            "llmos.dev/model": "smollm2",
            "llmos.dev/component": "storage",
        },
        "annotations": {"llmos.dev/source-hash": "hash"},
        "ownerReferences": [
            {
                "apiVersion": "llmos.dev/v1alpha1",
                "kind": "LLMModel",
                "name": "smollm2",
                "uid": "00000000-0000-0000-0000-00000000000a",
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    },
    "spec": {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "5Gi"}},
        "storageClassName": "fast",
    },
}

SERVICE: Manifest = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {
        "name": "chat",
        "namespace": "team-a",
        "labels": {"app.kubernetes.io/managed-by": "llmos", "llmos.dev/pool": "chat", "llmos.dev/component": "service"},
        "ownerReferences": [
            {
                "apiVersion": "llmos.dev/v1alpha1",
                "kind": "InferencePool",
                "name": "chat",
                "uid": "00000000-0000-0000-0000-00000000000a",
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    },
    "spec": {
        "selector": {
            "llmos.dev/pool": "chat",
            "llmos.dev/component": "replica",
            "llmos.dev/serving": "true",
            "llmos.dev/rank": "0",
        },
        "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
    },
}


ON_CLAIM = model(storage={"mode": "claim", "size": "5Gi", "storageClassName": "fast"}, source=SECRET)


def test_a_replica_on_accelerators_that_fetches_with_credentials() -> None:
    built = build_replica_pods(
        template(of=model(source=SECRET), on=accelerator(), **ON_GPU), revision="abc", ordinal=0, attempt=1
    )
    assert built == [POD]


def test_the_job_that_fetches_into_a_claim() -> None:
    assert ON_CLAIM.status.resolved is not None
    assert build_fetch_job(ON_CLAIM, ON_CLAIM.status.resolved, "hash", 2, SETTINGS) == FETCH_JOB


def test_the_claim_of_a_model() -> None:
    assert build_claim(ON_CLAIM, "hash") == CLAIM


def test_the_service_of_a_pool() -> None:
    assert build_service(pool()) == SERVICE
