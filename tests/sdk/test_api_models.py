"""The models as values: they read what a server returns, refuse what only they can check, and write what they read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llmos.api import KINDS, AcceleratorClass, ApiModel, InferencePool, LLMModel
from llmos.api.inferencepool import RESERVED_ENGINE_ARGS, find_argument
from llmos.api.names import API_VERSION, GROUP, VERSION

TIME = "2026-01-02T03:04:05Z"
METADATA = {"name": "chat", "namespace": "team", "uid": "1", "generation": 3, "resourceVersion": "77"}
CONDITION = {"type": "Ready", "status": "True", "reason": "Available", "lastTransitionTime": TIME}
CACHE = {"kind": "full", "layers": 30, "heads": 3, "keyDim": 64, "valueDim": 64}
WEIGHTS = {"part": "mlp", "parameters": 1000, "bytes": 2000, "split": "tensor"}
CONFIG = {
    "name": "LlamaForCausalLM",
    "family": "llama",
    "layers": 30,
    "hiddenSize": 576,
    "attentionHeads": 9,
    "keyValueHeads": 3,
    "headDim": 64,
    "vocabularySize": 49152,
    "maxContextTokens": 8192,
    "cache": [CACHE],
    "weights": [WEIGHTS],
}
RESOLVED = {
    "digest": "sha256:0",
    "architecture": "LlamaForCausalLM",
    "parameters": 134_515_008,
    "layers": 30,
    "kvHeads": 3,
    "headDim": 64,
    "vocabulary": 49152,
    "maxContext": 8192,
    "weightsBytes": 269_030_016,
    "dtype": "bfloat16",
    "config": CONFIG,
}


def pool(**spec: Any) -> dict[str, Any]:
    return {"metadata": METADATA, "spec": {"modelRef": {"name": "m"}, "accelerator": {"class": "cpu"}, **spec}}


SERVED: dict[str, dict[str, Any]] = {
    "LLMModel": {
        "metadata": METADATA,
        "spec": {
            "source": {"uri": "hf://org/name@main", "secretRef": {"name": "hf-token"}},
            "storage": {"mode": "claim", "size": "20Gi", "accessMode": "ReadWriteMany", "keep": True},
            "trustRemoteCode": {"revision": "0" * 40},
        },
        "status": {
            "observedGeneration": 3,
            "resolved": RESOLVED,
            "fetch": {"bytesDone": 1, "bytesTotal": 2, "bytesPerSecond": 1, "etaSeconds": 1},
            "conditions": [CONDITION],
        },
    },
    "InferencePool": {
        **pool(engine={"name": "simulator", "args": {"max-num-seqs": 8}, "env": [{"name": "A", "value": "b"}]}),
        "status": {"replicas": 1, "plan": {"maxModelLen": 2048}, "conditions": [CONDITION]},
    },
    "AcceleratorClass": {
        "metadata": METADATA,
        "spec": {"memory": "80Gi", "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]},
        "status": {"nodes": 2, "capacity": 16, "conditions": [CONDITION]},
    },
    "Tenant": {
        "metadata": METADATA,
        "spec": {
            "namespaces": ["team-a"],
            "cohort": "research",
            "weight": 2,
            "quota": [{"class": "nvidia-h100", "guaranteed": 8, "borrowLimit": 8, "lendLimit": 4}],
            "priorityRange": {"min": 0, "max": 100},
            "tokens": {"perMinute": "200k", "perDay": "20M", "cost": {"input": 1.0, "cached": 0.1, "output": 4.0}},
            "models": {"allow": ["shared/*"]},
            "isolation": {"profile": "strict", "dedicatedPools": True, "egressAllow": ["10.0.0.0/8"]},
        },
        "status": {
            "accelerators": "6/8",
            "usage": [{"class": "nvidia-h100", "guaranteed": 8, "used": 6, "lent": 2}],
            "tokens": [{"window": "day", "used": 5, "limit": 20, "resetsAt": TIME}],
            "thisMonth": {"month": "2026-01", "gpuSeconds": 60},
            "conditions": [CONDITION],
        },
    },
    "FineTuneJob": {
        "metadata": METADATA,
        "spec": {
            "baseModelRef": {"name": "m"},
            "method": {"tuning": "lora", "lora": {"rank": 8, "targetModules": ["q_proj"]}},
            "dataset": {
                "source": {"uri": "https://host/set/", "secretRef": {"name": "token"}},
                "format": {"type": "instruction", "columns": {"prompt": "q"}},
                "validate": {"maxErrorRate": 0.5, "overlong": "drop"},
                "clean": {"nearDedup": {"threshold": 0.9}, "pii": "redact"},
            },
            "trainer": {"accelerator": {"class": "cpu"}, "hyperparameters": {"maxSteps": 10, "learningRate": 0.001}},
            "checkpoint": {"everySteps": 5, "onPreempt": {"deadlineSeconds": 60}, "storage": {"size": "1Gi"}},
            "earlyStopping": {"patience": 2},
            "evaluate": {
                "suites": [{"name": "support", "metrics": ["exact_match"]}],
                "gates": [{"metric": "eval_loss", "maxRelativeToBase": 0.95}],
            },
            "output": {"name": "support", "attachTo": [{"pool": "chat"}]},
            "suspend": True,
            "retries": {"user": 1},
        },
        "status": {
            "phase": "Training",
            "baseDigest": "sha256:0",
            "datasetReport": {"lines": 3, "examples": [{"line": "a.jsonl:1", "problem": "no prompt"}]},
            "progress": {"step": 5, "totalSteps": 10, "loss": 1.5},
            "lastCheckpoint": {"step": 5, "time": TIME, "uri": "pvc://c/checkpoints/step-5", "sha256": "0"},
            "attempts": {"infrastructure": 1},
            "evaluation": {"metrics": [{"name": "eval_loss", "base": 2.0, "result": 1.0}]},
            "output": {"digest": "sha256:1", "modelRef": {"name": "support"}},
            "conditions": [CONDITION],
        },
    },
}
# Engine arguments are a map: every name in it is known.
NOT_OBJECTS = {"args"}
BY_KIND: dict[str, type[ApiModel]] = {kind.info.kind: kind for kind in KINDS}


@pytest.mark.parametrize("kind", BY_KIND)
def test_what_a_server_returns_is_read_and_written_back_unchanged(kind: str) -> None:
    served = {"apiVersion": API_VERSION, "kind": kind, **SERVED[kind]}
    written = BY_KIND[kind].model_validate(served).to_manifest()
    assert _contains(written, served)
    assert BY_KIND[kind].model_validate(written).to_manifest() == written
    json.dumps(written)


@pytest.mark.parametrize("kind", BY_KIND)
def test_fields_of_a_newer_version_are_ignored_in(kind: str) -> None:
    model = BY_KIND[kind]
    assert model.model_validate(_with_unknown_fields(SERVED[kind])) == model.model_validate(SERVED[kind])


@pytest.mark.parametrize("kind", BY_KIND)
def test_an_object_without_status_can_be_read_as(kind: str) -> None:
    new = {key: value for key, value in SERVED[kind].items() if key != "status"}
    assert BY_KIND[kind].model_validate(new).model_dump()["status"]["conditions"] == ()


@pytest.mark.parametrize("kind", BY_KIND)
def test_objects_are_values_that_nobody_changes(kind: str) -> None:
    value = BY_KIND[kind].model_validate(SERVED[kind])
    with pytest.raises(ValidationError, match="frozen"):
        value.metadata = None  # type: ignore[attr-defined]


def test_the_defaults_are_those_of_the_documentation() -> None:
    spec = InferencePool.model_validate(pool()).spec
    assert (spec.replicas, spec.engine.name, spec.accelerator.count) == (None, "vllm", 1)
    assert (spec.rollout.max_surge, spec.rollout.max_unavailable, spec.drain.timeout_seconds) == (1, 0, 120)
    assert spec.context_length is None
    storage = LLMModel.model_validate({"metadata": METADATA, "spec": {"source": {"uri": "hf://o/n"}}}).spec.storage
    assert (storage.mode, storage.size, storage.keep) == ("ephemeral", "20Gi", False)


def test_the_api_version_is_made_of_group_and_version() -> None:
    assert f"{GROUP}/{VERSION}" == API_VERSION


def test_fields_can_be_set_by_their_python_names_too() -> None:
    spec = {"resource_name": "amd.com/gpu", "memory": "192Gi"}
    assert AcceleratorClass.model_validate({"metadata": {"name": "mi300x"}, "spec": spec}).spec.memory == "192Gi"


class TestEngineArguments:
    @pytest.mark.parametrize("value", [True, False, 8, 0.5, "auto"], ids=repr)
    def test_keep_the_type_that_was_written(self, value: object) -> None:
        args = InferencePool.model_validate(pool(engine={"args": {"flag": value}})).to_manifest()["spec"]["engine"][
            "args"
        ]
        assert args == {"flag": value}
        assert type(args["flag"]) is type(value)

    @pytest.mark.parametrize("value", [None, [1], {"a": 1}], ids=["null", "a list", "an object"])
    def test_refuse(self, value: object) -> None:
        with pytest.raises(ValidationError):
            InferencePool.model_validate(pool(engine={"args": {"flag": value}}))

    @pytest.mark.parametrize(
        ("name", "argument"), [("trust", "trust-remote-code"), ("hos", "host"), ("max-model", "max-model-len")]
    )
    def test_a_name_that_vllm_completes_to_a_reserved_one_is_refused(self, name: str, argument: str) -> None:
        with pytest.raises(ValidationError, match=f"{name} may be read as {argument}, which is set by LLMOS"):
            InferencePool.model_validate(pool(engine={"args": {name: True}}))

    @pytest.mark.parametrize("name", RESERVED_ENGINE_ARGS)
    def test_refuse_what_llmos_sets_itself(self, name: str) -> None:
        with pytest.raises(ValidationError, match=f"{name} is set by LLMOS: remove it"):
            InferencePool.model_validate(pool(engine={"args": {name: 1}}))

    @pytest.mark.parametrize(
        "name",
        ["--max-num-seqs", "max_model_len", "Host", "a b", "", "a" * 65, "port\n"],
        ids=[
            "with dashes",
            "with underscores",
            "in capitals",
            "with a space",
            "empty",
            "too long",
            "with a line break",
        ],
    )
    def test_refuse_a_name_that_could_hide_another_argument(self, name: str) -> None:
        with pytest.raises(ValidationError, match="without the leading dashes, for example max-num-seqs"):
            InferencePool.model_validate(pool(engine={"args": {name: 1}}))


def _with_unknown_fields(value: Any) -> Any:
    if isinstance(value, dict):
        known = {key: item if key in NOT_OBJECTS else _with_unknown_fields(item) for key, item in value.items()}
        return {**known, "fieldOfTomorrow": {"a": [1]}}
    return [_with_unknown_fields(item) for item in value] if isinstance(value, list) else value


def _contains(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return all(key in whole and _contains(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(_contains, whole, part))
    return bool(whole == part)


SCALARS = st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
ARGUMENTS = st.dictionaries(st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True), SCALARS, max_size=4)


@settings(deadline=None)  # a busy machine is no failure
@given(
    arguments=ARGUMENTS.filter(lambda args: not any(find_argument(name, RESERVED_ENGINE_ARGS) for name in args)),
    replicas=st.integers(0, 1000),
    context=st.none() | st.integers(16, 16_777_216),
    surge=st.integers(0, 100),
    labels=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_any_pool_survives_the_way_through_json(
    arguments: dict[str, Any], replicas: int, context: int | None, surge: int, labels: dict[str, str]
) -> None:
    spec = pool(engine={"args": arguments}, replicas=replicas, contextLength=context, rollout={"maxSurge": surge})
    read = InferencePool.model_validate({**spec, "metadata": {**METADATA, "labels": labels}})
    assert InferencePool.model_validate_json(json.dumps(read.to_manifest())) == read
