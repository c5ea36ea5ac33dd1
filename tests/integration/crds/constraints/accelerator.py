"""What an AcceleratorClass may say."""

from __future__ import annotations

from typing import Final

from tests.integration.crds.constraints.case import (
    Case,
    limits,
    longest_text,
    one_of,
    quantity,
)

_CLASS: Final = "AcceleratorClass"

CLASS_CASES: Final = [
    Case(_CLASS, "", "required:spec", {}, {"spec": None}),
    Case(
        _CLASS,
        "",
        "rule",
        {"metadata": {"name": "nvidia-h100"}},
        {"metadata": {"name": "cpu"}},
        says="the class cpu is built in",
        blamed="metadata.name",
    ),
    Case(_CLASS, "spec", "required:memory", {}, {"memory": None}),
    Case(_CLASS, "spec.resourceName", "maxLength", "a/" + "a" * 251, "a/" + "a" * 252),
    Case(_CLASS, "spec.resourceName", "pattern", "nvidia.com/gpu", "gpu"),
    Case(_CLASS, "spec.resourceName", "pattern", "nvidia.com/mig-1g.10gb", "nvidia.com/"),
    Case(
        _CLASS,
        "spec.nodeSelector",
        "maxProperties",
        {f"a{number}": "b" for number in range(16)},
        {f"a{number}": "b" for number in range(17)},
    ),
    *(
        Case(_CLASS, "spec.nodeSelector", "rule", {accepted: "a"}, {refused: "a"}, says="keys must be label names")
        for accepted, refused in (
            ("nvidia.com/gpu.product", "nvidia.com/gpu product"),
            ("a", "-a"),
            ("a" * 317, "a" * 318),
        )
    ),
    longest_text(_CLASS, "spec.nodeSelector{}", 63),
    Case(_CLASS, "spec.nodeSelector{}", "pattern", "NVIDIA-H100-80GB-HBM3", "NVIDIA H100"),
    Case(
        _CLASS,
        "spec.tolerations",
        "maxItems",
        [{"key": f"a{number}"} for number in range(16)],
        [{"key": f"a{number}"} for number in range(17)],
    ),
    *(
        Case(_CLASS, "spec.tolerations[]", "rule", accepted, refused, says="a toleration without key needs operator")
        for accepted, refused in (
            ({"key": None, "operator": "Exists"}, {"key": None}),
            ({"key": "", "operator": "Exists"}, {"key": "", "operator": "Equal"}),
        )
    ),
    *(
        Case(_CLASS, "spec.tolerations[]", "rule", accepted, refused, says="operator Exists compares no value")
        for accepted, refused in (
            ({"operator": "Equal", "value": "x"}, {"operator": "Exists", "value": "x"}),
            ({"operator": "Exists", "value": ""}, {"key": None, "operator": "Exists", "value": "x"}),
        )
    ),
    longest_text(_CLASS, "spec.tolerations[].key", 316),
    *one_of(_CLASS, "spec.tolerations[].operator", "Exists", "Equal"),
    longest_text(_CLASS, "spec.tolerations[].value", 63),
    *one_of(_CLASS, "spec.tolerations[].effect", "", "NoSchedule", "PreferNoSchedule", "NoExecute"),
    *quantity(_CLASS, "spec.memory"),
    *limits(_CLASS, "spec.countPerNode", 1, 64),
    Case(_CLASS, "spec.costWeight", "exclusiveMinimum", 0.001, 0),
    Case(_CLASS, "spec.costWeight", "maximum", 1000, 1000.5),
]
