"""A certificate authority for tests, and TLS in front of a unix socket.

The Valkey server of the tests cannot speak TLS itself; its clients do not notice.
"""

import asyncio
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
CHUNK_BYTES = 65536


class Authority:
    """A certificate authority; its own certificate is the file `certificate`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._key = folder / "ca.key"
        self.certificate = folder / "ca.pem"
        self._openssl(
            *("req", "-x509", *KEY, "-days", "2", "-subj", "/CN=tests"),
            *("-addext", "keyUsage=critical,keyCertSign"),
            *("-keyout", self._key, "-out", self.certificate),
        )

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return the files of a certificate for a host name, and of its key."""
        certificate, key, request, extensions = (
            self._folder / f"{name}.{ending}" for ending in ("pem", "key", "csr", "ext")
        )
        extensions.write_text(
            f"subjectAltName=DNS:{name}\nbasicConstraints=CA:FALSE\nauthorityKeyIdentifier=keyid\n"
        )
        self._openssl("req", *KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        self._openssl(
            *("x509", "-req", "-in", request, "-days", "2", "-extfile", extensions),
            *("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial"),
            *("-out", certificate),
        )
        return certificate, key

    def _openssl(self, *words: object) -> None:
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@contextmanager
def tls_proxy(
    socket_path: Path, certificate: Path, key: Path, *, clients: Path | None = None
) -> Iterator[int]:
    """Speak TLS on a port of 127.0.0.1, and forward to a unix socket; yield the port.

    Args:
        clients: the authority whose certificate a client must have; default: it needs none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if clients:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # of handshakes that are meant to fail
    thread = Thread(target=loop.run_forever, name="tls-proxy")
    thread.start()
    try:
        serving = asyncio.run_coroutine_threadsafe(_serve(socket_path, context), loop)
        server = serving.result()
        yield server.sockets[0].getsockname()[1]
        asyncio.run_coroutine_threadsafe(_end(server), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _serve(socket_path: Path, context: ssl.SSLContext) -> asyncio.Server:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(socket_path)
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

    return await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass everything on until one of the two ends is closed."""
    try:
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
