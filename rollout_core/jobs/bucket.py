"""A bucket of S3, or of another store that speaks its protocol.

Requests go through obstore. Credentials, region and endpoint come from the usual environment
variables: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`, or from
what the machine offers. All failures are OSErrors, as those of a disk are: callers treat both kinds
of store alike.
"""

import errno
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Self
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from rollout_core.errors import StoreUnavailable

if TYPE_CHECKING:
    from obstore import ObjectMeta

SCHEME = "s3"

PART_BYTES = 8 * 1024**2
"""Size of the parts in which large files are sent."""

PARTS_AT_A_TIME = 4

DOWNLOAD_BYTES = 1024**2
"""Most bytes of a download that are in memory. A client that reads slowly holds no request open."""

TRY_AGAIN_SECONDS = 20
"""A request that fails is tried again for this long."""

REQUEST_SECONDS = 30
"""Timeout of a request; it bounds the transfer of one part."""

CONNECT_SECONDS = 5

MAX_COPY_BYTES = 5 * 1024**3
"""The most that S3 copies with one request; what is larger passes through this machine."""

CREATE_TRIES = 5
"""An object that another writer creates may neither be created nor be found for a moment."""

CREATE_PAUSE_SECONDS = 0.1


class Object(NamedTuple):
    """An object: its key below the bucket's prefix, its size, and when it was written."""

    key: str
    bytes: int
    modified: datetime
    etag: str | None

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]


