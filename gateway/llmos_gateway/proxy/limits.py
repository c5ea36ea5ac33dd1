"""Every bound of the road, in one value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may take. What a pool says itself (how long and how many are held) stands in its `spec.hold`."""

    max_body_bytes: int = 32 * 1024 * 1024
    max_bodies_bytes: int = 512 * 1024 * 1024
    """All bodies together that wait for their answer to begin."""
    max_in_flight: int = 5000
    """Requests at the same time, held ones included."""
    body_timeout_s: float = 60.0
    """From the head of a request to the end of its body."""
    request_timeout_s: float = 3600.0
    """From the head of a request to the end of its answer."""
    connect_timeout_s: float = 2.0
    """To open a connection to a replica, the look-up of its name included."""
    pool_timeout_s: float = 10.0
    """To get a connection to a replica at all, where as many are open as may be."""
    engine_keepalive_s: float = 4.0
    """An idle connection to a replica is closed after this; shorter than uvicorn's 5 s, so that the engine seldom
    closes one that is just being used."""
    max_connections_per_replica: int = 4096
    max_attempts: int = 8
    """Times that a request is sent at all, or tried to."""
    max_losses: int = 2
    """Replicas that may be lost with a request before it is given up: it may be the one that kills them."""
    retry_pause_s: float = 0.05
    """Before a replica is tried a second time; doubles up to `max_retry_pause_s`."""
    max_retry_pause_s: float = 1.0
    max_buffered_bytes: int = 4 * 1024 * 1024
    """An answer that is no stream is read to its end before it is sent, so that it can be had from another replica; a
    larger one passes as it comes."""
    comment_after_s: float = 5.0
    """A stream without a first token begins with a comment after this; until then a failure has a status of its own."""
    comment_every_s: float = 10.0
