"""What an InferencePool may say of its scaling."""

from __future__ import annotations

from typing import Final

from tests.integration.crds.constraints.case import (
    ITEMS,
    Case,
    limits,
    longest_text,
    one_of,
)

_POOL: Final = "InferencePool"
_WINDOW: Final = "spec.scaling.schedule[]"

SCALING_CASES: Final = [
    Case(_POOL, "spec", "rule", {}, {"replicas": None}, says="say how many", blamed="spec.replicas"),
    Case(
        _POOL,
        "spec",
        "rule",
        {"replicas": None, "scaling": {}},
        {"replicas": 3, "scaling": {}},
        says="replicas and scaling exclude each other",
        blamed="spec.replicas",
    ),
    Case(
        _POOL,
        "spec",
        "rule",
        {"replicas": 3, "scaling": {"mode": "advisory"}},
        {"replicas": 3, "scaling": {"mode": "active"}},
        says="replicas and scaling exclude each other",
        blamed="spec.replicas",
    ),
    Case(
        _POOL,
        "spec.scaling",
        "rule",
        {"minReplicas": 9, "maxReplicas": 9},
        {"minReplicas": 9},
        says="minReplicas must not be greater than maxReplicas",
        blamed="spec.scaling.minReplicas",
    ),
    Case(_POOL, "spec.scaling.minReplicas", "minimum", 0, -1),
    # More than maxReplicas (8 where nothing is said) is refused anyway, by the rule.
    Case(_POOL, "spec.scaling.minReplicas", "maximum", 8, 1001),
    *limits(_POOL, "spec.scaling.maxReplicas", 1, 1000),
    *one_of(_POOL, "spec.scaling.mode", "active", "advisory"),
    *limits(_POOL, "spec.scaling.scaleDownDelaySeconds", 0, 86_400),
    *limits(_POOL, "spec.scaling.scaleToZeroAfterSeconds", 0, 604_800),
    *(
        Case(_POOL, "spec.scaling.target", "rule", accepted, refused, says="exclude each other")
        for accepted, refused in (
            ({"queueDepth": 4}, {"queueDepth": 4, "utilization": 0.8}),
            ({"utilization": 0.8}, {"utilization": 0.8, "slo": {"ttftMilliseconds": 500}}),
            ({"slo": {"ttftMilliseconds": 500}}, {"queueDepth": 4, "slo": {"ttftMilliseconds": 500}}),
        )
    ),
    *limits(_POOL, "spec.scaling.target.queueDepth", 1, 100_000),
    Case(_POOL, "spec.scaling.target.utilization", "minimum", 0.1, 0.09),
    Case(_POOL, "spec.scaling.target.utilization", "maximum", 1.0, 1.01),
    *(
        Case(_POOL, "spec.scaling.target.slo", "rule", accepted, {}, says="name ttftMilliseconds")
        for accepted in ({"ttftMilliseconds": 500}, {"tpotMilliseconds": 50})
    ),
    *limits(_POOL, "spec.scaling.target.slo.ttftMilliseconds", 1, 3_600_000),
    *limits(_POOL, "spec.scaling.target.slo.tpotMilliseconds", 1, 600_000),
    Case(
        _POOL,
        "spec.scaling.schedule",
        "maxItems",
        [{**ITEMS["schedule"], "name": f"w{number}"} for number in range(16)],
        [{**ITEMS["schedule"], "name": f"w{number}"} for number in range(17)],
    ),
    Case(
        _POOL,
        "spec.scaling.schedule",
        "listMapKeys",
        [ITEMS["schedule"], {**ITEMS["schedule"], "name": "night"}],
        [ITEMS["schedule"], ITEMS["schedule"]],
        blamed="spec.scaling.schedule[1]",
    ),
    *(Case(_POOL, _WINDOW, f"required:{field}", {}, {field: None}) for field in ("name", "start", "end")),
    Case(_POOL, _WINDOW, "rule", {"maxReplicas": 0, "minReplicas": None}, {"minReplicas": None}, says="say what holds"),
    Case(
        _POOL,
        _WINDOW,
        "rule",
        {"minReplicas": 2, "maxReplicas": 2},
        {"minReplicas": 3, "maxReplicas": 2},
        says="minReplicas must not be greater than maxReplicas",
        blamed=f"{_WINDOW}.minReplicas",
    ),
    longest_text(_POOL, f"{_WINDOW}.name", 63),
    Case(_POOL, f"{_WINDOW}.name", "minLength", "a", ""),
    Case(_POOL, f"{_WINDOW}.days", "maxItems", ["Mon"] * 7, ["Mon"] * 8),
    *(
        Case(_POOL, f"{_WINDOW}.days[]", "enum", day, "Monday")
        for day in ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    ),
    *(
        case
        for field in ("start", "end")
        for case in (
            Case(_POOL, f"{_WINDOW}.{field}", "maxLength", "00:00", "00:000"),
            Case(_POOL, f"{_WINDOW}.{field}", "pattern", "23:59", "24:00"),
            Case(_POOL, f"{_WINDOW}.{field}", "pattern", "09:59", "9:59"),
            Case(_POOL, f"{_WINDOW}.{field}", "pattern", "19:00", "19:60"),
        )
    ),
    longest_text(_POOL, f"{_WINDOW}.timeZone", 64),
    *limits(_POOL, f"{_WINDOW}.minReplicas", 0, 1000),
    # Fewer than minReplicas (1 in the smallest window) is refused anyway, by the rule.
    Case(_POOL, f"{_WINDOW}.maxReplicas", "minimum", 1, -1),
    Case(_POOL, f"{_WINDOW}.maxReplicas", "maximum", 1000, 1001),
]
