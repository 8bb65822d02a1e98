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
    return Job(**(dict.fromkeys(Job.model_fields) | {"priority": "normal"} | known | fields))


class Reader:
    """Returns what a test sets, and counts the readings."""

    def __init__(self):
        self.readings = 0
        self.read = []
        self.jobs = {}
        self.error = None

    async def __call__(self, watched):
        self.readings += 1
        self.read.append([one.id for one in watched])
        if self.error:
            raise self.error
        return {one.id: self.jobs.get(one.id, one) for one in watched}


@pytest.fixture(autouse=True)
def read_often(monkeypatch):
    monkeypatch.setattr(job_watcher, "READ_SECONDS", 0.01)


@pytest.fixture
def read_seldom(monkeypatch):
    monkeypatch.setattr(job_watcher, "READ_SECONDS", 3600)


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


def test_a_deleted_job_has_no_end(reader):
    async def play(watcher):
        reader.jobs[job().id] = None
        return await watcher.wait_for_end(job(), 60)

    assert run(reader, play) is None


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


@pytest.mark.usefixtures("read_seldom")
def test_an_end_is_read_at_once_and_alone(reader):
    async def play(watcher):
        others = [asyncio.create_task(watcher.wait_for_end(job(n), 60)) for n in range(2, 42)]
        waiting = asyncio.create_task(watcher.wait_for_end(job(), 60))
        await asyncio.sleep(0)
        reader.jobs[job().id] = job(state="failed", ended_at=NOW)
        watcher.hear(job().id, True)
        ended = await waiting
        watcher.close()
        await asyncio.gather(*others)
        return ended

    assert run(reader, play).state == "failed"
    assert reader.read == [[job().id]]


@pytest.mark.usefixtures("read_seldom")
def test_an_end_that_was_heard_before_the_job_is_watched_counts(reader):
    async def play(watcher):
        reader.jobs[job().id] = job(state="failed", ended_at=NOW)
        watcher.hear(job().id, True)
        return await watcher.wait_for_end(job(), 60)

    assert run(reader, play).state == "failed"


@pytest.mark.usefixtures("read_seldom")
def test_many_changes_are_read_together(reader, monkeypatch):
    """The first at once, the others when `CHANGE_SECONDS` are over."""
    monkeypatch.setattr(job_watcher, "CHANGE_SECONDS", 0.2)

    async def play(watcher):
        watches = [asyncio.create_task(watcher.wait_for_end(job(n), 60)) for n in range(40)]
        await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        for _ in range(10):
            for number in range(40):
                watcher.hear(job(number).id, False)
                await asyncio.sleep(0.001)
        seconds = asyncio.get_running_loop().time() - began
        readings = reader.readings
        watcher.close()
        await asyncio.gather(*watches)
        return readings, seconds

    readings, seconds = run(reader, play)
    assert 1 <= readings <= 2 + seconds / 0.2
    assert {len(read) for read in reader.read} == {40}


@pytest.mark.usefixtures("read_seldom")
def test_news_of_jobs_that_are_not_watched_are_not_read(reader):
    async def play(watcher):
        waiting = asyncio.create_task(watcher.wait_for_end(job(), 0.1))
        await asyncio.sleep(0)
        for ended in (False, True):
            watcher.hear(job(2).id, ended)
        await waiting

    run(reader, play)
    assert reader.read == []
