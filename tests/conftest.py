"""One Valkey server for all tests of a process, and one BLAS thread for each process."""

import os
from collections.abc import Iterator

import pytest
from redis import Redis

from tests.system.valkey import running_valkey, url_of

# Two test files run at a time, and most of them start processes. With a thread for each core,
# these processes would slow each other down. torch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Undo what the commands do when a test calls their `main`: they make all files private."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Return the URL of a Valkey server; it may hold what other tests have left there."""
    with running_valkey() as server:
        yield url_of(server)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """Return a client of an empty Valkey server."""
    with Redis.from_url(redis_url) as client:
        client.flushall()
        yield client
