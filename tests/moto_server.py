"""A server that stands for S3: moto's, with one promise of S3 that moto does not keep.

    python -m tests.moto_server PORT_FILE    serves until it is killed; writes its port first

It has one bucket. moto looks whether an object exists and then writes it, as two steps; two of its
threads could both create it. Here a lock makes that one step, as it is in S3.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from threading import Event, Lock
from typing import Any

NAME = "rollout"

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
}


@contextmanager
def running_moto() -> Iterator[str]:
    """Serve a bucket from a thread of this process; yield the URL of the server."""
    from moto.server import ThreadedMotoServer

    _make_creation_atomic()
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


def _make_creation_atomic() -> None:
    """Let one request at a time write an object; its body has been received by then."""
    from moto.s3.responses import S3Response

    put_object = S3Response.put_object
    if hasattr(put_object, "lock"):
        return
    lock = Lock()

    def put_alone(*args: Any, **options: Any) -> Any:
        with lock:
            return put_object(*args, **options)

    put_alone.lock = lock  # type: ignore[attr-defined]
    S3Response.put_object = put_alone


def main() -> None:
    """Serve a bucket until this process is killed."""
    path = Path(sys.argv[1])
    with running_moto() as url:
        part = path.with_suffix(".part")
        part.write_text(url)
        os.replace(part, path)  # noqa: PTH105
        Event().wait()


if __name__ == "__main__":
    main()
