"""Tenant: who shares the cluster, with how many accelerators and tokens, and what is kept apart.

Accelerators are lent, never given away: what a tenant's guarantee does not use, others of its cohort may borrow, and it
comes back when the tenant asks. docs/concepts/quota.md tells how the shares are reckoned.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmos.api.meta import (
    ApiModel,
    Conditions,
    KindInfo,
    ListMap,
    ListSet,
    Metadata,
    Name,
    PrinterColumn,
    Quantity,
    Rule,
)
from llmos.api.names import API_VERSION

Namespace = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""Name of a namespace."""

TokenQuantity = Annotated[
    str,
    Field(max_length=16, pattern=r"^[0-9]+(\.[0-9]+)?(k|M|G|T)?$"),
    Rule("quantity(self).isGreaterThan(quantity('0'))", "must be greater than 0"),
]
"""A number of tokens such as `200k` or `20M`; a number without suffix stands in quotes, `"5000"`."""

ModelPattern = Annotated[
    str,
    Field(max_length=317, pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?|\*)/(\*|[a-z0-9]([-a-z0-9.]*[a-z0-9])?\*?)$"),
]
"""`namespace/model`; `*` stands for all namespaces, for all models, or for the rest of a model's name."""

Cidr = Annotated[str, Field(max_length=43, pattern=r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9a-fA-F:]+)/[0-9]{1,3}$")]
"""A range of addresses such as 10.0.0.0/8."""

Accelerators = Annotated[int, Field(ge=0, le=1000000)]


class ClassQuota(ApiModel):
    """Accelerators of one class."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.lendLimit) || self.lendLimit <= self.guaranteed",
            "lendLimit must not be greater than guaranteed: a tenant lends only what is guaranteed to it",
            field_path=".lendLimit",
        ),
        Rule(
            "self.class != 'cpu'",
            "the class cpu has no accelerators to share: limit processors with a ResourceQuota",
            field_path=".class",
        ),
    )

    class_name: Annotated[Name, Field(alias="class")]
    """Name of an AcceleratorClass."""
    guaranteed: Accelerators = 0
    """Accelerators that are there when the tenant asks for them."""
    borrow_limit: Accelerators | None = None
    """Most accelerators beyond `guaranteed`, while others leave them idle. Empty = as many as there are to borrow."""
    lend_limit: Accelerators | None = None
    """Most accelerators of `guaranteed` that others may borrow. Empty = all of them."""


class PriorityRange(ApiModel):
    """Priorities that the tenant's pools and jobs may have; others are moved to the nearer end."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule("self.min <= self.max", "min must not be greater than max", field_path=".min"),
    )

    min: Annotated[int, Field(ge=-1000, le=1000)] = 0
    """Lowest priority."""
    max: Annotated[int, Field(ge=-1000, le=1000)] = 100
    """Highest priority."""


class TokenCost(ApiModel):
    """What a token counts."""

    input: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """A prompt token that is computed."""
    cached: Annotated[float, Field(ge=0, le=1000)] = 0.1
    """A prompt token that the engine had in its cache."""
    output: Annotated[float, Field(ge=0, le=1000)] = 4.0
    """A generated token."""


def _is_ordered(less: str, more: str) -> str:
    compared = f"quantity(self.{less}).compareTo(quantity(self.{more})) <= 0"
    return f"!has(self.{less}) || !has(self.{more}) || {compared}"


class TokenBudget(ApiModel):
    """Tokens, weighted by cost, and requests that the tenant's API keys may use together. Empty = no limit."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(_is_ordered("perMinute", "perDay"), "perMinute must not be more than perDay", field_path=".perMinute"),
        Rule(_is_ordered("perDay", "perMonth"), "perDay must not be more than perMonth", field_path=".perDay"),
        Rule(_is_ordered("perMinute", "perMonth"), "perMinute must not be more than perMonth", field_path=".perMinute"),
    )

    per_minute: TokenQuantity | None = None
    """Tokens in a minute (UTC), for example 200k."""
    per_day: TokenQuantity | None = None
    """Tokens in a day (UTC), for example 20M."""
    per_month: TokenQuantity | None = None
    """Tokens in a calendar month (UTC), for example 400M."""
    max_concurrency: Annotated[int, Field(ge=1, le=100000)] | None = None
    """Requests at the same time."""
    cost: TokenCost = TokenCost()
    """What a token counts."""
    mode: Literal["enforce", "shadow"] = "enforce"
    """shadow counts and refuses nothing."""


class AllowedModels(ApiModel):
    """Models beyond those in the tenant's own namespaces."""

    allow: Annotated[tuple[ModelPattern, ...], Field(max_length=64), ListSet()] = ()
    """`namespace/model`, also `namespace/*` or `namespace/prefix*`. The owner must share the model, too."""


