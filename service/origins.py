"""Which page makes a browser send a request: the service's own, or another one.

Browsers write `Sec-Fetch-Site` and `Origin`; no page can forge them. `Sec-Fetch-Site` is sent only
to https and to this machine. `Origin` is sent with every call that changes something.
"""

import re
from typing import cast

from starlette.datastructures import Headers
from starlette.types import Scope

from service.proxies import Caller

DEFAULT_PORTS = {"http": 80, "https": 443}
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

HOST = re.compile(r"(\[[^\[\]@/\s]+\]|[^:@/\s\[\]]+)(?::(\d{0,5}))?")
ORIGIN = re.compile(r"(https?)://(.+)")


def is_own_page(scope: Scope) -> bool | None:
    """Return whether a page of the service sends the request; None if the browser says nothing.

    A person who types an address, or opens a link in a tab, is no page.
    """
    headers = Headers(scope=scope)
    site = headers.get("sec-fetch-site")
    if site == "none" or (site and site != "same-origin" and opens_tab(scope)):
        return None
    if site:
        return site == "same-origin"
    origins = headers.getlist("origin")
    return all(_is_own(origin, scope) for origin in origins) if origins else None


def opens_tab(scope: Scope) -> bool:
    """Return whether the browser opens the answer in a tab: no page can read it there."""
    headers = Headers(scope=scope)
    return (
        scope["method"] in ("GET", "HEAD")
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


def normalize(name: str) -> str:
    """Return a name as it is compared: without case, brackets, and the dot of the root."""
    return name.lower().strip("[]").removesuffix(".")


def authority(host: str, port: int) -> tuple[str, int] | None:
    """Return the name and the port; `port` if the host names none."""
    match = HOST.fullmatch(host)
    return (normalize(match[1]), int(match[2] or port)) if match else None


def _is_own(origin: str, scope: Scope) -> bool:
    """Return whether an origin is the one under which the caller sees the service."""
    caller = cast(Caller, scope["state"]["caller"])
    match = ORIGIN.fullmatch(origin)
    if match is None or match[1] != caller.scheme or not caller.hosts:
        return False
    port = DEFAULT_PORTS[match[1]]
    named = authority(match[2], port)
    return named is not None and named == authority(caller.hosts[-1], port)