class Bucket:
    """The objects of a bucket whose keys begin with a prefix."""

    def __init__(self, name: str, prefix: str = "") -> None:
        """Use the bucket `name`; nothing is requested yet."""
        self.url = f"{SCHEME}://{name}/{prefix}".rstrip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        self._store = S3Store(
            name,
            client_options={
                "allow_http": urlsplit(endpoint).scheme == "http",
                "timeout": timedelta(seconds=REQUEST_SECONDS),
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            },
            retry_config={"retry_timeout": timedelta(seconds=TRY_AGAIN_SECONDS)},
        )

    @classmethod
    def at(cls, url: str) -> Self:
        """Return the bucket of a URL such as `s3://bucket/prefix`.

        Raises:
            ValueError: it is no such URL.
        """
        parts = urlsplit(url)
        if parts.scheme != SCHEME or not parts.netloc or parts.query or parts.fragment:
            raise ValueError(f"{url!r} is not like s3://bucket/prefix")
        return cls(parts.netloc, parts.path.strip("/"))

    def get(self, key: str) -> bytes | None:
        """Return the content of an object, None if there is none."""
        try:
            with _as_os_error(key):
                return bytes(obstore.get(self._store, self._path(key)).bytes())
        except FileNotFoundError:
            return None

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """Return the bytes of an object from `start` to before `end`, or to its own end.

        Raises:
            FileNotFoundError: there is no such object.
        """
        with _as_os_error(key):
            return bytes(obstore.get_range(self._store, self._path(key), start=start, end=end))

    def head(self, key: str) -> Object | None:
        """Return what is known about an object, None if there is none."""
        try:
            with _as_os_error(key):
                return self._object(obstore.head(self._store, self._path(key)))
        except FileNotFoundError:
            return None

    def put(
        self,
        key: str,
        content: bytes | Path | BinaryIO,
        *,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """Create or replace an object, which appears as a whole.

        Args:
            content: bytes, the path of a file, or an open one.
            attributes: headers of HTTP that come with the object when it is read by a link.
        """
        with _as_os_error(key):
            obstore.put(
                self._store,
                self._path(key),
                content,
                attributes=dict(attributes) if attributes else None,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_A_TIME,
            )

    def put_chunks(self, key: str, chunks: Iterable[bytes]) -> None:
        """Create or replace an object, which appears as a whole; nothing appears if `chunks` raise.

        The chunks may be read from the bucket: `obstore.put` could not do this while it writes.
        """
        with _as_os_error(key):
            writer = obstore.open_writer(
                self._store,
                self._path(key),
                buffer_size=PART_BYTES,
                max_concurrency=PARTS_AT_A_TIME,
            )
            for chunk in chunks:
                writer.write(chunk)
            writer.close()

    def create(self, key: str, content: bytes) -> bool:
        """Create an object unless there is one; return whether this call did.

        Of several calls at a time, one does. A request that was sent again because its answer was
        lost may find its own object: see `create_or_get`.
        """
        try:
            with _as_os_error(key):
                obstore.put(self._store, self._path(key), content, mode="create")
        except FileExistsError:
            return False
        return True

    def create_or_get(self, key: str, content: bytes) -> bytes:
        """Create an object unless there is one; return the content it has then.

        If no two calls have the same content, the caller knows by it whether it was the one that
        created the object, even if an answer was lost.
        """
        for trial in range(CREATE_TRIES):
            if trial:
                time.sleep(CREATE_PAUSE_SECONDS)
            try:
                if self.create(key, content):
                    return content
                found = self.get(key)
            except OSError:  # the answer may be lost, rather than the request
                if self.get(key) == content:
                    return content
                raise
            if found is not None:
                return found
        raise OSError(errno.EREMOTEIO, "the object can neither be created nor read", key)

    def copy(self, source: str, target: str, size: int = 0) -> None:
        """Copy an object within the bucket.

        Args:
            size: of the object, in bytes. What is too large for one request is read here.

        Raises:
            FileNotFoundError: there is no object `source`.
        """
        if size > MAX_COPY_BYTES:
            self.put_chunks(target, self.stream(source))
            return
        with _as_os_error(source):
            obstore.copy(self._store, self._path(source), self._path(target))

    def download(self, key: str, path: Path) -> None:
        """Write an object to a new file.

        Raises:
            FileNotFoundError: there is no such object.
        """
        with path.open("xb") as file:
            for chunk in self.stream(key):
                file.write(chunk)

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield the content of an object in chunks.

        Raises:
            FileNotFoundError: there is no such object.
        """
        with _as_os_error(key):
            for chunk in obstore.get(self._store, self._path(key)).stream(PART_BYTES):
                yield bytes(chunk)

    async def stream_range(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Yield the bytes of an object from `start` to before `end`, each chunk by its own request.

        Raises:
            FileNotFoundError: there is no such object.
        """
        for begin in range(start, end, DOWNLOAD_BYTES):
            length = min(DOWNLOAD_BYTES, end - begin)
            with _as_os_error(key):
                chunk = await obstore.get_range_async(
                    self._store, self._path(key), start=begin, length=length
                )
            yield bytes(chunk)

    def iterate(self, folder: str) -> Iterator[Object]:
        """Yield all objects below a folder, at any depth; S3 gives them in the order of keys."""
        with _as_os_error(folder):
            for chunk in obstore.list(self._store, self._path(folder), chunk_size=1000):
                yield from map(self._object, chunk)

    def objects(self, folder: str) -> list[Object]:
        """Return all objects below a folder, at any depth, in the order of their keys."""
        return sorted(self.iterate(folder))

    def list_children(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the names of the folders and of the objects directly in a folder."""
        with _as_os_error(folder):
            found = obstore.list_with_delimiter(self._store, self._path(folder))
        folders = [path.rpartition("/")[2] for path in found["common_prefixes"]]
        return folders, [self._object(item).name for item in found["objects"]]

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that do not exist are skipped."""
        paths = [self._path(key) for key in keys]
        if paths:
            with _as_os_error(paths[0]):
                obstore.delete(self._store, paths)

    def delete_folder(self, folder: str) -> bool:
        """Remove all objects below a folder; return whether there were any."""
        keys = [found.key for found in self.objects(folder)]
        self.delete(keys)
        return bool(keys)

    def link(self, key: str, seconds: float) -> str:
        """Return a URL at which anyone can read an object for some seconds."""
        with _as_os_error(key):
            expires_in = timedelta(seconds=seconds)
            return obstore.sign(self._store, "GET", self._path(key), expires_in)

    def check_create(self) -> None:
        """Check that `create` works here: some stores overwrite what exists.

        Raises:
            StoreUnavailable: it does not, or the bucket cannot be used.
        """
        key = f"probes/{uuid.uuid4().hex}"
        try:
            created = [self.create(key, b"1"), self.create(key, b"2")]
            self.delete([key])
        except FileNotFoundError as error:
            raise StoreUnavailable(f"{self.url} cannot be used: there is no such bucket") from error
        except OSError as error:
            raise StoreUnavailable(f"{self.url} cannot be used: {error.strerror}") from error
        if created != [True, False]:
            raise StoreUnavailable(
                f"{self.url} ignores If-None-Match, so a job could end twice; use a store that "
                "has conditional writes"
            )

    def _path(self, key: str) -> str:
        return self._prefix + key

    def _object(self, meta: "ObjectMeta") -> Object:
        key = meta["path"].removeprefix(self._prefix)
        return Object(key, meta["size"], meta["last_modified"], meta["e_tag"])


def digest(objects: Sequence[Object]) -> int:
    """Return a number that changes when an object appears, vanishes or is replaced."""
    text = repr([(found.key, found.bytes, found.etag) for found in objects])
    return int.from_bytes(sha256(text.encode()).digest()[:7])


@contextmanager
def _as_os_error(key: str) -> Iterator[None]:
    """Raise an OSError in place of an error of obstore; a missing object is a missing file."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "there is no such object", key) from error
    except (AlreadyExistsError, PreconditionError) as error:
        raise FileExistsError(errno.EEXIST, "the object exists", key) from error
    except BaseError as error:
        raise OSError(errno.EREMOTEIO, _first_line(error), key) from error


def _first_line(error: BaseError) -> str:
    """Return what obstore says, without the dump of its structures that follows."""
    return str(error).partition("\n")[0].strip() or type(error).__name__
