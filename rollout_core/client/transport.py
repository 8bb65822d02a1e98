"""The two drivers below the clients: HTTP, pauses and files, blocking or not.

All logic is written once, as coroutines that use a `Driver`. Those of `BlockingDriver` never
suspend, so `run_at_once` can carry such a coroutine through without an event loop.
"""

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread
import httpx2
from httpx2 import ServerSentEvent

from rollout_core import __version__
from rollout_core.client.bodies import Body
from rollout_core.client.errors import RolloutConnectionError

USER_AGENT = f"timesformer-rollout/{__version__}"

KEPT_SECONDS = 3.0
"""An idle connection is kept this long: less than servers do, so that none is used as it closes."""

T = TypeVar("T")


@dataclass(frozen=True)
class Server:
    """Where the service is, and how to speak to it.

    Attributes:
        url: of the service, with the path below which it lives, if any.
        timeout_seconds: for the connection, and for each read and write.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    timeout_seconds: float = 60.0

    @property
    def http_options(self) -> dict[str, Any]:
        """Arguments of an HTTP client for this server."""
        headers = {"User-Agent": USER_AGENT}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return {
            "base_url": self.url,
            "headers": headers,
            "timeout": self.timeout_seconds,
            "limits": httpx2.Limits(keepalive_expiry=KEPT_SECONDS),
        }


@dataclass(frozen=True)
class Call:
    """One request, as a value.

    Attributes:
        path: below the URL of the service.
        read_seconds: longest silence of the service; default: that of the server.
    """

    method: str
    path: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    read_seconds: float | None = None

    def options(self, server: Server, content: Any) -> dict[str, Any]:
        """Return the arguments of an HTTP request."""
        headers = dict(self.headers)
        if self.body is not None:
            headers["Content-Type"] = self.body.content_type
            headers["Content-Length"] = str(self.body.size)
        usual = server.timeout_seconds
        timeout = httpx2.Timeout(usual, read=self.read_seconds or usual)
        return {
            "params": dict(self.params) or None,
            "headers": headers,
            "content": content,
            "timeout": timeout,
        }


@dataclass(frozen=True)
class Answer:
    """An answer that was read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Stream(Protocol):
    """An answer that is read while it arrives."""

    status: int
    headers: Mapping[str, str]

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body."""

    def events(self) -> AsyncIterator[ServerSentEvent]:
        """Yield the Server-Sent Events of the body."""


class Driver(Protocol):
    """What the logic of the clients needs of the world."""

    server: Server

    async def send(self, call: Call) -> Answer:
        """Make a call and read its answer.

        Raises:
            RolloutConnectionError: there was none.
        """

    def stream(self, call: Call) -> AbstractAsyncContextManager[Stream]:
        """Make a call; its answer is read in the context, and raises as `send` does."""

    def stream_link(
        self, url: str, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[Stream]:
        """Read an address that the service has given, without the API key; as `stream` does.

        Args:
            url: absolute, or relative to that of the service.
        """

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that waits for files."""


