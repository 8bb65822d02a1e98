"""A bucket for tests, on moto's server of S3."""

import uuid
from collections.abc import Iterator

import pytest

from rollout_core.jobs.bucket import Bucket
from tests.moto_server import ENVIRONMENT, NAME, running_moto


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[str]:
    """Return the URL of a server that has the bucket `NAME`; tests may have left objects in it."""
    with running_moto() as url:
        yield url


@pytest.fixture
def bucket_url(bucket_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a bucket with nothing below its prefix, as `ROLLOUT_STORE` has it.

    The variables of the test's environment tell its server and its credentials.
    """
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket_server)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return f"s3://{NAME}/{uuid.uuid4().hex}"


@pytest.fixture
def bucket(bucket_url: str) -> Bucket:
    """Return a bucket with nothing below its prefix."""
    return Bucket.at(bucket_url)
