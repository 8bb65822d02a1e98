"""API keys and the limits of their owners, and the check of the key before every API call.

A browser may send the cookie of a session instead, which stands for a key: see `service.sessions`.

The keys are in a TOML file with one table per owner. During a change of keys, an owner may have
two:

    [alice]
    sha256 = "…"                        # of the key; or a list
    max_queued_jobs = 20                # jobs that have not ended; default: no limit
    max_stored_bytes = 10_000_000_000   # uploads and results; default: no limit
    webhook_secrets = ["whsec_…"]       # each of them signs; default: no webhooks

`python -m service.keys NAME` makes a new key.
"""

import hmac
import logging
import tomllib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Annotated, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from rollout_core import logs
from rollout_core.contract import Frozen
from rollout_core.errors import RolloutError
from service.errors import SessionEnded, SessionOriginRefused, Unauthorized
from service.origins import SAFE_METHODS, is_own_page
from service.problems import problem_of
from service.sessions import OpenSession, Sessions, set_cookie, tokens_of
from service.usage import Limit, Owner, OwnerName
from service.webhook_secrets import WebhookSecret

API_PREFIX = "/v1"
"""Paths below this need a key. The others, health and documentation, show no jobs."""

SESSION_PATH = f"{API_PREFIX}/session"

OPEN_CALLS = frozenset({("DELETE", SESSION_PATH)})
"""Calls below the prefix that need no key: a session that has ended can still be left."""

CHECK_SECONDS = 1.0
"""Time between two checks whether the file has changed."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

logger = logging.getLogger(__name__)


class KeysFileError(RolloutError):
    """The file of keys cannot be read, or is not valid."""


class _Table(Frozen):
    """The table of one owner in the file."""

    sha256: Annotated[tuple[Digest, ...], Field(min_length=1)]
    max_queued_jobs: Limit = None
    max_stored_bytes: Limit = None
    webhook_secrets: tuple[WebhookSecret, ...] = Field((), repr=False)

    @field_validator("sha256", mode="before")
    @classmethod
    def _allow_one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


_Tables = TypeAdapter(dict[OwnerName, _Table], config=ConfigDict(hide_input_in_errors=True))


class ApiKeys:
    """The keys of a file; reads it again when it changes."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            KeysFileError: the file cannot be read, or is not valid.
        """
        self._path = path
        self._lock = Lock()
        self._version = _version(path)
        self._owners, self._webhook_secrets = _read(path)

    def owner(self, key: str) -> Owner | None:
        """Return the owner of a key, or None. Compares in constant time."""
        digest = digest_of(key)
        found = None
        for known, owner in self._owners:
            if hmac.compare_digest(known, digest):
                found = owner
        return found

    def named(self, name: str) -> Iterator[tuple[str, Owner]]:
        """Yield the digest of each key of this owner, with the owner."""
        return ((digest, owner) for digest, owner in self._owners if owner.name == name)

    def webhook_secrets(self, owner: str) -> tuple[str, ...]:
        """Return the secrets that sign an owner's webhooks, newest first."""
        return self._webhook_secrets.get(owner, ())

    def refresh(self) -> None:
        """Read the file again if it has changed. While it is not valid, keep the present keys.

        It may wait for a disk, so it is called in a thread, every `CHECK_SECONDS`.
        """
        with self._lock:  # a second caller waits until the new keys count
            version = _version(self._path)
            if version == self._version:
                return
            self._version = version
            try:
                self._owners, self._webhook_secrets = _read(self._path)
            except KeysFileError as error:
                message = "Cannot read the API keys again, the present ones stay valid: %s"
                logger.error(message, error)
            else:
                logger.warning("The file of API keys has changed and was read again")


class RequireKey:
    """Middleware: sets `request.state.owner`, or answers 401 without reading the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        app = self._app
        if scope["type"] == "http" and is_api_path(scope):
            is_open = (scope["method"], path_of(scope)) in OPEN_CALLS
            try:
                owner = None if is_open else authenticate(scope)
            except RolloutError as error:
                app = problem_of(error)
            else:
                scope["state"]["owner"] = owner
                if owner is not None:
                    logs.set_about(owner=owner.name)
        await app(scope, receive, send)


def digest_of(key: str) -> str:
    """Return the digest by which the file knows a key."""
    return sha256(key.encode()).hexdigest()


def path_of(scope: Scope) -> str:
    """Return the path of a request below the root path."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def is_api_path(scope: Scope) -> bool:
    """Return whether a request is for a path that shows or changes jobs."""
    return f"{path_of(scope)}/".startswith(f"{API_PREFIX}/")


