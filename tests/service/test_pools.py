import asyncio
import threading
from contextlib import contextmanager

import pytest

from service import pools as pools_module
from service.errors import ServiceBusy
from service.pools import THREADS, Pools, entered


@pytest.fixture
def gate():
    """Calls wait here until it is opened."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def short_wait(monkeypatch):
    monkeypatch.setattr(pools_module, "WAIT_SECONDS", dict.fromkeys(THREADS, 0.05))


async def occupy(pools, kind, gate):
    """Take all threads of a kind."""
    running = threading.Semaphore(0)

    def call():
        running.release()
        gate.wait(30)

    tasks = [asyncio.create_task(pools.run(kind, call)) for _ in range(THREADS[kind])]
    for _ in tasks:
        await asyncio.to_thread(running.acquire)
    return tasks


def test_a_busy_kind_gets_503_and_delays_no_other(gate, short_wait):
    async def run():
        pools = Pools()
        tasks = await occupy(pools, "listing", gate)
        assert await pools.run("lookup", lambda: 1) == 1
        with pytest.raises(ServiceBusy):
            await pools.run("listing", lambda: 2)
        gate.set()
        await asyncio.gather(*tasks)
        assert await pools.run("listing", lambda: 3) == 3

    asyncio.run(run())


def test_a_failed_call_gives_its_thread_back():
    async def run():
        pools = Pools()
        for _ in range(2 * THREADS["health"]):
            with pytest.raises(ZeroDivisionError):
                await pools.run("health", lambda: 1 / 0)

    asyncio.run(run())


def test_a_cancelled_call_still_leaves_its_context(gate):
    left = threading.Event()
    main = threading.get_ident()
    threads = []

    @contextmanager
    def context():
        threads.append(threading.get_ident())
        yield 7
        threads.append(threading.get_ident())
        left.set()

    async def use():
        async with entered(context) as value:
            assert value == 7
            await asyncio.sleep(30)

    async def run():
        task = asyncio.create_task(use())
        while not threads:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())

    assert left.wait(10)
    assert main not in threads


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/models", "/readyz", f"/v1/jobs/{'0' * 32}"])
def test_routes_of_a_busy_kind_answer_busy_and_liveness_answers(
    client, monkeypatch, short_wait, path
):
    pools = client.app_state["services"].pools
    for limiter in pools._limiters.values():
        limiter.total_tokens = 0

    response = client.get(path)

    assert (response.status_code, response.json()["code"]) == (503, "service_busy")
    assert int(response.headers["retry-after"]) > 0
    assert client.get("/livez").status_code == 200


def test_liveness_needs_no_thread(client, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a thread was used")

    monkeypatch.setattr("anyio.to_thread.run_sync", fail)

    assert client.get("/livez").json() == {"status": "alive"}
