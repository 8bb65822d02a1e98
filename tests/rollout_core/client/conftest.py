"""Both clients behind one blocking face, and a small server that speaks the contract."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from rollout_core.client import AsyncRolloutClient, Retries, RolloutClient
from tests.rollout_core.client.contract_server import ContractServer, contract_server
from tests.system.constants import SHORT_LEASE
from tests.system.processes import Process
from tests.system.system import System, open_system
from tests.worker.clips import make_video

QUICK = Retries(attempts=4, first_seconds=0.01, most_seconds=0.02)
PATIENT = Retries(attempts=60, first_seconds=0.2, most_seconds=1.0)
"""An API that was killed is back after some seconds."""


@pytest.fixture
def server() -> Iterator[ContractServer]:
    with contract_server() as running:
        yield running


@pytest.fixture(params=["blocking", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_client(kind: str, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open a client; the asynchronous one runs in an event loop of its own."""
    with ExitStack() as stack:

        def open_one(url: str, **options: Any) -> Any:
            options = {"retries": QUICK, "cache": tmp_path / "cache"} | options
            if kind == "blocking":
                return stack.enter_context(RolloutClient(url, **options))
            portal = stack.enter_context(start_blocking_portal())
            client = stack.enter_context(
                portal.wrap_async_context_manager(AsyncRolloutClient(url, **options))
            )
            return _Blocking(client, portal)

        yield open_one


@pytest.fixture
def client(open_client: Callable[..., Any], server: ContractServer) -> Any:
    return open_client(server.url)


@pytest.fixture(scope="session")
def system() -> Iterator[System]:
    """Run the real API, and workers with the fake engine."""
    with open_system(forked=True) as running:
        running.api(under=SHORT_LEASE)
        for model in ("fake", "fake-fail", "fake-hang"):
            running.worker(model=model)
        running.await_models("fake", "fake-fail", "fake-hang")
        yield running


@pytest.fixture
def api(system: System) -> Process:
    (process,) = [process for process in system.processes if process.name == "api-0"]
    return process


@pytest.fixture
def patient_client(open_client: Callable[..., Any], system: System) -> Any:
    """A client of the real API that waits until a killed one is back."""
    return open_client(str(system.client.base_url), retries=PATIENT)


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video of two seconds."""
    return make_video(tmp_path_factory.mktemp("video") / "drift.mp4", seconds=2)


def kill_when(api: Process, happens: Callable[[], bool]) -> threading.Thread:
    """Kill the API once `happens()` is true, from another thread; the system restarts it."""

    def watch() -> None:
        while not happens():
            time.sleep(0.005)
        api.kill()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


class _Blocking:
    """Calls the methods of an asynchronous client in its event loop."""

    def __init__(self, client: AsyncRolloutClient, portal: Any) -> None:
        self._client, self._portal = client, portal

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name in ("events", "list"):
            return lambda *args, **options: iter(self._portal.call(_collect, method, args, options))

        async def call(args: Any, options: Any) -> Any:
            return await method(*args, **options)

        return lambda *args, **options: self._portal.call(call, args, options)


async def _collect(method: Any, args: Any, options: Any) -> list[Any]:
    return [value async for value in method(*args, **options)]
