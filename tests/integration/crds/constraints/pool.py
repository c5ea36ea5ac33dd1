"""What an InferencePool may say, but for its scaling."""

from __future__ import annotations

from typing import Final

from llmos.api.inferencepool import RESERVED_ENGINE_ENV
from tests.integration.crds.constraints.case import (
    Case,
    limits,
    longest_text,
    one_of,
    pod_name_part,
    reference,
    unique_items,
)

_POOL: Final = "InferencePool"
_TOO_PARALLEL: Final = "tensor x pipeline parallel size must not exceed accelerator.count"

HOLD_CASES: Final = [
    *one_of(_POOL, "spec.routing.policy", "auto", "least-load", "round-robin", "prefix"),
    *limits(_POOL, "spec.hold.timeoutSeconds", 0, 86_400),
    *limits(_POOL, "spec.hold.maxRequests", 0, 100_000),
    *limits(_POOL, "spec.hold.maxRequestsPerKey", 0, 100_000),
]

_ALTERNATIVES: Final = "spec.accelerator.alternatives"

POOL_CASES: Final = [
    *unique_items(_POOL, _ALTERNATIVES, 4, [f"gpu-{number}" for number in range(5)]),
    *reference(_POOL, f"{_ALTERNATIVES}[]"),
    *(
        Case(_POOL, "spec.accelerator", "rule", accepted, refused, says=says, blamed=_ALTERNATIVES)
        for accepted, refused, says in (
            ({"alternatives": ["b"]}, {"alternatives": ["b", "nvidia-h100"]}, "class is the first choice already"),
            ({"alternatives": ["b"]}, {"alternatives": ["cpu"]}, "is no AcceleratorClass"),
        )
    ),
    Case(_POOL, "", "required:spec", {}, {"spec": None}),
    *pod_name_part(_POOL),
    Case(_POOL, "spec", "required:modelRef", {}, {"modelRef": None}),
    Case(_POOL, "spec", "required:accelerator", {}, {"accelerator": None}),
    Case(
        _POOL,
        "spec",
        "rule",
        {"accelerator": {"class": "cpu", "count": 1}},
        {"accelerator": {"class": "cpu", "count": 2}},
        says="accelerator class cpu has count 1",
        blamed="spec.accelerator.count",
    ),
    *(
        Case(
            _POOL,
            "spec",
            "rule",
            {"accelerator": {"count": 4}, "parallelism": accepted},
            {"accelerator": {"count": 4}, "parallelism": refused},
            says=_TOO_PARALLEL,
            blamed="spec.parallelism.tensor",
        )
        for accepted, refused in (
            ({"tensor": 4}, {"tensor": 5}),
            ({"tensor": 2, "pipeline": 2}, {"tensor": 4, "pipeline": 2}),
        )
    ),
    Case(
        _POOL,
        "spec",
        "rule",
        {"accelerator": {"count": 4}, "parallelism": {"pipeline": 4}},
        {"accelerator": {"count": 4}, "parallelism": {"pipeline": 5}},
        says="pipeline parallel size must not exceed accelerator.count",
        blamed="spec.parallelism.pipeline",
    ),
    Case(_POOL, "spec.modelRef", "required:name", {}, {"name": None}),
    *reference(_POOL, "spec.modelRef.name"),
    *limits(_POOL, "spec.adapters.maxLoaded", 1, 64),
    *limits(_POOL, "spec.adapters.slots", 1, 64),
    Case(
        _POOL,
        "spec.adapters",
        "rule",
        {"maxLoaded": 4, "slots": 4},
        {"maxLoaded": 4, "slots": 5},
        says="more slots than adapters",
        blamed="spec.adapters.slots",
    ),
    Case(_POOL, "spec.adapters.maxRank", "enum", 512, 7),
    Case(_POOL, "spec.adapters.maxRank", "enum", 8, 1024),
    Case(
        _POOL,
        "spec.adapters.models",
        "maxItems",
        [{"name": f"a{number}"} for number in range(64)],
        [{"name": f"a{number}"} for number in range(65)],
    ),
    Case(
        _POOL,
        "spec.adapters.models",
        "listMapKeys",
        [{"name": "a"}, {"name": "b"}],
        [{"name": "a"}, {"name": "a"}],
        blamed="spec.adapters.models[1]",
    ),
    Case(_POOL, "spec.adapters.models[]", "required:name", {"name": "a"}, {"name": None}),
    *reference(_POOL, "spec.adapters.models[].name"),
    *one_of(_POOL, "spec.engine.name", "vllm", "simulator"),
    longest_text(_POOL, "spec.engine.image", 512),
    Case(
        _POOL,
        "spec.engine.args",
        "maxProperties",
        {f"a{number}": True for number in range(64)},
        {f"a{number}": True for number in range(65)},
    ),
    Case(
        _POOL,
        "spec.engine.env",
        "maxItems",
        [{"name": f"A{number}"} for number in range(64)],
        [{"name": f"A{number}"} for number in range(65)],
    ),
    Case(
        _POOL,
        "spec.engine.env",
        "listMapKeys",
        [{"name": "A"}, {"name": "B"}],
        [{"name": "A"}, {"name": "A"}],
        blamed="spec.engine.env[1]",
    ),
    *(
        Case(
            _POOL,
            "spec.engine",
            "rule",
            {"env": [{"name": "VLLM_LOGGING_LEVEL"}]},
            {"env": [{"name": name, "value": "1"}]},
            says="they would open the engine",
            blamed="spec.engine.env",
        )
        for name in RESERVED_ENGINE_ENV
    ),
    Case(_POOL, "spec.engine.env[]", "required:name", {"value": "x"}, {"name": None, "value": "x"}),
    longest_text(_POOL, "spec.engine.env[].name", 128),
    Case(_POOL, "spec.engine.env[].name", "pattern", "_A1", "1A"),
    Case(_POOL, "spec.engine.env[].name", "pattern", "a", "A-B"),
    longest_text(_POOL, "spec.engine.env[].value", 4096),
    Case(_POOL, "spec.accelerator", "required:class", {}, {"class": None}),
    *reference(_POOL, "spec.accelerator.class"),
    *limits(_POOL, "spec.accelerator.count", 1, 256),
    # More than accelerator.count (at most 16) is refused anyway, by the rule.
    Case(_POOL, "spec.parallelism.tensor", "minimum", 1, 0),
    Case(_POOL, "spec.parallelism.tensor", "maximum", 16, 65),
    Case(_POOL, "spec.parallelism.pipeline", "minimum", 1, 0),
    Case(_POOL, "spec.parallelism.pipeline", "maximum", 16, 65),
    *limits(_POOL, "spec.contextLength", 16, 16_777_216),
    *limits(_POOL, "spec.replicas", 0, 1000),
    *(
        Case(
            _POOL,
            "spec.rollout",
            "rule",
            accepted,
            {"maxSurge": 0, "maxUnavailable": 0},
            says="maxSurge and maxUnavailable must not both be 0",
        )
        for accepted in ({"maxSurge": 0, "maxUnavailable": 1}, {"maxSurge": 1, "maxUnavailable": 0})
    ),
    *limits(_POOL, "spec.rollout.maxUnavailable", 0, 100),
    Case(_POOL, "spec.rollout", "rule", {"maxSurge": 1}, {"maxSurge": 0}, says="maxSurge and maxUnavailable must not"),
    Case(_POOL, "spec.rollout.maxSurge", "minimum", 1, -1),
    Case(_POOL, "spec.rollout.maxSurge", "maximum", 100, 101),
    *limits(_POOL, "spec.drain.timeoutSeconds", 1, 86_400),
    *reference(_POOL, "spec.priorityClassName"),
]
