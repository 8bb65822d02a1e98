"""API keys: who may call, and how much they may use, as a file says.

The file is TOML, a table for each name; a name may have two keys while one replaces the other:

    [alice]
    sha256 = "…"                        # of the key; or a list
    max_queued_jobs = 20                # jobs that have not ended; default: no limit
    max_stored_bytes = 10_000_000_000   # uploads and results; default: no limit

`python -m service.auth NAME` makes a new key. Keys are 32 random bytes, so that a plain digest
keeps them as safe as a slow one would.
"""

import hmac
import logging
import secrets
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Annotated, cast

from pydantic import Field, TypeAdapter, ValidationError, field_validator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from rollout_core.contract import Frozen
from rollout_core.errors import RolloutError
from service.errors import Unauthorized
from service.problems import problem_of
from service.usage import Limit, Owner, OwnerName

CHECK_SECONDS = 1.0
"""How long a look at the file counts."""

KEY_BYTES = 32

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

logger = logging.getLogger(__name__)


class KeysFileError(RolloutError):
    """The file of keys cannot be read, or is not in the form it must have."""


class _Table(Frozen):
    """What the file says of a name."""

    sha256: Annotated[tuple[Digest, ...], Field(min_length=1)]
    max_queued_jobs: Limit = None
    max_stored_bytes: Limit = None

    @field_validator("sha256", mode="before")
    @classmethod
    def _allow_one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


_Tables = TypeAdapter(dict[OwnerName, _Table])


class ApiKeys:
    """The keys of a file, read again when it changes."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file.

        Raises:
            KeysFileError: it cannot be used.
        """
        self._path = path
        self._clock = clock
        self._checked_at = clock()
        self._version = _version(path)
        self._owners = _read(path)

    def owner(self, key: str) -> Owner | None:
        """Return whose key it is, or None. The time it takes does not tell how near it came."""
        self._refresh()
        digest = sha256(key.encode()).hexdigest()
        found = None
        for known, owner in self._owners:
            if hmac.compare_digest(known, digest):
                found = owner
        return found

    def _refresh(self) -> None:
        """Take over a file that has changed; while it cannot be used, the keys stay as they are."""
        now = self._clock()
        if now - self._checked_at < CHECK_SECONDS:
            return
        self._checked_at = now
        version = _version(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            self._owners = _read(self._path)
        except KeysFileError as error:
            logger.error("The API keys stay as they are: %s", error)
        else:
            logger.warning("The API keys were read again")


def _version(path: Path) -> tuple[int, int, int] | None:
    """Return what differs when the file has changed; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read(path: Path) -> tuple[tuple[str, Owner], ...]:
    """Return each digest and its owner."""
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
        raise KeysFileError(f"{path} has one key twice")
    return owners


def _owners(tables: dict[str, _Table]) -> Iterator[tuple[str, Owner]]:
    for name, table in tables.items():
        owner = Owner(name=name, **table.model_dump(exclude={"sha256"}))
        yield from ((digest, owner) for digest in table.sha256)


def main(arguments: list[str] | None = None) -> None:
    """Make a key: print its table for the file, and on standard error the key itself."""
    names = sys.argv[1:] if arguments is None else arguments
    try:
        (name,) = names
        owner = Owner(name=name)
    except ValueError:
        sys.exit("usage: python -m service.auth NAME   (letters, digits, - and _)")
    key = secrets.token_urlsafe(KEY_BYTES)
    sys.stdout.write(f'[{owner.name}]\nsha256 = "{sha256(key.encode()).hexdigest()}"\n')
    sys.stdout.flush()
    sys.stderr.write(f"The key of {owner.name}, which is kept nowhere: {key}\n")


PREFIX = "/v1"
"""What is guarded. The rest says nothing of jobs: health, and the documentation."""


class RequireKey:
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
    keys = cast(ApiKeys | None, scope["state"]["services"].keys)
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


if __name__ == "__main__":
    main()
