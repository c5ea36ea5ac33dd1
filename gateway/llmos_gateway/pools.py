"""What a request needs to know of a pool, its replicas and its adapters. Values, no I/O.

An adapter is a model of its own to callers, and a part of its pool to everything that counts: load, turns, holding and
budgets go by the pool. So requests for an adapter see the pool through `Pool.see`: the same pool, with the adapter's
model, the replicas that serve it, and what can be hoped for.

    replicas serve the adapter                         requests go to these, and to no others
    none does, and the pool has no replica at all      as for the pool; but an adapter that cannot be loaded before
                                                       somebody changes something wakes nobody
    none does, and it is being loaded                  they are held
    none does, because of a problem                    they are refused with the operator's words
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One replica that may get requests."""

    address: str
    """host:port of the engine."""
    control: str
    """host:port of its control port."""
    replica: str
    """Name of its pod."""


@dataclass(frozen=True, slots=True)
class HoldLimits:
    """How long and how many requests are held while no replica can take them."""

    timeout_s: float = 600.0
    max_requests: int = 1000
    max_requests_per_key: int = 200


@dataclass(frozen=True, slots=True)
class Adapter:
    """One LoRA adapter that a pool serves, or is to serve."""

    name: str
    """Of its LLMModel; engines know it by this name, too."""
    digest: str = ""
    """Of its files."""
    replicas: frozenset[str] = frozenset()
    """Pods that said that they serve it."""
    problem: str = ""
    """Why it is not loaded, in the operator's words; empty while it is loaded or being loaded."""
    is_hopeless: bool = False
    """Whether only a change of some object can mend that."""
    replaces: str = ""
    """Name of another adapter that it answers, too."""
    weight: int = 0
    """Per cent of the requests for that name that are its."""

    @property
    def identity(self) -> str:
        """Return what tells its answers from those of any other model, and of its own older files."""
        return f"{self.name}@{self.digest}"


@dataclass(frozen=True, slots=True)
class Pool:
    """One InferencePool as a request needs it; or, with `adapter`, as a request for that adapter does."""

    namespace: str
    name: str
    model: str
    """The name under which its engines serve the model, or the adapter."""
    policy: str = "auto"
    """How a replica is chosen."""
    hold: HoldLimits = HoldLimits()
    endpoints: tuple[Endpoint, ...] = ()
    """Replicas that are ready, and neither drain nor end; of an adapter, those that serve it."""
    desired: int = 0
    """Replicas that there should be, as the operator says."""
    is_scaled: bool = False
    """Whether its replicas follow the load, so that it may wake from zero."""
    problem: str = ""
    """Why no replica can come, or serve the adapter, in the operator's words."""
    is_hopeless: bool = False
    """Whether requests that no replica can take are refused at once."""
    mends_itself: bool = False
    """Whether it may be otherwise soon all the same, because the operator goes on trying."""
    start_s: float = 0.0
    """Measured time from a replica's creation to its readiness; 0 = unknown."""
    created_s: int = 0
    """Unix time."""
    context_length: int = 0
    """Longest prompt plus answer in tokens; 0 = unknown."""
    kv_cache_tokens: int = 0
    """What the KV cache of one replica holds, as planned; 0 = unknown."""
    max_sequences: int = 0
    """Sequences that an engine runs at most, where the pool says it; 0 = unknown."""
    adapters: tuple[Adapter, ...] = ()
    """What it serves beside its model, each name once."""
    adapter: Adapter | None = None
    """Whose requests see it like this; None: those for its model."""
    asked: str = ""
    """The name that callers use, where it is that of an adapter which is gone and whose place this one has taken."""

    @property
    def id(self) -> str:
        """Return the pool's name in the whole cluster."""
        return f"{self.namespace}/{self.name}"

    @property
    def adapter_name(self) -> str:
        """Return the adapter's name, empty for the pool's model."""
        return self.adapter.name if self.adapter is not None else ""

    @property
    def short_name(self) -> str:
        """Return what callers may call it in its namespace."""
        return self.asked or self.adapter_name or self.name

    @property
    def full_name(self) -> str:
        """Return the name that nothing else has: namespace/pool, or namespace/pool/adapter."""
        return f"{self.id}/{self.short_name}" if self.adapter is not None else self.id

    def see(self, adapter: Adapter) -> Pool:
        """Return the pool as requests for one of its adapters see it."""
        runs = bool(self.endpoints)
        is_own_problem = bool(adapter.problem) and (runs or (adapter.is_hopeless and not self.is_hopeless))
        return replace(
            self,
            model=adapter.name,
            adapter=adapter,
            adapters=(),
            endpoints=tuple(endpoint for endpoint in self.endpoints if endpoint.replica in adapter.replicas),
            problem=adapter.problem if runs or is_own_problem else self.problem,
            is_hopeless=is_own_problem or (self.is_hopeless and not runs),
            mends_itself=is_own_problem and not adapter.is_hopeless,
            # How long a replica takes to start says nothing about an adapter that a running one loads.
            start_s=0.0 if runs else self.start_s,
        )
