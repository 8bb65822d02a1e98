"""A bucket for tests, on moto's server of S3."""

import logging
import uuid
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from rollout_core.jobs.bucket import Bucket

NAME = "rollout"


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[str]:
    """Return the URL of a server that has the bucket `NAME`; tests may have left objects in it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        connection = HTTPConnection(host, port)
        connection.request("PUT", f"/{NAME}")
        assert connection.getresponse().status == 200
        connection.close()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def bucket_url(bucket_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a bucket with nothing below its prefix, as `ROLLOUT_STORE` has it.

    The variables of the test's environment tell its server and its credentials.
    """
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return f"s3://{NAME}/{uuid.uuid4().hex}"


@pytest.fixture
def bucket(bucket_url: str) -> Bucket:
    """Return a bucket with nothing below its prefix."""
    return Bucket.at(bucket_url)