class BlockingDriver:
    """Blocks the thread that calls."""

    def __init__(self, server: Server, transport: httpx2.BaseTransport | None = None) -> None:
        self.server = server
        self._http = httpx2.Client(**server.http_options, transport=transport)

    async def send(self, call: Call) -> Answer:
        """See `Driver`."""
        content = call.body.chunks() if call.body else None
        with _named(self.server.url):
            answer = self._http.request(
                call.method, call.path, **call.options(self.server, content)
            )
        return Answer(answer.status_code, answer.headers, answer.content)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[Stream]:
        """See `Driver`."""
        options = call.options(self.server, None)
        with (
            _named(self.server.url),
            self._http.stream(call.method, call.path, **options) as answer,
        ):
            yield _BlockingStream(answer)

    @asynccontextmanager
    async def stream_link(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[Stream]:
        """See `Driver`."""
        request = _link_request(self._http, url, headers)
        with _named(_origin(request.url)):
            answer = self._http.send(request, stream=True)
            try:
                yield _BlockingStream(answer)
            finally:
                answer.close()

    async def sleep(self, seconds: float) -> None:
        """See `Driver`."""
        time.sleep(seconds)

    async def in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """See `Driver`; here, in the calling thread."""
        return function(*arguments)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class AsyncDriver:
    """Runs in an event loop, asyncio's or trio's. Files are read and written in threads."""

    def __init__(self, server: Server, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self.server = server
        self._http = httpx2.AsyncClient(**server.http_options, transport=transport)

    async def send(self, call: Call) -> Answer:
        """See `Driver`."""
        content = self._content(call.body) if call.body else None
        with _named(self.server.url):
            answer = await self._http.request(
                call.method, call.path, **call.options(self.server, content)
            )
        return Answer(answer.status_code, answer.headers, answer.content)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[Stream]:
        """See `Driver`."""
        options = call.options(self.server, None)
        with _named(self.server.url):
            async with self._http.stream(call.method, call.path, **options) as answer:
                yield _AsyncStream(answer)

    @asynccontextmanager
    async def stream_link(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[Stream]:
        """See `Driver`."""
        request = _link_request(self._http, url, headers)
        with _named(_origin(request.url)):
            answer = await self._http.send(request, stream=True)
            try:
                yield _AsyncStream(answer)
            finally:
                await answer.aclose()

    async def sleep(self, seconds: float) -> None:
        """See `Driver`."""
        await anyio.sleep(seconds)

    async def in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """See `Driver`."""
        return await anyio.to_thread.run_sync(function, *arguments)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _content(self, body: Body) -> AsyncIterator[bytes]:
        chunks = body.chunks()
        while (chunk := await self.in_thread(next, chunks, None)) is not None:
            yield chunk


class _BlockingStream:
    def __init__(self, answer: httpx2.Response) -> None:
        self.status = answer.status_code
        self.headers: Mapping[str, str] = answer.headers
        self._answer = answer

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self._answer.iter_bytes():
            yield chunk

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        for event in httpx2.EventSource(self._answer):
            yield event


class _AsyncStream:
    def __init__(self, answer: httpx2.Response) -> None:
        self.status = answer.status_code
        self.headers: Mapping[str, str] = answer.headers
        self._answer = answer

    async def chunks(self) -> AsyncIterator[bytes]:
        async for chunk in self._answer.aiter_bytes():
            yield chunk

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        async for event in httpx2.EventSource(self._answer):
            yield event


def run_at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Carry a coroutine that never suspends to its end, and return what it returns."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("a coroutine of the blocking client has suspended")


def iterate_at_once(values: AsyncIterator[T]) -> Iterator[T]:
    """Yield the values of an asynchronous generator that never suspends."""

    async def following() -> T:
        return await anext(values)

    async def close() -> None:
        await values.aclose()  # type: ignore[attr-defined]  # a generator has it

    try:
        while True:
            try:
                value = run_at_once(following())
            except StopAsyncIteration:
                return
            yield value
    finally:
        run_at_once(close())


def _link_request(
    http: httpx2.Client | httpx2.AsyncClient, url: str, headers: Mapping[str, str]
) -> httpx2.Request:
    """Return a request without the API key, which only the service may see.

    A link has its own signature; a bucket refuses a request that has a key besides.
    """
    request = http.build_request("GET", http.base_url.join(url), headers=dict(headers))
    request.headers.pop("Authorization", None)
    request.headers.pop("Cookie", None)
    return request


def _origin(url: httpx2.URL) -> str:
    """Return a URL without its path and its signature."""
    return f"{url.scheme}://{url.netloc.decode()}"


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Raise failures of the connection as one that names the service, or where its link leads."""
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
        text = f"cannot connect to {url}: {_reason(error)}"
        raise RolloutConnectionError(text, unsent=True) from error
    except httpx2.TimeoutException as error:
        text = f"{url} does not answer in time ({type(error).__name__})"
        raise RolloutConnectionError(text) from error
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        raise RolloutConnectionError(f"{url!r} is not a URL of a service") from error
    except httpx2.TransportError as error:
        text = f"the connection to {url} broke: {_reason(error)}"
        raise RolloutConnectionError(text) from error


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
