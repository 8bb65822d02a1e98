"""Which hosts and web pages a request may name, and below which path the service is mounted.

A service without keys trusts everyone who can reach it. The browser of such a person can reach it
too, and shows pages of others. Two checks keep those out: the page's own name must not lead here
(DNS rebinding: the `Host` is checked), and a page of another site must not send requests here (the
`Origin` and `Sec-Fetch-Site` are checked). With keys neither is needed: a page of another site has
no key, and a session counts for the service's own page only (see `service.auth`).
"""

import re
from collections.abc import Iterable
from contextvars import ContextVar
from typing import cast
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from rollout_core.errors import RolloutError
from service.auth import API_PREFIX, is_api_path
from service.errors import CrossSite, HostNotAllowed
from service.origins import DEFAULT_PORTS, HOST, ORIGIN, authority, normalize, opens_tab
from service.page.files import is_page_path
from service.problems import problem_of
from service.proxies import Caller, TrustedProxies, parse_address, peer_address, split_list

ANY = "*"
ALWAYS_ALLOWED = "localhost"

ROOT_PATH = r"(/[A-Za-z0-9_~-]+)+"

_root_path: ContextVar[str] = ContextVar("root_path", default="")
_ROOT_PATH = re.compile(ROOT_PATH)
_ABSOLUTE = re.compile(rb"https?://([^/]*)(.*)", re.IGNORECASE | re.DOTALL)


class AllowedHosts:
    """The host names under which the service may be called."""

    def __init__(
        self, names: str | None, *, listens_on: str, has_keys: bool, origins: str | None = None
    ) -> None:
        """Read a comma-separated list of names; `*` allows every name.

        Names of this machine alone, and addresses, are allowed without being listed: no page can
        make them its own. Without a list and with keys, every name is allowed.

        Args:
            origins: comma-separated origins whose pages may call; `*` for every page.
        """
        self._listed = frozenset(normalize(name) for name in split_list(names))
        self._origins = frozenset(origin.lower() for origin in split_list(origins))
        self._any = ANY in self._listed or (not self._listed and has_keys)
        self._allowed = self._listed | {ALWAYS_ALLOWED, normalize(listens_on)}

    def allow(self, host: str) -> bool:
        """Return whether this value of a `Host` header is allowed."""
        if self._any:
            return True
        match = HOST.fullmatch(host)
        return match is not None and (
            normalize(match[1]) in self._allowed or parse_address(match[1]) is not None
        )

    def allow_origin(self, origin: str, caller: Caller) -> bool:
        """Return whether this value of an `Origin` header is the service itself, or is listed."""
        if ANY in self._origins or origin.lower() in self._origins:
            return True
        match = ORIGIN.fullmatch(origin)
        named = HOST.fullmatch(match[2]) if match else None
        if match is None or named is None:
            return False
        if normalize(named[1]) in self._listed or ANY in self._listed:
            return True
        port = DEFAULT_PORTS[match[1]]
        return authority(match[2], port) in {authority(host, port) for host in caller.hosts[-1:]}


class CheckHosts:
    """Middleware: refuses calls of the API under another host's name or from another site's page.

    The page is refused under another host's name, too. It also puts into the scope what trusted
    proxies say of the caller.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: AllowedHosts, proxies: TrustedProxies, has_keys: bool
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._proxies = proxies
        self._has_keys = has_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        app = self._app
        if scope["type"] == "http":
            caller = self._proxies.caller(scope)
            if caller.proxied:
                client = (str(caller.address), 0) if caller.address else None
                scope = {**scope, "scheme": caller.scheme, "client": client}
            scope["state"]["caller"] = caller
            if is_api_path(scope) or is_page_path(scope):
                try:
                    self._check(scope, caller)
                except RolloutError as error:
                    app = problem_of(error)
        await app(scope, receive, send)

    def _check(self, scope: Scope, caller: Caller) -> None:
        """Check the hosts, and the page that makes the browser call.

        Raises:
            HostNotAllowed: one of the hosts is not allowed.
            CrossSite: the page is of another site.
        """
        for host in caller.hosts:
            if not self._hosts.allow(host):
                raise HostNotAllowed(
                    f"{host!r} is not a name of this service: use its address, or let the operator "
                    "set ROLLOUT_ALLOWED_HOSTS"
                )
        if self._has_keys or not is_api_path(scope):
            return
        headers = Headers(scope=scope)
        origins = headers.getlist("origin")
        if not all(self._hosts.allow_origin(origin, caller) for origin in origins):
            raise CrossSite("a page of another origin may not call this service")
        if headers.get("sec-fetch-site") == "cross-site" and not origins and not opens_tab(scope):
            raise CrossSite("a page of another site may not call this service")


class MountAt:
    """Middleware: serves below a root path, whether or not the proxy strips it from the path.

    The scope's path begins with the root path in both cases, as ASGI has it. Also accepts a target
    in absolute form: its host replaces the `Host` (RFC 9112, 3.2.2).
    """

    def __init__(
        self, app: ASGIApp, *, root_path: str, proxies: TrustedProxies | None = None
    ) -> None:
        self._app = app
        self._root_path = root_path
        self._proxies = proxies or TrustedProxies(None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            scope, root = _origin_form(scope), self._root_of(scope)
            if not f"{scope['path']}/".startswith(f"{root}/"):
                scope = {**scope, "path": root + scope["path"]}
            scope = {**scope, "root_path": root}
            _root_path.set(root)
        await self._app(scope, receive, send)

    def _root_of(self, scope: Scope) -> str:
        """Return the prefix that a trusted proxy names, if it can be one, else the setting."""
        if peer_address(scope) in self._proxies:
            named = Headers(scope=scope).getlist("x-forwarded-prefix")
            if len(named) == 1 and is_root_path(path := named[0].strip().removesuffix("/")):
                return path
        return self._root_path


def set_root_path(path: str) -> None:
    """Set the path for what the present task, and those that it starts, do without a request."""
    _root_path.set(path)


def present_root_path() -> str:
    """Return the path below which the request that is handled now sees the service."""
    return _root_path.get()


def is_root_path(path: str) -> bool:
    """Return whether the service can be mounted below a path."""
    return bool(_ROOT_PATH.fullmatch(path)) and not f"{path}/".startswith(f"{API_PREFIX}/")


def _origin_form(scope: Scope) -> Scope:
    """Return the scope of a request whose target is a path, not a URL."""
    match = _ABSOLUTE.fullmatch(scope.get("raw_path") or b"")
    if match is None:
        return scope
    host, path = match[1], match[2] or b"/"
    others = ((name, value) for name, value in _headers(scope) if name != b"host")
    return {
        **scope,
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "headers": [(b"host", host), *others],
    }


def _headers(scope: Scope) -> Iterable[tuple[bytes, bytes]]:
    return cast(Iterable[tuple[bytes, bytes]], scope["headers"])
