"""Serves `/metrics` at an address of its own, in threads of its own.

It needs no key, and is not part of the API: a proxy in front of the service cannot publish it by
mistake, and Prometheus needs no secret. It answers while the API is busy.
"""

import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server

from rollout_core.errors import RolloutError

ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})")

logger = logging.getLogger(__name__)


class AddressUnusable(RolloutError):
    """The service cannot listen at the address of the metrics."""


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT` or `[IPv6]:PORT`.

    Raises:
        ValueError: the text is none of them.
    """
    match = ADDRESS.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise ValueError("an address is HOST:PORT, such as 127.0.0.1:9100 or [::1]:9100")
    return match[1] or match[2], int(match[3])


def require_free(address: str | None) -> None:
    """Check that an address can be listened on, so that a start ends with one line.

    Raises:
        AddressUnusable: it cannot.
    """
    if address is not None:
        with naming(address):
            host, port = parse_address(address)
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            socket.create_server((host, port), family=family).close()


@contextmanager
def naming(address: str) -> Iterator[None]:
    """Raise `AddressUnusable` in place of an OSError."""
    try:
        yield
    except OSError as error:
        raise AddressUnusable(f"ROLLOUT_METRICS_ADDRESS {address}: {error.strerror}") from error


@contextmanager
def serving_metrics(address: str | None, registry: CollectorRegistry) -> Iterator[None]:
    """Serve a registry while the context lasts; without an address, do nothing.

    Raises:
        AddressUnusable: the address cannot be listened on.
    """
    if address is None:
        yield
        return
    host, port = parse_address(address)
    with naming(address):
        server, thread = start_http_server(port, host, registry)
    shown = f"[{host}]" if ":" in host else host
    logger.info("metrics at http://%s:%d/metrics", shown, server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
