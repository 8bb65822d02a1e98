"""One reader for all calls that follow jobs."""

import asyncio
from datetime import UTC, datetime

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from rollout_core.contract import ExplainRequest
from rollout_core.jobs.schemas import Job
from service import job_watcher
from service.job_watcher import JobWatcher

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job(number=1, **fields):
    known = {
        "id": f"{number:032x}",
        "state": "queued",
        "model": "fake",
        "created_at": NOW,
        "attempt": 0,
        "request": ExplainRequest(),
    }
    return Job(**(dict.fromkeys(Job.model_fields) | known | fields))


class Reader:
    """Returns what a test sets, and counts the readings."""

    def __init__(self):
        self.readings = 0
        self.jobs = {}
        self.error = None

    async def __call__(self, watched):
        self.readings += 1
        if self.error:
            raise self.error
        return {one.id: self.jobs.get(one.id, one) for one in watched}


@pytest.fixture(autouse=True)
def read_often(monkeypatch):
    monkeypatch.setattr(job_watcher, "READ_SECONDS", 0.01)


@pytest.fixture
def reader():
    return Reader()


def run(reader, play):
    async def main():
        watcher = JobWatcher(reader)
        try:
            return await asyncio.wait_for(play(watcher), 10)
        finally:
            await watcher.stop()

    return asyncio.run(main())


def test_a_hundred_calls_share_one_reader(reader):
    async def play(watcher):
        async def follow():
            return await watcher.wait_for_end(job(), 5)

        calls = [asyncio.create_task(follow()) for _ in range(100)]
        await asyncio.sleep(0.2)
        readings = reader.readings
        reader.jobs[job().id] = job(state="failed", ended_at=NOW)
        assert {one.state for one in await asyncio.gather(*calls)} == {"failed"}
        return readings

    assert run(reader, play) <= 25


def test_nothing_is_read_while_nothing_is_watched(reader):
    async def play(watcher):
        await watcher.wait_for_end(job(), 0.05)
        await asyncio.sleep(0.05)
        before = reader.readings
        await asyncio.sleep(0.1)
        assert reader.readings == before > 0

    run(reader, play)


def test_an_ended_job_is_returned_at_once(reader):
    async def play(watcher):
        ended = job(state="succeeded", ended_at=NOW)
        assert await watcher.wait_for_end(ended, 60) is ended
        assert await watcher.wait_for_end(job(), 0) == job()

    run(reader, play)
    assert reader.readings == 0


def test_a_slow_call_finds_the_latest_change(reader):
    async def play(watcher):
        async with watcher.watching(job()) as watch:
            for attempt in range(1, 6):
                reader.jobs[job().id] = job(state="running", attempt=attempt)
                await asyncio.sleep(0.03)
            return (await anext(watch.changes())).attempt

    assert run(reader, play) == 5


def test_what_has_not_changed_is_not_told(reader):
    async def play(watcher):
        async with watcher.watching(job()) as watch:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(watch.changes()), 0.2)

    run(reader, play)
    assert reader.readings > 3


def test_a_deleted_job_is_told_once(reader):
    async def play(watcher):
        reader.jobs[job().id] = None
        async with watcher.watching(job()) as watch:
            return [latest async for latest in watch.changes()]

    assert run(reader, play) == [None]


def test_an_error_does_not_end_the_reader(reader, caplog):
    async def play(watcher):
        reader.error = RedisConnectionError("away")
        waiting = asyncio.create_task(watcher.wait_for_end(job(), 5))
        await asyncio.sleep(0.1)
        reader.error = None
        reader.jobs[job().id] = job(state="canceled", ended_at=NOW)
        return await waiting

    assert run(reader, play).state == "canceled"
    assert [record.message for record in caplog.records] == [
        "The watched jobs cannot be read: away"
    ]


def test_a_shutdown_ends_all_watches_and_those_that_begin_later(reader):
    async def play(watcher):
        waiting = [asyncio.create_task(watcher.wait_for_end(job(n), 60)) for n in range(3)]
        await asyncio.sleep(0.02)
        watcher.close()
        ended = await asyncio.gather(*waiting)
        return [one.state for one in [*ended, await watcher.wait_for_end(job(7), 60)]]

    assert run(reader, play) == ["queued"] * 4


def test_calls_that_have_ended_leave_nothing(reader):
    async def play(watcher):
        async with watcher.watching(job()), watcher.watching(job()), watcher.watching(job(2)):
            assert len(watcher._jobs) == 2
        assert not watcher._jobs
        assert not watcher._watches

    run(reader, play)
