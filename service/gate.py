"""Stands before every call of the API: where there are keys, nobody passes without one.

It looks at the head of a request alone, so that nothing is received from a stranger.
"""

from typing import cast

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Unauthorized
from service.keys import KeyRing, Owner
from service.problems import problem_of

PREFIX = "/v1"
"""What is guarded. The rest says nothing of jobs: health, and the documentation."""


class Gate:
    """Lets a request through with its owner in `request.state`, or answers 401."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        app = self._app
        if scope["type"] == "http" and f"{scope['path']}/".startswith(f"{PREFIX}/"):
            try:
                scope["state"]["owner"] = _owner(scope)
            except Unauthorized as error:
                app = problem_of(error)
        await app(scope, receive, send)


def _owner(scope: Scope) -> Owner | None:
    """Return whose key the request bears, or None where no key is needed.

    Raises:
        Unauthorized: it bears none that is known.
    """
    keys = cast(KeyRing | None, scope["state"]["services"].keys)
    if keys is None:
        return None
    given = Headers(scope=scope).getlist("authorization")
    if not given:
        raise Unauthorized("send an API key: Authorization: Bearer KEY")
    scheme, _, key = given[0].partition(" ")
    owner = keys.owner(key.strip()) if scheme.lower() == "bearer" and len(given) == 1 else None
    if owner is None:
        raise Unauthorized("this is not an API key that is known here")
    return owner
