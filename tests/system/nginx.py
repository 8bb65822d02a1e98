"""A private nginx in front of a service."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from getpass import getuser
from pathlib import Path

from tests.system.tools import require_tool
from tests.system.waiting import wait_until

CONFIGURATION = """
daemon off;
user {user};
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{port};
        {server}
    }}
}}
"""


@contextmanager
def running_nginx(folder: Path, server: str) -> Iterator[str]:
    """Run nginx while the context lasts; yield its URL.

    Args:
        folder: an empty folder for its files.
        server: content of the `server` block, such as its locations.
    """
    program, port = require_tool("nginx"), free_port()
    (folder / "conf").write_text(
        CONFIGURATION.format(user=getuser(), folder=folder, port=port, server=server)
    )
    command = [program, "-p", str(folder), "-c", str(folder / "conf"), "-e", "stderr"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or is_listening(port), what="nginx")
        assert process.poll() is None, (folder / "log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """Return a TCP port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def is_listening(port: int) -> bool:
    """Return whether a connection to a port of this machine is accepted."""
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False
