"""Parts of a connection: timers, a close that the client's answer survives, room for others."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

LINGER_SECONDS = 30.0
"""Time in which the rest of a refused body is read and dropped, so that the client, which may send
all of it before it reads, gets its answer. Closed sooner, the kernel would reset the connection,
and the answer would be lost: proxies make 502 of that."""

LINGER_IDLE_SECONDS = 5.0
"""Time in which some bytes of such a body must arrive."""

LINGER_BYTES = 1024**3
"""Most bytes of such a body that are dropped, if the answer closes the connection."""

IDLE_GRACE_SECONDS = 0.1
"""Time in which a connection without a request is not closed to make room. Short, so that a client
that opens many connections closes its own; long enough for the head of a request to arrive."""


class Timer:
    """Calls `action` once, `seconds` after its start, unless it is stopped."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, action: Callable[[], None]
    ) -> None:
        self.started_at: float | None = None
        self._loop = loop
        self._seconds = seconds
        self._action = action
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start, unless it is running."""
        if self._handle is None:
            self.started_at = self._loop.time()
            self._handle = self._loop.call_later(self._seconds, self._act)

    def stop(self) -> None:
        """Stop, if it is running."""
        self.started_at = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _act(self) -> None:
        self._handle = None
        self._action()


class LingeringTransport:
    """A transport that, when it is closed, goes on reading while the client still sends.

    `close` ends the answer, and leaves the rest to the client; `finish` closes at once.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        is_sending: Callable[[], bool],
    ) -> None:
        """Wrap a transport. `is_sending` tells whether the client may have more to send."""
        self.lingers = False
        self._transport = transport
        self._is_sending = is_sending
        self._dropped = 0
        self._limit = Timer(loop, LINGER_SECONDS, self.finish)
        self._idle_limit = Timer(loop, LINGER_IDLE_SECONDS, self.finish)

    def __getattr__(self, name: str) -> Any:
        """Pass on everything else."""
        return getattr(self._transport, name)

    @property
    def lingers_since(self) -> float | None:
        """Time of the event loop at which it was closed while the client still sent."""
        return self._limit.started_at

    def is_closing(self) -> bool:
        """Return whether nothing more can be written."""
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        """Close, as soon as the client has sent what it was about to send."""
        if self.is_closing():
            return
        if not self._is_sending():
            self._transport.close()
            return
        self.lingers = True
        self._limit.start()
        self._idle_limit.start()
        self._transport.write_eof()
        self._transport.resume_reading()

    def drop(self, count: int) -> None:
        """Take note of `count` bytes that arrived after the answer."""
        self._dropped += count
        self._idle_limit.stop()
        if self._dropped > LINGER_BYTES:
            self.finish()
        else:
            self._idle_limit.start()

    def finish(self) -> None:
        """Close at once; what was written is still sent."""
        self.stop()
        self._transport.close()

    def stop(self) -> None:
        """Stop the timers."""
        self._limit.stop()
        self._idle_limit.stop()


class Evictable(Protocol):
    """A connection that may have to make room for another one."""

    def idle_seconds(self) -> float:
        """Return for how long it has handled no request; 0 while it handles one."""

    def evict(self) -> None:
        """Close it."""


def make_room(connections: Sequence[Evictable], limit: int) -> int:
    """Close the longest idle connections beyond the limit; return how many are still too many."""
    excess = max(0, len(connections) - limit)
    idle = sorted(connections, key=lambda connection: -connection.idle_seconds())
    evicted = [item for item in idle[:excess] if item.idle_seconds() >= IDLE_GRACE_SECONDS]
    for connection in evicted:
        connection.evict()
    return excess - len(evicted)
