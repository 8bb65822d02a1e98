"""Headers that tell browsers to take an answer for no more than it is."""

from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.auth import is_api_path
from service.page.files import is_page_path

WITH_FILES = ("img-src", "media-src", "connect-src")
"""What a page may do with the files of a result: show and read them."""

NO_SCRIPTS = (
    "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'"
)
"""Policy of every call of the API. A picture or a video opened in a tab needs the middle three."""

OWN_SCRIPTS = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Policy of the documentation: scripts of this service only, and none within a page."""

OWN_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Policy of the web page: its own files, and videos and pictures that it has made."""

POLICIES: tuple[tuple[Callable[[Scope], bool], str], ...] = (
    (is_api_path, NO_SCRIPTS),
    (is_page_path, OWN_PAGE),
    (lambda _: True, OWN_SCRIPTS),
)
"""The first of them that fits a request is the policy of its answer."""


def allowing(policy: str, origin: str | None) -> str:
    """Return a policy that allows files of results to come from another origin, too."""
    if origin is None:
        return policy
    directives = policy.split("; ")
    return "; ".join(
        f"{each} {origin}" if each.startswith(WITH_FILES) else each for each in directives
    )


class SecurityHeaders:
    """Middleware: adds the headers that an answer does not have yet.

    If downloads are redirected to a bucket, pages may use files from there: a policy counts for
    redirects, too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        services = scope.get("state", {}).get("services")
        policy = next(policy for fits, policy in POLICIES if fits(scope))
        policy = allowing(policy, services.link_origin if services else None)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Content-Security-Policy", policy)
                headers.setdefault("Referrer-Policy", "no-referrer")
                shared = "access-control-allow-origin" in headers
                resource_policy = "cross-origin" if shared else "same-origin"
                headers.setdefault("Cross-Origin-Resource-Policy", resource_policy)
            await send(message)

        await self._app(scope, receive, send_with_headers)
