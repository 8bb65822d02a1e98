"""A Valkey server, APIs and workers as separate processes, and calls of a client to them."""

import json
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import httpx
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.redis_url import RedisUrl
from rollout_core.jobs.store import ArtifactStore
from service.standalone import valkey_command
from tests.system.processes import Process
from tests.system.waiting import wait_until

START_SECONDS = 60.0
MANY_STARTS = 3
"""An API that has been started this often without an answer cannot be started."""

POLL_SECONDS = 0.05
ENDED = ("succeeded", "failed", "canceled")
TIMEOUT_SECONDS = 20.0

LIMITS = httpx.Limits(keepalive_expiry=1.0)
"""The API closes an idle connection after five seconds. With httpx's own five, a call at that
moment would fail."""


class System:
    """All processes around one store; dead ones are restarted until the system is closed."""

    def __init__(self, folder: Path, *, forked: bool = False) -> None:
        """Start a Valkey server in `folder`; its path must be short, for it holds a unix socket.

        Args:
            forked: start APIs and workers in a fraction of their time; see `forked`.

        Attributes:
            start_seconds: longest that `await_models` has waited: how slow a start is here, now.
        """
        self.data_dir = folder / "data"
        self.processes: list[Process] = []
        self._folder = folder
        self._forked = forked
        self._urls: dict[str, str] = {}
        self._clients: list[httpx.Client] = []
        self.start_seconds = 0.0
        self._closing = Event()
        self._callbacks = ExitStack()
        for name in ("valkey", "log", "marks"):
            (folder / name).mkdir()
        self.redis_url, self._servers = self._start_redis()
        self.valkey = self._servers[0]
        self._keeper = Thread(target=self._keep, name="keeper")

    def __enter__(self) -> Self:
        self._keeper.start()
        self.await_valkey()
        return self

    def __exit__(self, *_: object) -> None:
        self._callbacks.close()
        self._closing.set()
        self._keeper.join()
        for client in self._clients:
            client.close()
        others = [process for process in self.processes if process not in self._servers]
        with ThreadPoolExecutor() as pool:
            list(pool.map(Process.stop, others))
        for server in reversed(self._servers):
            server.stop()

    # The processes.

    def api(self, *flags: str, under: tuple[str, ...] = ()) -> Process:
        """Start an API and wait until it answers.

        Args:
            under: a module that runs the API, and its arguments; see `breakpoints`.
        """
        port = free_port()
        name = f"api-{len(self._urls)}"
        common = ("--redis-url", self.redis_url, "--data-dir", str(self.data_dir))
        command = _python("service", *common, "--port", str(port), *flags, under=under)
        process = self._process(name, command)
        self._urls[name] = f"http://127.0.0.1:{port}"
        self._clients.append(
            httpx.Client(base_url=self._urls[name], timeout=TIMEOUT_SECONDS, limits=LIMITS)
        )
        self._await_api(self._clients[-1], process)
        return process

    def worker(
        self,
        *flags: str,
        model: str | None = None,
        kept: bool = True,
        under: tuple[str, ...] = (),
        data_dir: Path | None = None,
    ) -> Process:
        """Start a worker; with a `model`, its engine is the fake one.

        Args:
            data_dir: its data directory; default: that of the system.
        """
        return self.shifting_worker(
            *flags, models=(model,), kept=kept, under=under, data_dir=data_dir
        )

    def shifting_worker(
        self,
        *flags: str,
        models: tuple[str | None, ...],
        kept: bool = True,
        under: tuple[str, ...] = (),
        data_dir: Path | None = None,
    ) -> Process:
        """Start a worker that serves the next of `models` at each start."""
        turns = cycle(models)
        name = f"worker-{len(self.processes)}"
        common = ("--redis-url", self.redis_url, "--data-dir", str(data_dir or self.data_dir))

        def command() -> list[str]:
            model = next(turns)
            fake = ("--engine", "fake", "--model", model) if model else ()
            return _python("worker", *common, *fake, *flags, under=under)

        return self._process(name, command, kept=kept)

    def mark(self, name: str) -> Path:
        """Return the path of a file by which a process and a test signal each other."""
        return self._folder / "marks" / name

    def forget_everything(self) -> None:
        """Restart Valkey without its data."""
        self.valkey.take_down()
        shutil.rmtree(self._folder / "valkey" / "appendonlydir")
        (self._folder / "valkey" / "dump.rdb").unlink(missing_ok=True)
        self.valkey.bring_up()

    def before_closing(self, leave: Callable[[], None]) -> None:
        """Call `leave` when the system is closed, before its processes are stopped."""
        self._callbacks.callback(leave)

    @property
    def redis(self) -> Redis:
        """A new client of the Valkey server, without retries."""
        return RedisUrl.parse(self.redis_url).open(retry=Retry(NoBackoff(), 0))

    # The store.

    @property
    def store(self) -> ArtifactStore:
        """The store of the service."""
        return FolderStore(self.data_dir)

    def stored_jobs(self) -> list[str]:
        """Return the ids of all jobs in the store."""
        return [folder.name for folder in (self.data_dir / "jobs").iterdir()]

    def ends_of(self, job_id: str) -> list[str]:
        """Return the names of a job's ends; there must be one."""
        names = {path.name for path in (self.data_dir / "jobs" / job_id / "result").iterdir()}
        return sorted(names & {"result.json", "ended.json"})

    def attempts_of(self, job_id: str) -> list[str]:
        """Return the names of attempts that have left files in the store."""
        folder = self.data_dir / "jobs" / job_id / "attempts"
        return [path.name for path in folder.glob("*")]

    def has_files(self, job_id: str) -> bool:
        """Return whether the store has anything of a job."""
        return any(self.data_dir.glob(f"*/{job_id}"))

    def remove_leftovers(self) -> None:
        """Remove what the service would remove later: nothing, in a folder."""

    # The calls, to the first API.

    @property
    def client(self) -> httpx.Client:
        """A client of the first API."""
        return self._clients[0]

    @property
    def clients(self) -> list[httpx.Client]:
        """A client of each API."""
        return self._clients

    def submit(self, video: bytes, model: str = "fake", **request: Any) -> httpx.Response:
        """Upload a video."""
        return self.client.post("/v1/jobs", files=upload(video, model, **request))

    def accepted(self, video: bytes, model: str = "fake", **request: Any) -> str:
        """Upload a video; return the job's id.

        Raises:
            AssertionError: the API did not answer 202.
        """
        response = self.submit(video, model, **request)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """Return a job.

        Raises:
            AssertionError: the API did not answer 200.
        """
        response = self.client.get(f"/v1/jobs/{job_id}")
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def wait(
        self, job_id: str, *states: str, seconds: float = 40, until: Callable[..., bool] = bool
    ) -> dict[str, Any]:
        """Return the job once it is in one of `states` (or has ended) and `until` holds."""
        wanted = states or ENDED

        def found() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["state"] in wanted and until(job) else None

        try:
            job = wait_until(found, seconds, f"the job to be {' or '.join(wanted)}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.job(job_id)}") from error
        assert job is not None
        return job

    def await_models(self, *models: str) -> None:
        """Wait until a worker is ready for each of the models."""

        def all_ready() -> bool:
            served = self.client.get("/v1/models").json()["models"]
            return set(models) <= {model["name"] for model in served if model["ready"]}

        since = time.monotonic()
        wait_until(all_ready, START_SECONDS, f"a worker for each of {models}")
        self.start_seconds = max(self.start_seconds, time.monotonic() - since)

    def await_valkey(self) -> None:
        """Wait until Valkey has read its data and answers."""

        def answers() -> bool:
            with suppress(RedisError), self.redis as redis:
                return bool(redis.ping())
            return False

        wait_until(answers, START_SECONDS, "Valkey to answer")

    def _start_redis(self) -> tuple[str, list[Process]]:
        """Start Redis; return its URL and its processes, which are stopped last to first."""
        folder = self._folder / "valkey"
        valkey = self._process("valkey", valkey_command(folder))
        return f"unix://{folder}/valkey.sock", [valkey]

    def _process(
        self, name: str, command: list[str] | Callable[[], list[str]], *, kept: bool = True
    ) -> Process:
        ask = command if callable(command) else lambda: command
        process = Process(name, ask, self._folder / "log" / name, kept=kept, forked=self._forked)
        self.processes.append(process)
        return process

    def _await_api(self, client: httpx.Client, process: Process) -> None:
        def answers() -> bool:
            assert process.starts < MANY_STARTS, process.log.read_text()
            with suppress(httpx.TransportError):
                return client.get("/livez").is_success
            return False

        wait_until(answers, START_SECONDS, f"{process.name} to answer")

    def _keep(self) -> None:
        while not self._closing.wait(POLL_SECONDS):
            for process in list(self.processes):
                process.revive()


@contextmanager
def open_system(*, forked: bool = False) -> Iterator[System]:
    """Yield a system in a temporary folder.

    Args:
        forked: start APIs and workers in a fraction of their time; see `forked`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="system-", dir="/tmp") as folder,
        System(Path(folder), forked=forked) as system,
    ):
        yield system


def upload(video: bytes, model: str, **request: Any) -> dict[str, tuple[str | None, bytes, str]]:
    """Return the parts of the form that submits a job."""
    wanted = json.dumps({"model": model, "reuse": False} | request).encode()
    return {
        "video": ("video.mp4", video, "video/mp4"),
        "request": (None, wanted, "application/json"),
    }


def _python(program: str, *arguments: str, under: tuple[str, ...]) -> list[str]:
    """Return the command line of a program, run by another module if `under` names one."""
    module, *options = (*under, program)
    return [sys.executable, "-m", module, *options, *arguments]


def free_port() -> int:
    """Return a port of this machine on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
