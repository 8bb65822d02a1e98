"""Spans of HTTP requests, made by OpenTelemetry's own instrumentation of FastAPI."""

from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.types import Scope

from rollout_core import logs, tracing

if TYPE_CHECKING:
    from opentelemetry.trace import Span

EXCLUDED = "/livez,/readyz,/metrics,/page/,/docs"
"""Regular expressions of URLs without spans: they would drown the others."""


def install(app: FastAPI) -> None:
    """Make a span of each request, if traces are sent; see `rollout_core.tracing`.

    Raises:
        ModuleNotFoundError: traces are sent, but the instrumentation is not installed.
    """
    provider = tracing.provider()
    if provider is None:
        return
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=provider,
        excluded_urls=EXCLUDED,
        exclude_spans=["receive", "send"],
        server_request_hook=_join,
    )


def _join(span: "Span", _: Scope) -> None:
    """Name the request's id in its span, and the trace in the request's log lines."""
    request_id = logs.present().request_id
    if request_id is not None:
        span.set_attribute("rollout.request_id", request_id)
    logs.set_about(trace_id=f"{span.get_span_context().trace_id:032x}")
