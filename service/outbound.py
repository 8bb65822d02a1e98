"""Outgoing HTTP that cannot be turned against the operator's network.

Clients name URLs that the service calls. A name is resolved once, every address found is checked,
and the connection goes to exactly a checked address: a second look-up could give another one (DNS
rebinding). Redirects are not followed, and proxies of the environment are not used. Private
addresses are reached only under host names that the operator lists.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from threading import Thread
from urllib.parse import urlsplit

import httpx2

from rollout_core.errors import RolloutError

Address = IPv4Address | IPv6Address

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Returns the addresses of a host, given its name and the port."""

DEFAULT_PORTS = {"http": 80, "https": 443}

RESOLVE_SECONDS = 5.0
CONNECT_SECONDS = 5.0

TRIED_ADDRESSES = 3
"""Of a host with more addresses, this many are tried."""

_URL = re.compile(r"[!-\[\]-~]+")  # printable ASCII without the backslash, which some read as /
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:@\[\]%]+)(:[0-9]{1,5})?")
_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}")

_GLOBAL = IPv6Network("2000::/3")

_NAT64 = IPv6Network("64:ff9b::/96")

_NOT_PUBLIC = tuple(
    map(
        IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
            *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
            *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        ),
    )
)

_NOT_PUBLIC_6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))

_PRIVATE: tuple[IPv4Network | IPv6Network, ...] = (
    *map(
        IPv4Network,
        ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
    ),
    *map(IPv6Network, ("::1/128", "fc00::/7")),
)
"""What a listed private host may resolve to. Link-local ones, where clouds tell secrets, are not
among them."""


class AddressRefused(RolloutError):
    """The service must not call this URL, or its host has no address."""


class HostUnknown(AddressRefused):
    """The host's name cannot be resolved at present."""


@dataclass(frozen=True)
class Target:
    """A URL that has been parsed strictly.

    Attributes:
        host: in lower case, without the brackets of an IPv6 address.
        path: with the query.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = _bracketed(self.host)
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def url_at(self, address: Address) -> str:
        """Return the URL with an address in place of the host."""
        return f"{self.scheme}://{_bracketed(str(address))}:{self.port}{self.path}"


def parse_url(url: str) -> Target:
    """Parse a URL.

    Raises:
        AddressRefused: it is not a plain http or https URL with a host.
    """
    if not _URL.fullmatch(url):
        raise AddressRefused("the URL has characters that are not allowed; encode them")
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").lower().removesuffix(".")
    except ValueError as error:
        raise AddressRefused(f"the URL is not valid: {error}") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise AddressRefused("the URL must begin with https:// or http://")
    if "@" in parts.netloc:
        raise AddressRefused("the URL must not contain a user name or a password")
    if port == 0 or not _AUTHORITY.fullmatch(parts.netloc):
        raise AddressRefused("the host or the port of the URL is not valid")
    if literal_address(host) is None and not _NAME.fullmatch(host):
        raise AddressRefused("the URL has no valid host name; write others than ASCII as xn--…")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], path)


def literal_address(host: str) -> Address | None:
    """Return the address that a host is written as, or None if it is a name.

    Resolvers also take one to four decimal, octal or hexadecimal numbers as an IPv4 address.
    """
    if ":" in host or not _NUMERIC.fullmatch(host):
        with suppress(ValueError):
            return ip_address(host)
        return None
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


class Hosts:
    """A list of hosts: `name`, `.suffix` for all names below it, either with `:port`, or `*`."""

    def __init__(self, names: str | None) -> None:
        """Read a comma-separated list.

        Raises:
            ValueError: an entry is not valid.
        """
        self._entries = [_parse_entry(name) for name in (names or "").split(",") if name.strip()]

    def __bool__(self) -> bool:
        return bool(self._entries)

    def allow(self, target: Target) -> bool:
        """Return whether the host and port of a URL are listed."""
        return any(
            port in (None, target.port) and _matches(entry, target.host)
            for entry, port in self._entries
        )


def is_public(address: Address) -> bool:
    """Return whether an address is on the public internet, also those embedded in it."""
    inner = _embedded(address)
    if inner:
        return all(map(is_public, inner))
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC)
    return address in _GLOBAL and not any(address in network for network in _NOT_PUBLIC_6)


def is_private(address: Address) -> bool:
    """Return whether an address is of a private network or of this machine."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in _PRIVATE if network.version == address.version)


