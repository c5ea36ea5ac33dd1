"""What a Tenant may say."""

from __future__ import annotations

from typing import Final

from tests.integration.crds.constraints.case import (
    Case,
    limits,
    longest_text,
    object_name,
    one_of,
    quantity,
    reference,
    unique_items,
)

_TENANT: Final = "Tenant"
_QUOTA: Final = "spec.quota[]"


def _tokens(path: str) -> list[Case]:
    return [
        longest_text(_TENANT, path, 16, accepted="1" * 16),
        Case(_TENANT, path, "pattern", "200k", "200 k"),
        Case(_TENANT, path, "pattern", "1.5M", "20Mi"),
        Case(_TENANT, path, "pattern", "5000", "-1"),
        Case(_TENANT, path, "rule", "1", "0", says="must be greater than 0"),
        Case(_TENANT, path, "rule", "0.1k", "0.0M", says="must be greater than 0"),
    ]


TENANT_CASES: Final = [
    Case(_TENANT, "", "required:spec", {}, {"spec": None}),
    *object_name(_TENANT, 63, ("1-a", "a.b")),
    Case(_TENANT, "spec", "required:namespaces", {}, {"namespaces": None}),
    Case(_TENANT, "spec.namespaces", "minItems", ["a"], []),
    *unique_items(_TENANT, "spec.namespaces", 64, [f"team-{number}" for number in range(65)]),
    longest_text(_TENANT, "spec.namespaces[]", 63),
    Case(_TENANT, "spec.namespaces[]", "pattern", "team-a", "Team"),
    Case(_TENANT, "spec.namespaces[]", "pattern", "1", "a.b"),
    longest_text(_TENANT, "spec.cohort", 63),
    Case(_TENANT, "spec.cohort", "pattern", "research", "-research"),
    Case(_TENANT, "spec.cohort", "pattern", "", "a b"),
    longest_text(_TENANT, "spec.kueue.queueName", 63),
    Case(_TENANT, "spec.kueue.queueName", "pattern", "team-queue", "Team_Queue"),
    *limits(_TENANT, "spec.weight", 1, 1000),
    Case(
        _TENANT,
        "spec.quota",
        "maxItems",
        [{"class": f"c{number}"} for number in range(32)],
        [{"class": f"c{number}"} for number in range(33)],
    ),
    Case(
        _TENANT,
        "spec.quota",
        "listMapKeys",
        [{"class": "a"}, {"class": "b"}],
        [{"class": "a"}, {"class": "a"}],
        blamed="spec.quota[1]",
    ),
    Case(_TENANT, _QUOTA, "required:class", {"guaranteed": 1}, {"class": None, "guaranteed": 1}),
    Case(
        _TENANT,
        _QUOTA,
        "rule",
        {"guaranteed": 4, "lendLimit": 4},
        {"guaranteed": 4, "lendLimit": 5},
        says="lendLimit must not be greater than guaranteed",
        blamed=f"{_QUOTA}.lendLimit",
    ),
    Case(
        _TENANT,
        _QUOTA,
        "rule",
        {"class": "nvidia-l4"},
        {"class": "cpu"},
        says="the class cpu has no accelerators to share",
        blamed=f"{_QUOTA}.class",
    ),
    *reference(_TENANT, f"{_QUOTA}.class"),
    *limits(_TENANT, f"{_QUOTA}.guaranteed", 0, 1_000_000),
    *limits(_TENANT, f"{_QUOTA}.borrowLimit", 0, 1_000_000),
    Case(_TENANT, f"{_QUOTA}.lendLimit", "minimum", 0, -1),
    # More than guaranteed (at most 1,000,000) is refused anyway, by the rule.
    Case(_TENANT, f"{_QUOTA}.lendLimit", "maximum", 0, 1_000_001),
    Case(
        _TENANT,
        "spec.priorityRange",
        "rule",
        {"min": 5, "max": 5},
        {"min": 6, "max": 5},
        says="min must not be greater than max",
        blamed="spec.priorityRange.min",
    ),
    Case(_TENANT, "spec.priorityRange.min", "minimum", -1000, -1001),
    Case(_TENANT, "spec.priorityRange.min", "maximum", 100, 1001),
    Case(_TENANT, "spec.priorityRange.max", "minimum", 0, -1001),
    Case(_TENANT, "spec.priorityRange.max", "maximum", 1000, 1001),
    *_tokens("spec.tokens.perMinute"),
    *_tokens("spec.tokens.perDay"),
    *_tokens("spec.tokens.perMonth"),
    *(
        Case(
            _TENANT,
            "spec.tokens",
            "rule",
            {less: "1000k", more: "1M"},
            {less: "1001k", more: "1M"},
            says=f"{less} must not be more than {more}",
            blamed=f"spec.tokens.{less}",
        )
        for less, more in (("perMinute", "perDay"), ("perDay", "perMonth"), ("perMinute", "perMonth"))
    ),
    *limits(_TENANT, "spec.tokens.maxConcurrency", 1, 100_000),
    *(
        case
        for name in ("input", "cached", "output")
        for case in (
            Case(_TENANT, f"spec.tokens.cost.{name}", "minimum", 0, -0.1),
            Case(_TENANT, f"spec.tokens.cost.{name}", "maximum", 1000, 1000.5),
        )
    ),
    *one_of(_TENANT, "spec.tokens.mode", "enforce", "shadow"),
    *quantity(_TENANT, "spec.storage.size"),
    *limits(_TENANT, "spec.storage.claims", 0, 100_000),
    *unique_items(_TENANT, "spec.models.allow", 64, [f"shared/m{number}" for number in range(65)]),
    Case(_TENANT, "spec.models.allow[]", "maxLength", "a" * 63 + "/" + "a" * 253, "a" * 63 + "/" + "a" * 254),
    Case(_TENANT, "spec.models.allow[]", "pattern", "shared/*", "shared"),
    Case(_TENANT, "spec.models.allow[]", "pattern", "*/llama-3.1*", "shared/*llama"),
    Case(_TENANT, "spec.models.allow[]", "pattern", "*/*", "sha*/llama"),
    *one_of(_TENANT, "spec.isolation.profile", "standard"),
    Case(
        _TENANT,
        "spec.isolation",
        "rule",
        {"profile": "strict", "dedicatedPools": True},
        {"profile": "strict", "dedicatedPools": False},
        says="profile strict needs dedicatedPools: true",
        blamed="spec.isolation.dedicatedPools",
    ),
    *unique_items(_TENANT, "spec.isolation.egressAllow", 64, [f"10.0.{number}.0/24" for number in range(65)]),
    longest_text(_TENANT, "spec.isolation.egressAllow[]", 43, accepted="f" * 39 + "/128"),
    Case(_TENANT, "spec.isolation.egressAllow[]", "pattern", "10.0.0.0/8", "10.0.0.0"),
    Case(_TENANT, "spec.isolation.egressAllow[]", "pattern", "fd00::/8", "example.com/8"),
]
