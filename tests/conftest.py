"""One Valkey server for all tests of a process, one of S3, and one BLAS thread for each process."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from rollout_core import logs, tracing
from tests.buckets import bucket, bucket_server, bucket_url
from tests.system.valkey import running_valkey, url_of

# Several test files run at a time, and most of them start processes. With a thread for each core,
# these processes would slow each other down. torch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What workers find in one precision would differ a little from references in another.
os.environ.setdefault("ROLLOUT_DTYPE", "float32")

# For each pytest that a test starts; see addopts in pyproject.toml.
os.environ["PYTEST_ADDOPTS"] = "-p no:hypothesispytest -p no:locust -p no:schemathesis"

__all__ = ["bucket", "bucket_server", "bucket_url"]  # fixtures

LONGEST = (
    "chaos/test_crash_table.py",
    "end_to_end/test_contract.py",
    "chaos/test_storm.py",
    "chaos/test_failover.py",
    "end_to_end/test_demo_model.py",
    "end_to_end/test_life_of_a_job.py",
    "end_to_end/test_webhooks.py",
    "worker/test_supervisor.py",
    "worker/test_attempt.py",
    "worker/test_runner.py",
    "worker/test_engine_server.py",
    "service/page/test_explore.py",
    "service/page/test_api.py",
    "worker/test_ill_store.py",
    "end_to_end/test_repeated_calls.py",
    "hostile/test_http.py",
    "rollout_core/relevance/test_perturbation.py",
    "end_to_end/page/test_start.py",
    "hostile/test_corpus.py",
    "hostile/test_fuzz.py",
    "chaos/test_upload_crashes.py",
    "end_to_end/test_backup.py",
    "service/test_main.py",
    "service/test_server.py",
    "shipping/test_examples.py",
)
"""The files that take longest. They run first, so that none runs alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others keep their order."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


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


@pytest.fixture
def exporter() -> Iterator[Any]:
    """An exporter that keeps the spans of this process."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.shut_down()


@pytest.fixture(autouse=True)
def _about_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test's log lines have fields of the test before it.

    A process has one worker. Tests that run several in threads leave what the last one is about.
    """
    monkeypatch.setattr(logs, "_of_process", logs.About())