def authenticate(scope: Scope) -> Owner | None:
    """Return the owner of the request's key or session, or None if the service has no keys.

    A key counts more than a session. If it is refused, the access log gets to know that.

    Raises:
        Unauthorized: the request has no key, several, or one that is not known.
        SessionEnded: it has a session instead, which does not count any more.
        SessionOriginRefused: it has a session, and may be of another page.
    """
    keys = cast(ApiKeys | None, scope["state"]["services"].keys)
    if keys is None:
        return None
    try:
        return _find_owner(scope, keys)
    except RolloutError:
        headers = Headers(scope=scope)
        is_given = "authorization" in headers or any(tokens_of(headers))
        scope["state"]["key"] = "refused" if is_given else "missing"
        raise


def _find_owner(scope: Scope, keys: ApiKeys) -> Owner:
    if key := key_of(scope):
        owner = keys.owner(key)
        if owner is None:
            raise Unauthorized("the API key is not known")
        return owner
    session = session_of(scope)
    if session is None:
        raise Unauthorized("send an API key: Authorization: Bearer KEY")
    return session.owner


def key_of(scope: Scope) -> str | None:
    """Return the API key of a request, or None if it has none.

    Raises:
        Unauthorized: it has several, or none that can be one.
    """
    given = Headers(scope=scope).getlist("authorization")
    if not given:
        return None
    scheme, _, text = given[0].partition(" ")
    key = text.strip()
    if scheme.lower() != "bearer" or len(given) > 1 or not key:
        raise Unauthorized("the API key is not known")
    return key


def session_of(scope: Scope) -> OpenSession | None:
    """Return the session of a request, or None if it has no cookie of one.

    Raises:
        SessionEnded: it has a cookie that does not count any more.
        SessionOriginRefused: the call may be of another page.
    """
    sessions = cast(Sessions, scope["state"]["services"].sessions)
    tokens = list(tokens_of(Headers(scope=scope)))
    if not tokens:
        return None
    require_own_page(scope, surely=scope["method"] not in SAFE_METHODS)
    session = sessions.find(tokens)
    if session is None:
        removal = set_cookie(scope, "", 0)
        raise SessionEnded("send the API key again, to begin another session", removal=removal)
    return session


def require_own_page(scope: Scope, *, surely: bool) -> None:
    """Check that no page of others makes a browser send this request.

    Args:
        surely: also refuse if the browser does not say which page it is.

    Raises:
        SessionOriginRefused: it may be of another page.
    """
    own = is_own_page(scope)
    if own is False:
        raise SessionOriginRefused("a page of another origin may not use this session")
    if own is None and surely:
        raise SessionOriginRefused("send the Origin of the service, or an API key")


def _version(path: Path) -> tuple[int, int, int] | None:
    """Return a value that differs when the file has changed; None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read(path: Path) -> tuple[tuple[tuple[str, Owner], ...], dict[str, tuple[str, ...]]]:
    """Return each digest with its owner, and each owner's webhook secrets."""
    try:
        with path.open("rb") as file:
            tables = _Tables.validate_python(tomllib.load(file))
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise KeysFileError(f"{path}: {place}: {error.errors()[0]['msg']}") from error
    except (OSError, ValueError) as error:
        raise KeysFileError(f"{path} cannot be read: {error}") from error
    owners = tuple(_owners(tables))
    if len({digest for digest, _ in owners}) < len(owners):
        raise KeysFileError(f"{path} contains the same key twice")
    return owners, {name: table.webhook_secrets for name, table in tables.items()}


def _owners(tables: dict[str, _Table]) -> Iterator[tuple[str, Owner]]:
    for name, table in tables.items():
        owner = Owner(name=name, **table.model_dump(exclude={"sha256", "webhook_secrets"}))
        yield from ((digest, owner) for digest in table.sha256)
