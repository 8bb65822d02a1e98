"""A Valkey server, APIs and workers in processes of their own, and what a client says to them."""

import json
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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

from service.standalone import valkey_command
from tests.system.processes import Process

START_SECONDS = 60.0
MANY_STARTS = 3
"""A process that has died so often before it answered cannot be started."""

POLL_SECONDS = 0.05
ENDED = ("succeeded", "failed", "canceled")
TIMEOUT_SECONDS = 20.0


class System:
    """All the processes around one store, kept alive until the system is closed."""

    def __init__(self, folder: Path) -> None:
        """Start a Valkey server in `folder`, whose path must be short: it holds a socket."""
        self.data_dir = folder / "data"
        self.redis_url = f"unix://{folder}/valkey/valkey.sock"
        self.processes: list[Process] = []
        self._folder = folder
        self._urls: dict[str, str] = {}
        self._clients: list[httpx.Client] = []
        self._leaving = Event()
        self._guests = ExitStack()
        for name in ("valkey", "log", "marks"):
            (folder / name).mkdir()
        self.valkey = self._process("valkey", valkey_command(folder / "valkey"))
        self._keeper = Thread(target=self._keep, name="keeper")

    def __enter__(self) -> Self:
        self._keeper.start()
        self.await_valkey()
        return self

    def __exit__(self, *_: object) -> None:
        self._guests.close()
        self._leaving.set()
        self._keeper.join()
        for client in self._clients:
            client.close()
        for process in reversed(self.processes):
            process.stop()

    # The parts.

    def api(self, *flags: str, under: tuple[str, ...] = ()) -> Process:
        """Start an API and wait until it answers; `under` is a module that runs it."""
        port = _free_port()
        name = f"api-{len(self._urls)}"
        common = ("--redis-url", self.redis_url, "--data-dir", str(self.data_dir))
        command = _python("service", *common, "--port", str(port), *flags, under=under)
        process = self._process(name, command)
        self._urls[name] = f"http://127.0.0.1:{port}"
        self._clients.append(httpx.Client(base_url=self._urls[name], timeout=TIMEOUT_SECONDS))
        self._await_api(self._clients[-1], process)
        return process

    def worker(
        self, *flags: str, model: str | None = None, kept: bool = True, under: tuple[str, ...] = ()
    ) -> Process:
        """Start a worker; with a `model`, one of the fake engine."""
        return self.shifting_worker(*flags, models=(model,), kept=kept, under=under)

    def shifting_worker(
        self,
        *flags: str,
        models: tuple[str | None, ...],
        kept: bool = True,
        under: tuple[str, ...] = (),
    ) -> Process:
        """Start a worker that serves the next of `models` each time it is started."""
        turns = cycle(models)
        name = f"worker-{len(self.processes)}"
        common = ("--redis-url", self.redis_url, "--data-dir", str(self.data_dir))

        def command() -> list[str]:
            model = next(turns)
            fake = ("--engine", "fake", "--model", model) if model else ()
            return _python("worker", *common, *fake, *flags, under=under)

        return self._process(name, command, kept=kept)

    def mark(self, name: str) -> Path:
        """Return the path of a file by which a process and a test make signs to each other."""
        return self._folder / "marks" / name

    def forget_everything(self) -> None:
        """Restart Valkey with nothing in it."""
        self.valkey.take_down()
        shutil.rmtree(self._folder / "valkey" / "appendonlydir")
        (self._folder / "valkey" / "dump.rdb").unlink(missing_ok=True)
        self.valkey.bring_up()

    def before_closing(self, leave: Callable[[], None]) -> None:
        """Call `leave` while the system still stands, once it is to be closed."""
        self._guests.callback(leave)

    @property
    def redis(self) -> Redis:
        """A connection to the server."""
        return Redis.from_url(self.redis_url, retry=Retry(NoBackoff(), 0))

    # The conversation, with the first API.

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
        """Upload a video that must be accepted; return the job's id."""
        response = self.submit(video, model, **request)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """Return a job that must be there."""
        response = self.client.get(f"/v1/jobs/{job_id}")
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def wait(
        self, job_id: str, *states: str, seconds: float = 40, until: Callable[..., bool] = bool
    ) -> dict[str, Any]:
        """Return the job once it is in one of `states` (or has ended) and `until` holds."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            job = self.job(job_id)
            if job["state"] in (states or ENDED) and until(job):
                return job
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"not {states or ENDED} after {seconds} s: {self.job(job_id)}")

    def await_models(self, *models: str) -> None:
        """Wait until a worker is ready for each of the models."""

        def all_ready() -> bool:
            served = self.client.get("/v1/models").json()["models"]
            return set(models) <= {model["name"] for model in served if model["ready"]}

        wait_until(all_ready, START_SECONDS, f"a worker for each of {models}")

    def await_valkey(self) -> None:
        """Wait until Valkey answers, its data read."""

        def answers() -> bool:
            with suppress(RedisError), self.redis as redis:
                return bool(redis.ping())
            return False

        wait_until(answers, START_SECONDS, "Valkey to answer")

    def _process(
        self, name: str, command: list[str] | Callable[[], list[str]], *, kept: bool = True
    ) -> Process:
        ask = command if callable(command) else lambda: command
        process = Process(name, ask, self._folder / "log" / name, kept=kept)
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
        while not self._leaving.wait(POLL_SECONDS):
            for process in list(self.processes):
                process.revive()


@contextmanager
def open_system() -> Iterator[System]:
    """Yield a system in a folder of its own, which is removed at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="system-", dir="/tmp") as folder,
        System(Path(folder)) as system,
    ):
        yield system


def upload(video: bytes, model: str, **request: Any) -> dict[str, tuple[str | None, bytes, str]]:
    """Return the parts of the form that asks for a job."""
    wanted = json.dumps({"model": model} | request).encode()
    return {
        "video": ("video.mp4", video, "video/mp4"),
        "request": (None, wanted, "application/json"),
    }


def wait_until(holds: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until `holds` returns something true.

    Raises:
        AssertionError: it did not within so many seconds.
    """
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, f"waited {seconds:g} s for {what}"
        time.sleep(POLL_SECONDS)


def _python(program: str, *arguments: str, under: tuple[str, ...]) -> list[str]:
    """Return the command line of a program, run by another module if `under` names one."""
    module, *options = (*under, program)
    return [sys.executable, "-m", module, *options, *arguments]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
