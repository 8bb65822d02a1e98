"""Traces with OpenTelemetry: spans of this process, and the trace that a job carries along.

Nothing is imported, and every call does nothing, until `configure` finds an OTLP endpoint in the
environment and the extra `telemetry` is installed. The standard variables `OTEL_*` count.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Variables that say where spans are sent. Without one of them there are no spans."""

PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"

SHUTDOWN_SECONDS = 3.0
"""A process that ends waits no longer than this for a collector that does not answer."""

Attributes = Mapping[str, str | int | float]

log = logging.getLogger(__name__)

_provider: "TracerProvider | None" = None


def configure(service: str, environment: Mapping[str, str]) -> None:
    """Send spans from now on, if the environment names an endpoint.

    A process that forks others calls it in each of them, after the fork.

    Args:
        service: name of this service in traces, unless the environment gives another.
    """
    if not any(environment.get(name) for name in ENDPOINTS):
        return
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return
    protocol = next((environment[name] for name in PROTOCOLS if environment.get(name)), HTTP)
    if protocol != HTTP:
        log.warning("no traces are sent: the protocol %s is not supported, use %s", protocol, HTTP)
        return
    try:
        use(_make_provider(service, environment))
    except ModuleNotFoundError as error:
        log.warning(
            "no traces are sent: an OTLP endpoint is set, but the extra 'telemetry' is not "
            "installed: pip install 'timesformer-rollout[telemetry]' (no module named '%s')",
            error.name,
        )


def use(provider: "TracerProvider | None") -> None:
    """Make spans with this provider from now on; None: make none."""
    global _provider
    _provider = provider


def provider() -> "TracerProvider | None":
    """Return what makes spans, or None if nothing does."""
    return _provider


def shut_down() -> None:
    """Send what is left, for `SHUTDOWN_SECONDS` at most, and make no more spans."""
    if _provider is not None:
        sending = Thread(target=_provider.shutdown, name="last-spans", daemon=True)
        sending.start()
        sending.join(SHUTDOWN_SECONDS)
        use(None)


def traceparent() -> str | None:
    """Return the present span in the form of W3C Trace Context, or None without a span."""
    if _provider is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def trace_id_of(traceparent: str | None) -> str | None:
    """Return the id of the trace that a `traceparent` names; None if there is none."""
    return traceparent.split("-")[1] if traceparent else None


@contextmanager
def span(
    name: str, *, parent: str | None = None, attributes: Attributes | None = None
) -> Iterator[None]:
    """Make a span of the time inside the context, within the present span.

    Args:
        parent: the `traceparent` of a span of another process, to be within that instead.
    """
    tracer = _tracer()
    if tracer is None:
        yield
        return
    with tracer.start_as_current_span(name, _context_of(parent), attributes=attributes):
        yield


def annotate(attributes: Attributes) -> None:
    """Add attributes to the present span."""
    if _provider is not None:
        from opentelemetry import trace

        trace.get_current_span().set_attributes(dict(attributes))


def add_span(
    name: str,
    began: float,
    ended: float,
    *,
    parent: str | None = None,
    attributes: Attributes | None = None,
) -> None:
    """Make a span of a time that has passed, within the present span.

    Args:
        began: by `time.monotonic`, as `ended`.
        parent: the `traceparent` of a span of another process, to be within that instead.
    """
    tracer = _tracer()
    if tracer is not None:
        context, offset = _context_of(parent), time.time() - time.monotonic()
        start_ns, end_ns = (round((moment + offset) * 1e9) for moment in (began, ended))
        made = tracer.start_span(name, context, start_time=start_ns, attributes=attributes)
        made.end(end_ns)


def _make_provider(service: str, environment: Mapping[str, str]) -> "TracerProvider":
    """Return a provider that sends spans in batches, from a thread of its own."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {"service.name": service, "service.version": version("timesformer-rollout")}
    if environment.get("OTEL_SERVICE_NAME"):
        del named["service.name"]
    made = TracerProvider(resource=Resource.create(named))
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return made


def _tracer() -> "Tracer | None":
    return _provider.get_tracer("timesformer-rollout") if _provider else None


def _context_of(traceparent: str | None) -> "Context | None":
    if traceparent is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})