class Isolation(ApiModel):
    """What is kept apart from other tenants."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.profile != 'strict' || self.dedicatedPools",
            "profile strict needs dedicatedPools: true, for nothing is shared in it",
            field_path=".dedicatedPools",
        ),
    )

    profile: Literal["strict", "standard"] = "standard"
    """standard: own namespaces with closed networks, restricted pods, a cache salt of its own in shared pools. strict:
    moreover nothing is shared, and a pool that fails a check gets no new replicas."""
    dedicated_pools: bool = False
    """Requests of this tenant go to pools in its own namespaces only, and only its requests do."""
    egress_allow: Annotated[tuple[Cidr, ...], Field(max_length=64), ListSet()] = ()
    """Address ranges that fetch steps in the tenant's namespaces may reach: with profile standard beside the public
    internet, with strict nothing else."""


class TenantQueue(ApiModel):
    """How pools queue where Kueue admits (quota.admission: kueue in the chart); without effect otherwise."""

    queue_name: Annotated[str, Field(max_length=63, pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$")] = ""
    """Name of the LocalQueue in each of the tenant's namespaces. Empty = what the installation says. The label
    kueue.x-k8s.io/queue-name of a pool comes before it."""


class TenantStorage(ApiModel):
    """What PersistentVolumeClaims may take, in each of the tenant's namespaces. Empty = no limit."""

    size: Quantity | None = None
    """Bytes that all claims of a namespace may ask for together, for example 500Gi."""
    claims: Annotated[int, Field(ge=0, le=100000)] | None = None
    """Claims of a namespace."""


