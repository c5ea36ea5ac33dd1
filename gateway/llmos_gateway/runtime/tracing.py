"""OpenTelemetry spans, only where `OTEL_EXPORTER_OTLP_ENDPOINT` (or `..._TRACES_ENDPOINT`) says where to send them.

The libraries are imported only then. Everything else (sampling, headers of the exporter, resource attributes) is set by
OpenTelemetry's own environment variables. Spans are sent by a thread in batches; a collector that is away costs no
request anything, spans beyond the queue are dropped by the library.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Final

from llmos_gateway.proxy.tracing import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer as OtelTracer

ENDPOINT_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SERVICE: Final = "llmos-gateway"
CLOSE_S: Final = 3.0


def is_tracing_wanted(environment: Mapping[str, str]) -> bool:
    """Return whether a place for spans is configured."""
    return any(environment.get(name) for name in ENDPOINT_VARIABLES)


def build_exporting_tracer() -> OtelRoadTracer:
    """Return a tracer that sends its spans to the configured place."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - see module
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    # What the environment says wins over our name.
    resource = Resource({SERVICE_NAME: SERVICE}).merge(Resource.create())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OtelRoadTracer(provider)


class OtelRoadTracer:
    """`Tracer` over OpenTelemetry."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._provider = provider
        self._tracer: OtelTracer = provider.get_tracer(SERVICE)
        self._propagator = TraceContextTextMapPropagator()

    def begin_request(self, name: str, headers: Mapping[str, str]) -> Span:
        """Begin the span of a request, as a part of the trace that its headers name."""
        from opentelemetry.trace import SpanKind  # noqa: PLC0415

        carrier = {key: headers[key] for key in ("traceparent", "tracestate") if key in headers}
        return _RoadSpan(self._tracer.start_span(name, context=self._propagator.extract(carrier), kind=SpanKind.SERVER))

    def begin_attempt(self, request: Span, headers: MutableMapping[str, str]) -> Span:
        """Begin the span of an attempt, and write into the headers that the engine's part belongs to it."""
        from opentelemetry.trace import SpanKind, set_span_in_context  # noqa: PLC0415

        parent = set_span_in_context(request.otel) if isinstance(request, _RoadSpan) else None
        span = self._tracer.start_span("attempt", context=parent, kind=SpanKind.CLIENT)
        self._propagator.inject(headers, context=set_span_in_context(span))
        return _RoadSpan(span)

    def close(self) -> None:
        """Send what is left; blocks for `CLOSE_S` at most, though the library would go on trying for longer."""
        sending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(CLOSE_S)


class _RoadSpan:
    def __init__(self, otel: OtelSpan) -> None:
        self.otel = otel

    def end(self, attributes: Mapping[str, str | int | float], error: str = "") -> None:
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

        for name, value in attributes.items():
            self.otel.set_attribute(name, value)
        if error:
            self.otel.set_status(Status(StatusCode.ERROR, error))
        self.otel.end()
