"""The URL of Redis, and the clients that it gives: service and worker open all of theirs here.

    redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]
    rediss://…                                        the same with TLS
    unix:///PATH/TO/SOCKET[?db=DATABASE]
    redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/MASTER[/DATABASE]
    rediss+sentinel://…                               with TLS, to the sentinels, too

Options of redis-py follow after a question mark, such as `ssl_ca_certs=/ca.pem`. USER and PASSWORD
are those of the Redis servers; `sentinel_username` and `sentinel_password` are for the sentinels.

No error and no `repr` shows a password.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import SplitResult, urlsplit

from redis import BlockingConnectionPool, ConnectionPool, Redis
from redis import asyncio as aioredis
from redis.asyncio import sentinel as aiosentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from rollout_core.jobs.redis_credentials import Credentials, read_password

SENTINEL_SUFFIX = "+sentinel"
SENTINEL_PORT = 26379

SENTINEL_TIMEOUTS = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
"""Seconds that one sentinel has for its answer; then the next one is asked."""

TLS_DEFAULTS = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
"""Older releases of redis-py do not check the name of the host unless they are told to."""

FILE_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")

ASYNC_CONNECTIONS: Mapping[str, type[aioredis.connection.AbstractConnection]] = {
    "redis": aioredis.Connection,
    "rediss": aioredis.SSLConnection,
    "unix": aioredis.UnixDomainSocketConnection,
}


@dataclass(frozen=True)
class SentinelGroup:
    """The sentinels that know which server is the master, by the name of the master."""

    master: str
    addresses: tuple[tuple[str, int], ...]
    options: Mapping[str, Any] = field(repr=False)


class BlockingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """A `BlockingConnectionPool` of the master that the sentinels name."""

    def owns_connection(self, connection: Any) -> bool:
        """Close a connection to another server than the present master, and keep its place.

        redis-py would replace the connection, but never forget it in a pool of this kind.
        """
        if self.master_address != (connection.host, connection.port):
            connection.disconnect()
        return bool(BlockingConnectionPool.owns_connection(self, connection))


@dataclass(frozen=True)
class RedisUrl:
    """Where Redis is, and how to log in.

    Attributes:
        scheme: redis, rediss or unix; with sentinels that of the servers.
        options: of each connection, as redis-py names them.
        sentinels: None if the URL names the server itself.
    """

    scheme: str
    options: Mapping[str, Any] = field(repr=False)
    sentinels: SentinelGroup | None = None

    @classmethod
    def parse(cls, text: str, password_file: Path | None = None) -> Self:
        """Read a URL.

        Args:
            password_file: has the password, if the URL has none.

        Raises:
            ValueError: the URL or the file cannot be used. The message shows no password.
        """
        scheme = text.partition("://")[0].lower()
        if scheme not in SCHEMES:
            raise ValueError(f"the URL must begin with one of {', '.join(SCHEMES)}, then ://")
        if scheme.endswith(SENTINEL_SUFFIX):
            url = cls._parse_sentinels(scheme.removesuffix(SENTINEL_SUFFIX), text, password_file)
        else:
            url = cls(scheme, _options(scheme, text, password_file))
        url._check_options()
        return url

    @classmethod
    def _parse_sentinels(cls, scheme: str, text: str, password_file: Path | None) -> Self:
        login, hosts, path, query = _split_sentinels(text.partition("://")[2])
        master, _, database = path.partition("/")
        if not master:
            raise ValueError(f"the URL must name the master: {scheme}+sentinel://HOST/MASTER")
        options = _options(scheme, f"{scheme}://{login}/{database}{query}", password_file)
        options.pop("host", None)
        own = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
        shared = {name: value for name, value in options.items() if name.startswith("ssl_")}
        if scheme == "rediss":
            shared["ssl"] = True
        if own["password"] is not None:
            shared["credential_provider"] = Credentials(own["username"], own["password"])
        addresses = tuple(_address(host) for host in hosts.split(","))
        return cls(scheme, options, SentinelGroup(master, addresses, shared))

    def open(self, pool: type[ConnectionPool] = ConnectionPool, /, **options: Any) -> Redis:
        """Return a client; it connects at its first call.

        Args:
            pool: `ConnectionPool` or `BlockingConnectionPool`.
            options: of the pool and its connections; those of the URL count more.
        """
        given = {**options, **self._connection_options()}
        if self.sentinels is None:
            return Redis.from_pool(pool(**given))
        group = self.sentinels
        asked = {**SENTINEL_TIMEOUTS, **group.options, "retry": Retry(NoBackoff(), 0)}
        manager = Sentinel(group.addresses, sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
        is_blocking = issubclass(pool, BlockingConnectionPool)
        kind = BlockingSentinelPool if is_blocking else SentinelConnectionPool
        return Redis.from_pool(kind(group.master, manager, **given))  # type: ignore[no-untyped-call]

    @asynccontextmanager
    async def opened_async(self, **options: Any) -> AsyncIterator[aioredis.Redis]:
        """Yield an asynchronous client, and close it afterwards; see `open`."""
        async with AsyncExitStack() as stack:
            yield await stack.enter_async_context(await self._open_async(stack, options))

    async def _open_async(
        self, stack: AsyncExitStack, options: Mapping[str, Any]
    ) -> aioredis.Redis:
        given = {**options, **self._connection_options()}
        if self.sentinels is None:
            given["connection_class"] = ASYNC_CONNECTIONS[self.scheme]
            return aioredis.Redis.from_pool(aioredis.ConnectionPool(**given))
        group = self.sentinels
        asked = {**SENTINEL_TIMEOUTS, **group.options, "retry": AsyncRetry(NoBackoff(), 0)}
        manager = aiosentinel.Sentinel(group.addresses, sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
        for sentinel in manager.sentinels:
            stack.push_async_callback(sentinel.aclose)
        pool = aiosentinel.SentinelConnectionPool(group.master, manager, **given)  # type: ignore[no-untyped-call]
        return aioredis.Redis.from_pool(pool)

    def _connection_options(self) -> dict[str, Any]:
        """Return the options of a pool; those with sentinels take `ssl` for a class."""
        if self.sentinels is None:
            return dict(self.options)
        others = {name: value for name, value in self.options.items() if name != "connection_class"}
        return {**others, "ssl": True} if self.scheme == "rediss" else others

    def _check_options(self) -> None:
        """Make a connection that is not opened.

        Raises:
            ValueError: redis-py does not take one of the options, or its file is missing.
        """
        for name in FILE_OPTIONS:
            if name in self.options and not Path(self.options[name]).is_file():
                raise ValueError(f"{name}: there is no file {self.options[name]}")
        try:
            with self.open() as redis:
                redis.connection_pool.make_connection()
        except TypeError as error:  # "… got an unexpected keyword argument 'nope'"
            raise ValueError(f"the URL has an unknown option {str(error).split()[-1]}") from None
        except RedisError as error:
            raise ValueError(str(error)) from None


def database_of(redis: Redis | aioredis.Redis) -> int:
    """Return the number of the database that a client uses."""
    return int(redis.connection_pool.connection_kwargs.get("db") or 0)


def _options(scheme: str, text: str, password_file: Path | None) -> dict[str, Any]:
    """Return the options of a connection, with the user and the password as `Credentials`.

    Raises:
        ValueError: as for `RedisUrl.parse`.
    """
    url = _split(text)
    if scheme != "unix" and url.path.strip("/") and not url.path.strip("/").isdecimal():
        raise ValueError("the database must be a number")
    options = cast("dict[str, Any]", parse_url(text))  # type: ignore[no-untyped-call]
    if scheme == "rediss":
        options = {**TLS_DEFAULTS, **options}
    user, password = options.pop("username", None), options.pop("password", None)
    if password is not None and password_file is not None:
        raise ValueError("there is a password in the URL, and a file with one; give one of them")
    if password_file is not None:
        read_password(password_file)
    if password_file or password or user:
        options["credential_provider"] = Credentials(user, password_file or password or "")
    return options


def _split(text: str) -> SplitResult:
    """Split a URL.

    Raises:
        ValueError: it cannot be split. Python's own messages show parts of it, such as a password.
    """
    try:
        url = urlsplit(text)
        _ = url.hostname, url.port
    except ValueError:
        raise ValueError(
            "the host, the port or the password cannot be read; in a password write / @ : ? # % [ ]"
            " as %2F %40 %3A %3F %23 %25 %5B %5D"
        ) from None
    return url


def _split_sentinels(rest: str) -> tuple[str, str, str, str]:
    """Return the login with its @, the hosts, the path, and the query with its question mark."""
    place, mark, query = rest.partition("?")
    authority, _, path = place.partition("/")
    login, at, hosts = authority.rpartition("@")
    return login + (at and "@sentinels"), hosts, path, mark + query


def _address(text: str) -> tuple[str, int]:
    """Return the host and the port of a sentinel.

    Raises:
        ValueError: no host is named.
    """
    url = _split(f"//{text}")
    if not url.hostname:
        raise ValueError("the URL must name at least one sentinel: HOST:PORT,HOST:PORT")
    return url.hostname, url.port or SENTINEL_PORT