class Outbound:
    """Sends requests to URLs that clients have named."""

    def __init__(
        self,
        private_hosts: Hosts,
        *,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Reach private addresses only under `private_hosts`.

        Args:
            tls: default: verifies certificates against the known authorities.
        """
        self._private_hosts = private_hosts
        self._resolve = resolve or resolve_in_thread
        self._tls = tls or httpx2.create_ssl_context(trust_env=False)

    def check_literal(self, target: Target) -> None:
        """Check a host that is written as an address. Names are checked when they are resolved.

        Raises:
            AddressRefused: it is not allowed.
        """
        address = literal_address(target.host)
        if address is not None:
            self._check(target, address)

    async def addresses(self, target: Target) -> list[Address]:
        """Resolve a host once, and check each address.

        Raises:
            HostUnknown: it has no address, or the look-up took longer than `RESOLVE_SECONDS`.
            AddressRefused: one of its addresses is not allowed.
        """
        literal = literal_address(target.host)
        if literal is not None:
            found = [literal]
        else:
            try:
                async with asyncio.timeout(RESOLVE_SECONDS):
                    texts = await self._resolve(target.host, target.port)
            except (OSError, TimeoutError) as error:
                raise HostUnknown(f"the host {target.host} cannot be resolved") from error
            found = [ip_address(text) for text in dict.fromkeys(texts)]
        if not found:
            raise HostUnknown(f"the host {target.host} has no address")
        for address in found:
            self._check(target, address)
        return found

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        idle_seconds: float = 10.0,
    ) -> AsyncIterator[httpx2.Response]:
        """Send a request, and yield the answer before its body; read that with `aiter_raw`.

        The caller bounds the size of the body and the time for it all. A redirect is an answer.

        Args:
            idle_seconds: longest wait for each part of the answer.

        Raises:
            AddressRefused: the URL must not be called.
            httpx2.HTTPError: the host cannot be reached, or the transfer failed.
        """
        target = parse_url(url)
        addresses = (await self.addresses(target))[:TRIED_ADDRESSES]
        timeout = httpx2.Timeout(idle_seconds, connect=CONNECT_SECONDS)
        fixed = {"Host": target.authority, "Accept-Encoding": "identity", "Connection": "close"}
        # The transport is used without a client, which would log the URL: it may hold a secret. A
        # connection is used once: a kept one may have been verified for another name.
        async with httpx2.AsyncHTTPTransport(verify=self._tls, trust_env=False) as transport:
            for address in addresses:
                request = httpx2.Request(
                    method,
                    target.url_at(address),
                    headers={**(headers or {}), **fixed},
                    content=content,
                    extensions={"sni_hostname": target.host, "timeout": timeout.as_dict()},
                )
                try:
                    response = await transport.handle_async_request(request)
                except (httpx2.ConnectError, httpx2.ConnectTimeout):
                    if address == addresses[-1]:
                        raise
                else:
                    break
            try:
                yield response
            finally:
                await response.aclose()

    def _check(self, target: Target, address: Address) -> None:
        if is_public(address):
            return
        if is_private(address) and self._private_hosts.allow(target):
            return
        raise AddressRefused(f"the host {target.host} is not on the public internet")


async def resolve_in_thread(host: str, port: int) -> list[str]:
    """Return the addresses of a host from the system's resolver.

    Each look-up has a thread of its own, which no shutdown waits for: a dead name server may hold
    it for half a minute.

    Raises:
        OSError: the host is not known.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def report(addresses: list[str], error: OSError | None) -> None:
        if found.done():
            return
        if error:
            found.set_exception(error)
        else:
            found.set_result(addresses)

    def look_up() -> None:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer: tuple[list[str], OSError | None] = ([str(info[4][0]) for info in infos], None)
        except UnicodeError:  # a label is too long
            answer = [], OSError(f"{host} is not a host name")
        except OSError as error:
            answer = [], error
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(report, *answer)

    Thread(target=look_up, name="resolver", daemon=True).start()
    return await found


def _embedded(address: Address) -> list[IPv4Address]:
    """Return the IPv4 addresses to which a translator or tunnel would pass an IPv6 one on."""
    if isinstance(address, IPv4Address):
        return []
    if address in _NAT64:
        return [IPv4Address(int(address) & 0xFFFFFFFF)]
    return [
        inner
        for inner in (address.ipv4_mapped, address.sixtofour, *(address.teredo or ()))
        if inner is not None
    ]


def _parse_entry(text: str) -> tuple[str, int | None]:
    name = text.strip().lower()
    if name in ("*", ""):
        return name, None
    suffix = name.startswith(".")
    try:
        parts = urlsplit(f"//{name.removeprefix('.')}")
        host, port = (parts.hostname or "").removesuffix("."), parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is not a host name") from error
    literal = literal_address(host)
    if parts.path or "@" in parts.netloc or (literal is None and not _NAME.fullmatch(host)):
        raise ValueError(f"{text!r} is not a host name")
    return (f".{host}" if suffix else str(literal or host)), port


def _matches(entry: str, host: str) -> bool:
    if entry == "*":
        return True
    if entry.startswith("."):
        return host.endswith(entry)
    return entry == str(literal_address(host) or host)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
