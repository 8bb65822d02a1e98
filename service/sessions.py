"""Sessions of browsers: a signed cookie that stands for an API key.

Browsers send no `Authorization` with videos, pictures, downloads and event streams; they send
cookies with all of them. The cookie names the owner, the key and the time at which the session
ends. Nothing of it is stored: every API process that has the store's secret can check it, also
after a restart.

It names the key by an HMAC of the key's digest. So it shows neither, and the session ends with its
key. Nor is the secret enough to make a cookie: the worker, which can read it, has no digests.
"""

import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Protocol

from itsdangerous import BadData, Signer, URLSafeSerializer
from pydantic import AwareDatetime, ValidationError
from starlette.datastructures import Headers
from starlette.types import Scope

from rollout_core.contract import Frozen
from rollout_core.errors import RolloutError
from rollout_core.jobs.store import ArtifactStore
from service.usage import Owner

COOKIE = "rollout_session"
SECRET_BYTES = 32

_SIGNING: dict[str, Any] = {"key_derivation": "hmac", "digest_method": sha256}
_SECRET = re.compile(rf"[0-9a-f]{{{2 * SECRET_BYTES}}}")


class SessionSecretError(RolloutError):
    """The secret in the data directory is not valid."""


class _Keys(Protocol):
    def named(self, name: str) -> Iterable[tuple[str, Owner]]: ...


class _Claims(Frozen):
    """What a cookie says."""

    owner: str
    key: str
    ends_at: AwareDatetime


@dataclass(frozen=True)
class OpenSession:
    """A session that counts now."""

    owner: Owner
    ends_at: datetime


class Sessions:
    """Makes and checks the cookies of sessions."""

    def __init__(self, keys: _Keys, secret: str, *, ttl_seconds: float) -> None:
        self._keys = keys
        self._ttl_seconds = ttl_seconds
        self._cookies = URLSafeSerializer(secret, salt=COOKIE, signer_kwargs=_SIGNING)
        self._references = Signer(secret, salt=f"{COOKIE} key", **_SIGNING)

    def begin(self, digest: str, owner: Owner, scope: Scope) -> tuple[OpenSession, str]:
        """Return a new session for the key of this digest, and the `Set-Cookie` that begins it."""
        ends_at = datetime.now(UTC) + timedelta(seconds=self._ttl_seconds)
        claims = _Claims(owner=owner.name, key=self._reference(digest), ends_at=ends_at)
        token = str(self._cookies.dumps(claims.model_dump(mode="json")))
        return OpenSession(owner, ends_at), set_cookie(scope, token, self._ttl_seconds)

    def find(self, tokens: Iterable[str]) -> OpenSession | None:
        """Return the session of the first of these cookies that counts."""
        return next(filter(None, map(self._open, tokens)), None)

    def _open(self, token: str) -> OpenSession | None:
        try:
            claims = _Claims.model_validate(self._cookies.loads(token))
        except (BadData, ValidationError):
            return None
        if claims.ends_at <= datetime.now(UTC):
            return None
        for digest, owner in self._keys.named(claims.owner):
            if compare_digest(self._reference(digest), claims.key):
                return OpenSession(owner, claims.ends_at)
        return None

    def _reference(self, digest: str) -> str:
        return self._references.get_signature(digest).decode()


def read_secret(store: ArtifactStore) -> str:
    """Return the secret of all API processes of a store; the first one makes it.

    Raises:
        SessionSecretError: the file has something else.
    """
    secret = store.made_once("session", "secret", lambda: secrets.token_hex(SECRET_BYTES))
    if not _SECRET.fullmatch(secret):
        raise SessionSecretError(
            f"the store's session/secret has no {SECRET_BYTES} bytes in hex; remove it"
        )
    return secret


def tokens_of(headers: Headers) -> Iterator[str]:
    """Yield the cookies of sessions; a browser sends two if it has some for two paths."""
    for header in headers.getlist("cookie"):
        for pair in header.split(";"):
            name, _, value = pair.strip().partition("=")
            if name == COOKIE:
                yield value


def set_cookie(scope: Scope, token: str, max_age_seconds: float) -> str:
    """Return the value of a `Set-Cookie`; with an age of 0 it removes the cookie."""
    parts = [
        f"{COOKIE}={token}",
        f"Path={scope['root_path']}/",
        f"Max-Age={int(max_age_seconds)}",
        "HttpOnly",
        "SameSite=Strict",
    ]
    return "; ".join([*parts, "Secure"] if scope["scheme"] == "https" else parts)
