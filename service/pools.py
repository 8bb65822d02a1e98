"""Threads for the calls of the API: calls of one kind cannot delay those of another.

A route runs in a thread if it reads the store or Redis, and either may take seconds to answer. Each
kind of call has threads of its own. If all of them are busy, a call waits for a while and then gets
503. The files and the reserved bytes of uploads that arrive use other threads.

Nothing that may wait runs on the event loop, so `/livez`, which needs no thread, always answers at
once.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial, wraps
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

from anyio import CancelScope, CapacityLimiter, fail_after, to_thread

from service.errors import ServiceBusy

Kind = Literal["health", "lookup", "listing", "artifact", "upload"]

THREADS: Mapping[Kind, int] = {"health": 2, "lookup": 24, "listing": 3, "artifact": 8, "upload": 16}
"""Threads of each kind. Lists need the processor more than others: with many threads at it, the
event loop would wait for its turn."""

WAIT_SECONDS: Mapping[Kind, float] = {
    "health": 2.0,
    "lookup": 5.0,
    "listing": 10.0,
    "artifact": 10.0,
    "upload": 30.0,
}
"""Longest wait for a thread. A client has sent its video before it waits for one of `upload`."""

P = ParamSpec("P")
T = TypeVar("T")


class Pools:
    """The threads of one app."""

    def __init__(self) -> None:
        self._limiters = {kind: CapacityLimiter(threads) for kind, threads in THREADS.items()}

    async def run(self, kind: Kind, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Return what `call` returns, run in a thread of a kind.

        Raises:
            ServiceBusy: no thread became free in time.
        """
        limiter, borrower = self._limiters[kind], object()
        try:
            with fail_after(WAIT_SECONDS[kind]):
                await limiter.acquire_on_behalf_of(borrower)
        except TimeoutError as error:
            raise ServiceBusy(f"too many calls of the kind {kind} are under way") from error
        try:
            return await to_thread.run_sync(
                partial(call, *args, **options), limiter=CapacityLimiter(1)
            )
        finally:
            limiter.release_on_behalf_of(borrower)


@asynccontextmanager
async def entered(make: Callable[[], AbstractContextManager[T]]) -> AsyncIterator[T]:
    """Enter and leave a context manager in a thread; leave it even if the call is cancelled.

    Args:
        make: returns the context manager; called in the thread, too.
    """
    context = await to_thread.run_sync(make)
    value = await to_thread.run_sync(context.__enter__)
    try:
        yield value
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(context.__exit__, None, None, None)


class _HasPools(Protocol):
    @property
    def pools(self) -> Pools: ...


def in_pool(kind: Kind) -> Callable[[Callable[..., T]], Callable[..., Awaitable[T]]]:
    """Make a route run in a thread of a kind. Its parameter `services` must have `pools`."""

    def decorate(route: Callable[..., T]) -> Callable[..., Awaitable[T]]:
        @wraps(route)
        async def call(*, services: _HasPools, **arguments: Any) -> T:
            return await services.pools.run(kind, route, services=services, **arguments)

        return call

    return decorate
