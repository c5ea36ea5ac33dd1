"""From Kubernetes objects to what the catalog holds. Pure; only what a request needs is read, the rest may be newer.

Which endpoints count: ready and not terminating (an unknown readiness counts as ready, as Kubernetes defines it), with
a port named `http` for pools and `admin` for gateways. The operator takes the serving label from a replica that drains,
so it leaves the Service and its slices before it ends. A pod that stands in slices of both address families counts
once, with its IPv4 address.

Whether there is hope: a pool without a replica may get one unless its owner fixed the number at 0, it is being deleted,
or its Ready condition gives a reason that waits for a change (`retry: on-change` in the table of reasons). A model that
is not ready yet is such a reason and yet will mend by itself as a rule, so requests are held for it. A condition about
an older generation of the object says nothing: the change may just have been made. The same table judges the reason of
an adapter; one that it does not have is a problem that may mend by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, get_args

from pydantic import ValidationError

from llmos.api.apikeys import InvalidKeySecret, read_key_secret
from llmos.api.inferencepool import Hold, Routing
from llmos.api.names import (
    COMPONENT_GATEWAY,
    CONDITION_READY,
    CONTROL_PORT,
    LABEL_COMPONENT,
    LABEL_POOL,
)
from llmos.api.reasons import REASONS, Reason
from llmos.api.tenancy import read_claim
from llmos.api.tenant import Tenant
from llmos_gateway.catalog import Adapter, Endpoint, HoldLimits, Pool
from llmos_gateway.keys import ApiKey, build_api_key
from llmos_gateway.protocol.errors import has_internals
from llmos_gateway.tenants import Sealed

Object = Mapping[str, Any]

POLICIES: Final = frozenset(get_args(Routing.model_fields["policy"].annotation))
_logger = logging.getLogger(__name__)
_CLAIMED: Final = ("name", "uid", "creationTimestamp", "deletionTimestamp")
"""Of the metadata of a Tenant that cannot be read."""
_FAMILIES: Final = ("IPv4", "IPv6")
_POOL_PORT: Final = "http"
_GATEWAY_PORT: Final = "admin"
_MENDS_ITSELF: Final = frozenset({Reason.ModelNotReady})
_LOADED_OR_LOADING: Final = frozenset({"", "Loaded", "Loading", *_MENDS_ITSELF})


@dataclass(frozen=True, slots=True)
class Slice:
    """Part of the endpoints of a pool, or of the gateways of a namespace."""

    pool_id: str
    """Empty for gateways."""
    namespace: str
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class _Outlook:
    """What a pool without replicas can expect."""

    problem: str = ""
    is_hopeless: bool = False


def parse_pool(item: Object) -> Pool:
    """Return what an InferencePool says, without endpoints."""
    metadata, spec, status = item["metadata"], item["spec"], item.get("status") or {}
    hold = Hold.model_validate(spec.get("hold") or {})
    policy = (spec.get("routing") or {}).get("policy") or Routing().policy
    scaling = spec.get("scaling")
    outlook, plan = _read_outlook(item), status.get("plan") or {}
    return Pool(
        namespace=metadata["namespace"],
        name=metadata["name"],
        model=spec["modelRef"]["name"],
        policy=policy if policy in POLICIES else Routing().policy,
        hold=HoldLimits(float(hold.timeout_seconds), hold.max_requests, hold.max_requests_per_key),
        desired=int(status.get("desiredReplicas") or 0),
        is_scaled=scaling is not None and scaling.get("mode", "active") == "active",
        problem=outlook.problem,
        is_hopeless=outlook.is_hopeless,
        start_s=float(((status.get("scaling") or {}).get("capacity") or {}).get("startSeconds") or 0),
        created_s=int(datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()),
        context_length=int(plan.get("maxModelLen") or 0),
        kv_cache_tokens=int(plan.get("kvCacheTokens") or 0),
        max_sequences=_read_max_sequences(spec),
        adapters=_read_adapters(item),
    )


def _read_max_sequences(spec: Object) -> int:
    said = ((spec.get("engine") or {}).get("args") or {}).get("max-num-seqs")
    return int(str(said)) if str(said).isdecimal() else 0


def _read_adapters(item: Object) -> tuple[Adapter, ...]:
    """Return the adapters, without any that callers and engines would take for the pool's model."""
    model = item["spec"]["modelRef"]["name"]
    adapters: dict[str, Adapter] = {}
    for entry in (item.get("status") or {}).get("adapters") or ():
        adapter = _read_adapter(entry)
        if adapter.name == model:
            _logger.error("%s is left out as an adapter of the pool that serves it as its model.", model)
        elif adapter.name:
            adapters.setdefault(adapter.name, adapter)
    return tuple(adapters.values())


