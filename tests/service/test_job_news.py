"""News of jobs, through a real Valkey."""

import asyncio
import time
import uuid

import pytest
from redis import Redis

from rollout_core.jobs.records import JobRecord, Progress
from rollout_core.jobs.redis_records import CHANGED_CHANNEL, JobRecords, channel_of
from rollout_core.jobs.redis_url import RedisUrl
from service import job_news
from service.job_news import listening
from tests.system.waiting import wait_until

SECONDS = 20.0


@pytest.fixture
def records(redis) -> JobRecords:
    return JobRecords(redis)


@pytest.fixture
def job_id(records) -> str:
    job_id = uuid.uuid4().hex
    records.create(job_id, JobRecord(), lambda _: None)
    return job_id


def heard_during(redis: Redis, redis_url: str, act) -> list[tuple[str, bool]]:
    """Return what is heard while `act` runs in a thread, once the listener has subscribed."""
    heard: list[tuple[str, bool]] = []

    async def play() -> None:
        async with listening(RedisUrl.parse(redis_url), lambda *news: heard.append(news)):
            await asyncio.to_thread(await_listener, redis)
            await asyncio.to_thread(act)
            await asyncio.to_thread(redis.publish, channel_of(redis, CHANGED_CHANNEL), "last")
            async with asyncio.timeout(SECONDS):
                while ("last", False) not in heard:
                    await asyncio.sleep(0.01)

    asyncio.run(play())
    return heard[:-1]


def await_listener(redis: Redis) -> None:
    channel = channel_of(redis, CHANGED_CHANNEL)
    wait_until(lambda: redis.pubsub_numsub(channel)[0][1] > 0, SECONDS, "a listener")


def claim(record, now):
    return record.claim(now, max_attempts=3, token="t")


def test_each_visible_change_and_the_end_are_heard(redis, redis_url, records, job_id):
    def live() -> None:
        records.update(job_id, claim)
        step = Progress(stage="explain", done=1, total=2)
        for _ in range(3):  # only the first changes more than the lease
            records.update(job_id, lambda record, now: record.beat(1, now, step, "t"))
        records.update(job_id, lambda record, _: record.release(1, "t"))
        records.delete(job_id)

    assert heard_during(redis, redis_url, live) == [(job_id, False)] * 3 + [(job_id, True)]


def test_each_database_has_news_of_its_own(redis, redis_url, job_id):
    """Redis keeps the keys of its databases apart, but not its channels."""
    with Redis.from_url(f"{redis_url}?db=7") as other:
        records = JobRecords(other)
        records.create(job_id, JobRecord(), lambda _: None)
        JobRecords(redis).update(job_id, claim)

        def change_both() -> None:
            JobRecords(redis).update(job_id, lambda record, _: record.request_cancel())
            records.update(job_id, claim)

        assert heard_during(other, f"{redis_url}?db=7", change_both) == [(job_id, False)]
        assert heard_during(redis, redis_url, lambda: records.delete(job_id)) == []


def test_database_0_has_the_channels_of_the_release_before(redis):
    assert channel_of(redis, CHANGED_CHANNEL) == "rollout:changed"


def test_news_are_heard_again_after_the_connection_broke(redis, redis_url, monkeypatch):
    monkeypatch.setattr(job_news, "RETRY_SECONDS", 0.01)

    def break_and_return() -> None:
        redis.client_kill_filter(_type="pubsub")
        await_listener(redis)

    assert heard_during(redis, redis_url, break_and_return) == []


def test_user_who_may_not_publish_loses_only_news(redis, redis_url, job_id):
    redis.acl_setuser("mute", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-publish"])
    try:
        mute = Redis.from_url(redis_url, username="mute", password="any")
        assert JobRecords(mute).update(job_id, claim).attempt == 1
        JobRecords(mute).delete(job_id)
        assert not JobRecords(redis).exists(job_id)
        mute.close()
    finally:
        redis.acl_deluser("mute")


def test_service_that_cannot_listen_says_so_once_and_tries_again(monkeypatch, caplog):
    monkeypatch.setattr(job_news, "RETRY_SECONDS", 0.01)

    async def play() -> None:
        async with listening(RedisUrl.parse("redis://127.0.0.1:1"), lambda *_: None):
            await asyncio.sleep(0.3)

    began = time.monotonic()
    asyncio.run(play())
    assert time.monotonic() - began < SECONDS
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "News of jobs come later, since Redis cannot be heard"
    ]


@pytest.mark.parametrize("milliseconds", [0, 1, 3, 6, 10, 30])
def test_listening_ends_whenever_it_is_asked_to(redis_url, milliseconds):
    """Redis' client loses a cancellation that comes while it connects."""

    async def play() -> None:
        async with listening(RedisUrl.parse(redis_url), lambda *_: None):
            await asyncio.sleep(milliseconds / 1000)

    async def play_in_time() -> None:
        async with asyncio.timeout(SECONDS):
            await play()

    asyncio.run(play_in_time())
