"""Trusted proxies, and what they say about a request: its caller's address, scheme and host.

A proxy that the setting does not name is an ordinary client, and its headers are not read. Of
`X-Forwarded-For` the last address counts that is not a trusted proxy's: a client can send such a
header itself, but cannot write behind the addresses that the proxies add to it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.problems import too_many_connections

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

UNIX = "unix"
"""Names, in the setting, every proxy that connects to the unix socket."""

SCHEMES = ("http", "https")
V6_PREFIX = 64
"""One client can use all addresses of such a network."""

_PAIR = re.compile(r'\s*([\w-]+)=("(?:[^"\\]|\\.)*"|[^;,"\s]*)\s*(;|,|$)')
_HOST_AND_PORT = re.compile(r"\[(?P<v6>[^\]]*)\](?::\d+)?|(?P<v4>[\d.]+)(?::\d+)?")


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    `address` is None if it came through a unix socket, and no proxy says more. `hosts` are all
    that the request was addressed to, the one that the client named last.
    """

    address: Address | None
    scheme: str
    hosts: tuple[str, ...]
    proxied: bool


class TrustedProxies:
    """The proxies whose headers are believed."""

    def __init__(self, names: str | None) -> None:
        """Read a comma-separated list of addresses, networks, and `unix`.

        Raises:
            ValueError: one of them is none of these.
        """
        listed = split_list(names)
        self._unix = UNIX in listed
        self._networks = tuple(_network(name) for name in listed if name != UNIX)

    def __contains__(self, address: Address | None) -> bool:
        if address is None:
            return self._unix
        return any(address in network for network in self._networks)

    def caller(self, scope: Scope) -> Caller:
        """Return who sent a request: the client, or whom a trusted proxy names."""
        headers = Headers(scope=scope)
        address = peer_address(scope)
        caller = Caller(address, scope["scheme"], tuple(headers.getlist("host")), proxied=False)
        if address not in self:
            return caller
        return self._read_headers(replace(caller, proxied=True), headers)

    def _read_headers(self, caller: Caller, headers: Headers) -> Caller:
        """Return the caller that a trusted proxy names. `X-Forwarded-*` wins over `Forwarded`."""
        hops = _forwarded(headers.getlist("forwarded"))
        names = _elements(headers, "x-forwarded-for") or [hop.get("for", "") for hop in hops]
        schemes = _elements(headers, "x-forwarded-proto") or _values(hops, "proto")
        hosts = _elements(headers, "x-forwarded-host") or _values(hops, "host")
        scheme = schemes[0].lower() if schemes else ""
        return replace(
            caller,
            address=self._client(caller.address, names),
            scheme=scheme if scheme in SCHEMES else caller.scheme,
            hosts=(*caller.hosts, *reversed(hosts)),
        )

    def _client(self, address: Address | None, names: Sequence[str]) -> Address | None:
        """Return the last address that is no trusted proxy; stop at one that cannot be read."""
        for name in reversed(names):
            found = parse_address(name)
            if found is None:
                break
            address = found
            if address not in self:
                break
        return address


class LimitAddresses:
    """Middleware: answers 503 if a caller behind a proxy has too many requests in progress.

    A server counts the connections of callers that connect to it; those of a proxy are not the
    caller's.
    """

    def __init__(self, app: ASGIApp, *, proxies: TrustedProxies, limit: int) -> None:
        self._app = app
        self._proxies = proxies
        self._limit = limit
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        caller = self._proxies.caller(scope)
        if not caller.proxied or caller.address is None or caller.address in self._proxies:
            await self._app(scope, receive, send)
            return
        group = group_of(caller.address)
        app = self._app if self._open[group] < self._limit else too_many_connections("your address")
        self._open[group] += 1
        try:
            await app(scope, receive, send)
        finally:
            self._open[group] -= 1
            if not self._open[group]:
                del self._open[group]


def peer_address(scope: Scope) -> Address | None:
    """Return the address that a request came from; None for a unix socket."""
    client = scope.get("client")
    return parse_address(client[0]) if client else None


def parse_address(text: str) -> Address | None:
    """Return an address that may be in brackets and have a port; None if it is no address."""
    match = _HOST_AND_PORT.fullmatch(text.strip())
    try:
        address = ip_address((match["v6"] or match["v4"] or "") if match else text.strip())
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def group_of(address: Address) -> str:
    """Return the name under which an address is counted: itself, or its IPv6 network."""
    if isinstance(address, IPv4Address):
        return str(address)
    return str(ip_network((int(address), V6_PREFIX), strict=False))


def split_list(text: str | None) -> tuple[str, ...]:
    """Return the items of a comma-separated list."""
    return tuple(item for part in (text or "").split(",") if (item := part.strip()))


def _network(name: str) -> Network:
    try:
        return ip_network(name)
    except ValueError as error:
        raise ValueError(f"{name!r} is no address, no network and not {UNIX!r}") from error


def _elements(headers: Headers, name: str) -> list[str]:
    """Return the items of a header that may be sent several times."""
    return list(split_list(",".join(headers.getlist(name))))


def _values(hops: Iterable[dict[str, str]], name: str) -> list[str]:
    return [hop[name] for hop in hops if name in hop]


def _forwarded(headers: Sequence[str]) -> list[dict[str, str]]:
    """Return the parameters of each hop (RFC 7239).

    The last header ends with what the proxy has added. If a client has put something before it that
    cannot be read, that is all that is read.
    """
    whole = ",".join(headers)
    hops = _hops(whole)
    return _hops(whole.rpartition(",")[2]) or [] if hops is None else hops


def _hops(text: str) -> list[dict[str, str]] | None:
    """Return the hops of a header; None if it is not valid."""
    hops: list[dict[str, str]] = []
    hop: dict[str, str] = {}
    position, end = 0, ","
    while position < len(text):
        match = _PAIR.match(text, position)
        if match is None:
            return None
        name, value, end = match.groups()
        hop[name.lower()] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] == '"' else value
        position = match.end()
        if end != ";":
            hops.append(hop)
            hop = {}
    return hops if end != ";" else None
