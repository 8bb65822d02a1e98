"""Spans of HTTP requests, made by FastAPI's own instrumentation if traces are sent."""

from fastapi.telemetry import TelemetryConfig
from starlette.types import ASGIApp, Receive, Scope, Send

from rollout_core import logs, tracing
from service.access_log import is_quiet


def telemetry(root_path: str) -> TelemetryConfig:
    """Return what FastAPI is to do: a span of each request, and nothing else.

    Without a provider of `rollout_core.tracing` it does nothing, whatever else this process has.

    Args:
        root_path: the path below which the service is mounted.
    """
    provider = tracing.provider()
    return {
        "tracer_provider": provider,
        "tracing": provider is not None,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
        "exclude": lambda scope: is_quiet(str(scope["path"]).removeprefix(root_path)),
    }


class JoinTrace:
    """Middleware: names the request's id in its span, and the trace in the request's log lines."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, which has a span unless it is excluded."""
        carried = tracing.traceparent() if scope["type"] == "http" else None
        if carried is not None:
            logs.set_about(trace_id=tracing.trace_id_of(carried))
            # A caller may have put a key into the query; the access log has none, either.
            known = {"rollout.request_id": logs.present().request_id or "", "url.query": ""}
            tracing.annotate(known)
        await self._app(scope, receive, send)