def _read_adapter(entry: Object) -> Adapter:
    reason, message = str(entry.get("reason") or ""), str(entry.get("message") or "")
    info = REASONS[Reason(reason)] if reason in Reason.__members__ else None
    adapter = Adapter(
        str(entry.get("name") or ""),
        str(entry.get("digest") or ""),
        frozenset(entry.get("replicas") or ()),
        replaces=str(entry.get("replaces") or ""),
        weight=int(entry.get("weight") or 0),
    )
    if reason in _LOADED_OR_LOADING or (info is not None and not info.problem):
        return adapter
    # A replica's own words may name what callers must not see.
    said = message if message and not has_internals(message) else (info.cause if info is not None else "")
    is_hopeless = info is not None and info.retry == "on-change"
    return replace(adapter, problem=f"{reason}: {said}".removesuffix(": "), is_hopeless=is_hopeless)


def _read_outlook(item: Object) -> _Outlook:
    metadata, spec = item["metadata"], item["spec"]
    if metadata.get("deletionTimestamp"):
        return _Outlook("It is being deleted.", is_hopeless=True)
    if spec.get("replicas") == 0:
        return _Outlook("Its spec.replicas is 0: raise it, or let it scale by load.", is_hopeless=True)
    ready = _find_ready(item)
    reason = ready.get("reason", "")
    is_judged = int(ready.get("observedGeneration") or 0) >= int(metadata.get("generation") or 0)
    if ready.get("status") == "True" or not is_judged or reason not in Reason.__members__:
        return _Outlook()
    info = REASONS[Reason(reason)]
    if not info.problem:
        return _Outlook()
    is_hopeless = info.retry == "on-change" and Reason(reason) not in _MENDS_ITSELF
    return _Outlook(ready.get("message") or info.cause, is_hopeless=is_hopeless)


def _find_ready(item: Object) -> Object:
    conditions = (item.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c.get("type") == CONDITION_READY), {})


def parse_slice(item: Object) -> Slice:
    """Return which endpoints of an EndpointSlice may get requests."""
    metadata = item["metadata"]
    namespace, labels = metadata["namespace"], metadata["labels"]
    is_gateway = labels.get(LABEL_COMPONENT) == COMPONENT_GATEWAY
    pool = "" if is_gateway else labels[LABEL_POOL]
    wanted = _GATEWAY_PORT if is_gateway else _POOL_PORT
    port = next((p.get("port") for p in item.get("ports") or () if p.get("name") == wanted), None)
    is_usable = port is not None and item.get("addressType") in _FAMILIES
    return Slice(
        pool_id=f"{namespace}/{pool}" if pool else "",
        namespace=namespace,
        endpoints=tuple(
            _build_endpoint(endpoint, int(port or 0))
            for endpoint in (item.get("endpoints") or () if is_usable else ())
            if _is_ready(endpoint.get("conditions") or {})
        ),
    )


def _is_ready(conditions: Object) -> bool:
    return conditions.get("ready") is not False and not conditions.get("terminating")


def _build_endpoint(endpoint: Object, port: int) -> Endpoint:
    host = endpoint["addresses"][0]
    host = f"[{host}]" if ":" in host else host
    return Endpoint(f"{host}:{port}", f"{host}:{CONTROL_PORT}", (endpoint.get("targetRef") or {}).get("name") or host)


def merge_slices(slices: Iterable[Slice]) -> tuple[Endpoint, ...]:
    """Return all endpoints of some slices in a fixed order, each replica once."""
    by_replica: dict[str, Endpoint] = {}
    for endpoint in sorted((e for s in slices for e in s.endpoints), key=_family_and_address):
        by_replica.setdefault(endpoint.replica, endpoint)
    return tuple(by_replica.values())


def _family_and_address(endpoint: Endpoint) -> tuple[bool, str]:
    return endpoint.address.startswith("["), endpoint.address


def parse_key(item: Object) -> ApiKey:
    """Return whom a Secret lets in.

    Raises:
        InvalidKeySecret: it claims to hold a key and does not.
    """
    return build_api_key(read_key_secret(item))


def parse_sharing(item: Object) -> frozenset[str]:
    """Return the tenants that an LLMModel is shared with."""
    return frozenset(str(name) for name in item["spec"].get("sharedWith") or ())


def parse_tenant(item: Object) -> Tenant | Sealed:
    """Return what an administrator grants, without its status; only the claim of what a newer version wrote.

    Raises:
        ValidationError: not even the claim can be read; a ValueError, so that the Tenant counts as absent.
    """
    try:
        return Tenant.model_validate({"metadata": item["metadata"], "spec": item["spec"]})
    except ValidationError as error:
        # The uid, too: its tokens are counted by it, and without it what it has used would look like another one's.
        known = {name: item["metadata"][name] for name in _CLAIMED if name in item["metadata"]}
        claim = read_claim({"metadata": known, "spec": item.get("spec")})
        if claim is None:
            raise
        _logger.error("Tenant %s cannot be read, so its keys and its namespaces are shut: %s", known["name"], error)
        return Sealed(claim)


__all__ = [
    "InvalidKeySecret",
    "Slice",
    "merge_slices",
    "parse_key",
    "parse_pool",
    "parse_sharing",
    "parse_slice",
    "parse_tenant",
]
