"""Runs the service with the fake engine, as a process of its own, for as long as tests need it."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from rollout_core.testing.http import Api
from rollout_core.variables import ENV_PREFIX, SETTINGS, is_setting, name_setting

START_SECONDS = 60.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.02
LOG_NAME = "service.log"
LOG_TAIL_CHARACTERS = 2000
READY_MODEL = "fake"
"""The service is ready when this model is; the others are there as soon, or follow."""


class FakeServiceError(Exception):
    """The fake service did not start. The message says why, or has the end of its log."""


@dataclass(frozen=True)
class RolloutService:
    """A service that runs.

    Attributes:
        url: without a slash at its end.
        api_key: None if it needs none.
        data_dir: of the fake service that was started; None for one that runs elsewhere.
        other_api_key: of a second owner, if there is one.
    """

    url: str
    api_key: str | None = None
    data_dir: Path | None = None
    other_api_key: str | None = None

    @property
    def api(self) -> Api:
        """Plain HTTP calls to the service."""
        return Api(self.url, self.api_key)

    def client(self, **options: Any) -> Any:
        """Return a `rollout_core.client.RolloutClient` for the service."""
        client = import_module("rollout_core.client").RolloutClient
        return client(self.url, api_key=self.api_key, **options)


@contextmanager
def running_fake(
    folder: Path, *, needs_keys: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator[RolloutService]:
    """Run a fake service that keeps its data and its log in `folder`; stop it at the end.

    On Linux it also stops when this process ends, even if it is killed.

    Args:
        needs_keys: make a key for each of two owners, and require one.
        settings: environment variables of service and workers, such as ROLLOUT_MAX_QUEUED.

    Raises:
        FakeServiceError: there is no such setting, or the service did not start; the extra `fake`
            may be missing.
    """
    for name in settings or ():
        if not is_setting(name):
            raise FakeServiceError(name_setting(name, SETTINGS))
    keys = [secrets.token_urlsafe(16) for _ in range(2 if needs_keys else 0)]
    environment = _environment(os.environ) | dict(settings or {})
    if keys:
        environment["ROLLOUT_API_KEYS_FILE"] = str(_write_keys(folder, keys))
    data_dir = folder / "data"
    with (folder / LOG_NAME).open("wb") as log:
        process = _start(data_dir, environment, log)
    try:
        with _reading_url(process, folder) as url:
            api_key, other_api_key = keys or (None, None)
            _await_ready(Api(url), process, folder)
            yield RolloutService(url, api_key, data_dir, other_api_key)
    finally:
        _stop(process)


def _write_keys(folder: Path, keys: list[str]) -> Path:
    """Write the file of keys, each of an owner of its own; see `service.auth`."""
    path = folder / "keys.toml"
    path.write_text(
        "".join(
            f'[owner-{number}]\nsha256 = "{sha256(key.encode()).hexdigest()}"\n'
            for number, key in enumerate(keys)
        )
    )
    return path


def _start(data_dir: Path, environment: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[str]:
    """Start the service so that it ends with this process."""
    python = [sys.executable, "-m"]
    command = [*python, "service.die_with_parent", str(os.getpid()), *python, "service"]
    command += ["--standalone", "--engine", "fake", "--host", "127.0.0.1", "--port", "0"]
    return subprocess.Popen(
        [*command, "--data-dir", str(data_dir)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without settings of another service.

    The folder of the tests must not shadow our packages: it may have a `service.py`.
    """
    kept = {name: value for name, value in environment.items() if not name.startswith(ENV_PREFIX)}
    return kept | {"PYTHONSAFEPATH": "1"}


@contextmanager
def _reading_url(process: subprocess.Popen[str], folder: Path) -> Iterator[str]:
    """Yield the URL that the service prints as soon as it listens."""
    assert process.stdout is not None
    with process.stdout as output:
        line = output.readline()
        if not line:
            raise _not_started(folder)
        yield line.split()[-1]


def _await_ready(api: Api, process: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            answer = api.get("/readyz")
            if answer.status == 200 and answer.json()["workers"].get(READY_MODEL):
                return
        time.sleep(POLL_SECONDS)
    raise _not_started(folder)


def _not_started(folder: Path) -> FakeServiceError:
    log = (folder / LOG_NAME).read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]
    hint = "is the extra 'fake' installed? pip install 'timesformer-rollout[fake]'"
    return FakeServiceError(f"the fake service did not start ({hint}):\n{log}")


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