class TenantSpec(ApiModel):
    """What the administrator grants."""

    namespaces: Annotated[tuple[Namespace, ...], Field(min_length=1, max_length=64), ListSet()]
    """Namespaces that are this tenant's. A namespace has one tenant."""
    cohort: Annotated[str, Field(max_length=63, pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$")] = ""
    """Tenants of the same cohort lend to each other. Empty = lends to nobody, and borrows only what is guaranteed to
    nobody."""
    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    """Share of what is borrowed, and of shared pools, relative to others."""
    quota: Annotated[tuple[ClassQuota, ...], Field(max_length=32), ListMap(("class",))] = ()
    """Accelerators by class. A class without an entry cannot be used."""
    storage: TenantStorage = TenantStorage()
    """Bytes and number of claims, by a ResourceQuota in each namespace. Empty = no limit."""
    kueue: TenantQueue = TenantQueue()
    """Where Kueue admits instead of the quota: which queue."""
    priority_range: PriorityRange = PriorityRange()
    """Priorities that the tenant's pools and jobs may have."""
    tokens: TokenBudget = TokenBudget()
    """Tokens and requests. Empty = no limit."""
    models: AllowedModels = AllowedModels()
    """Models of other namespaces that the tenant may call."""
    isolation: Isolation = Isolation()
    """What is kept apart from other tenants."""


class ClassUsage(ApiModel):
    """Accelerators of one class, now."""

    class_name: Annotated[Name, Field(alias="class")]
    """Name of the AcceleratorClass."""
    guaranteed: Annotated[int, Field(ge=0)] = 0
    """Accelerators guaranteed."""
    used: Annotated[int, Field(ge=0)] = 0
    """Accelerators held, borrowed ones included."""
    borrowed: Annotated[int, Field(ge=0)] = 0
    """Of these, beyond the guarantee."""
    lent: Annotated[int, Field(ge=0)] = 0
    """Accelerators of the guarantee that others hold."""
    waiting: Annotated[int, Field(ge=0)] = 0
    """Accelerators asked for and not admitted."""


class TokenWindow(ApiModel):
    """Tokens of one limit."""

    window: Literal["minute", "day", "month"]
    """Which limit."""
    used: Annotated[int, Field(ge=0)] = 0
    """Tokens, weighted by cost, used or reserved by running requests."""
    limit: Annotated[int, Field(ge=0)] = 0
    """The limit; 0 = none."""
    resets_at: datetime | None = None
    """When the window ends."""


class GatewayTokens(ApiModel):
    """What one process of a gateway counted of a month, as far as the sums contain it."""

    boot: Annotated[str, Field(max_length=64)]
    """Of the process."""
    input_tokens: Annotated[int, Field(ge=0)] = 0
    """Prompt tokens computed."""
    cached_tokens: Annotated[int, Field(ge=0)] = 0
    """Prompt tokens found in a cache."""
    output_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens generated."""


class MonthlyUsage(ApiModel):
    """What was used in a calendar month (UTC), for accounting."""

    month: Annotated[str, Field(max_length=7, pattern=r"^([0-9]{4}-[0-9]{2})?$")] = ""
    """The month, for example 2026-11."""
    gpu_seconds: Annotated[int, Field(ge=0)] = 0
    """Seconds for which accelerators were held, summed over accelerators."""
    counted_until: datetime | None = None
    """The time up to which gpuSeconds counts: it is written now and then only."""
    input_tokens: Annotated[int, Field(ge=0)] = 0
    """Prompt tokens computed."""
    cached_tokens: Annotated[int, Field(ge=0)] = 0
    """Prompt tokens found in a cache."""
    output_tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens generated."""
    gateways: Annotated[tuple[GatewayTokens, ...], Field(max_length=64), ListMap(("boot",))] = ()
    """How far the sums contain what each gateway counted, so that another operator goes on from there."""


class TenantStatus(ApiModel):
    """What is true now."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The generation that this status speaks about."""
    accelerators: Annotated[str, Field(max_length=32)] = ""
    """Accelerators held and guaranteed, all classes together, for people: 6/8."""
    borrowed: Annotated[int, Field(ge=0)] = 0
    """Accelerators held beyond the guarantees, all classes together."""
    lent: Annotated[int, Field(ge=0)] = 0
    """Accelerators of the guarantees that others hold."""
    waiting: Annotated[int, Field(ge=0)] = 0
    """Accelerators asked for and not admitted."""
    share: Annotated[float, Field(ge=0)] = 0
    """Borrowed part of the cluster, by the classes' cost, divided by `weight`: the lower one is served first."""
    usage: Annotated[tuple[ClassUsage, ...], Field(max_length=32), ListMap(("class",))] = ()
    """Accelerators by class."""
    tokens: Annotated[tuple[TokenWindow, ...], Field(max_length=3), ListMap(("window",))] = ()
    """Tokens by limit."""
    this_month: MonthlyUsage = MonthlyUsage()
    """What was used in this month."""
    conditions: Conditions = ()
    """NamespacesOwned, Guaranteed, IsolationReady, QuotaCounted and their aggregate Ready."""


class Tenant(ApiModel):
    """A team that shares the cluster: its namespaces, its accelerators, its tokens, and what is kept apart.

    Accelerators are enforced: as soon as there is a Tenant, pods of InferencePools and FineTuneJobs on accelerators
    wait behind a scheduling gate until the quota admits them, and what was borrowed comes back by draining. Pods that
    others make are refused by the chart's admission policy; those that were there before are counted where they stand.
    The operator keeps the namespaces apart as `isolation` says; `tokens` and `models` hold for requests that come
    through the gateway.

    A Tenant that is deleted keeps its namespaces and gets nothing more until nothing is left of it; then it goes.
    """

    info: ClassVar[KindInfo] = KindInfo(
        kind="Tenant",
        plural="tenants",
        singular="tenant",
        short_names=("lten",),
        scope="Cluster",
        columns=(
            PrinterColumn("Namespaces", "string", ".spec.namespaces", "Namespaces that are this tenant's"),
            PrinterColumn("GPUs", "string", ".status.accelerators", "Accelerators held / guaranteed"),
            PrinterColumn("Borrowed", "integer", ".status.borrowed", "Accelerators beyond the guarantee"),
            PrinterColumn("Waiting", "integer", ".status.waiting", "Accelerators asked for and not admitted"),
            PrinterColumn(
                "Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why it is or is not ready"
            ),
            PrinterColumn("Cohort", "string", ".spec.cohort", "Who lends to whom", priority=1),
            PrinterColumn("Lent", "integer", ".status.lent", "Accelerators that others hold", priority=1),
            PrinterColumn("Share", "number", ".status.share", "Weighted share of what is borrowed", priority=1),
            PrinterColumn("Age", "date", ".metadata.creationTimestamp"),
        ),
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            "the name must be a DNS label of at most 63 characters (a-z, 0-9, -): it becomes a label on pods",
            field_path=".metadata.name",
        ),
    )

    api_version: Literal["llmos.dev/v1alpha1"] = API_VERSION
    kind: Literal["Tenant"] = "Tenant"
    metadata: Metadata
    spec: TenantSpec
    """What the administrator grants."""
    status: TenantStatus = TenantStatus()
    """What is true now."""
