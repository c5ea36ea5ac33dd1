"""What is known about the engine right now: written by the supervisor and the monitor, read by the control port."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from llmos_workers.serve.watchdog import Load


@dataclass(slots=True)
class ServeState:
    """The facts behind /healthz, /readyz and /load. All of them change in one event loop only."""

    waits_for: str | None = None
    """What has to come before the engine is started."""
    is_engine_running: bool = False
    is_warm: bool = False
    """A first token has been generated."""
    hung: str | None = None
    """Why the watchdog believes that the engine hangs."""
    answers: bool = True
    """The engine answered one of the last two looks at it."""
    is_draining: bool = False
    waits_for_adapters: str | None = None
    """Which adapters come before the first request."""
    load: Load = field(default_factory=lambda: Load(0, 0, ()))
    load_at_s: float = 0.0
    """When `load` was read, on the event loop's clock; before the first time, when serve started."""
    boot: str = field(default_factory=lambda: uuid.uuid4().hex[:16])
    """Names this life of the engine, whose counters begin at zero: serve starts one engine."""
    idle_looks: int = 0
    """Looks at the engine, one after the other and up to now, that found nothing in flight."""

    @property
    def unhealthy_reason(self) -> str | None:
        """Why the container should be restarted, None if it is well."""
        if self.waits_for:
            return None
        return self.hung if self.is_engine_running else "the engine is not running"

    @property
    def unready_reason(self) -> str | None:
        """Why no request should come here, None if they may."""
        if self.waits_for or self.unhealthy_reason:
            return self.waits_for or self.unhealthy_reason
        if not self.is_warm:
            return "the engine is starting"
        if not self.answers:
            return "the engine does not answer"
        if self.waits_for_adapters and not self.is_draining:
            return self.waits_for_adapters
        return "draining" if self.is_draining else None
