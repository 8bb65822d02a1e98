import pytest

from rollout_core.errors import AttemptLost, OtherStore, UnknownFormat
from rollout_core.jobs import redis_records
from rollout_core.jobs.records import JobRecord
from rollout_core.jobs.redis_records import (
    STORE_KEY,
    STORE_SECONDS,
    WORKERS_KEY,
    Announcement,
    Announcements,
    Gpu,
    JobRecords,
    announce_store,
    job_key,
    parse_announcement,
    redis_now,
    require_store,
    token_key,
)
from rollout_core.model.specs import ModelSpec

IDS = [f"{number:032x}" for number in range(3)]


def commands(redis):
    return redis.info("stats")["total_commands_processed"]


@pytest.fixture
def records(redis):
    return JobRecords(redis)


@pytest.fixture
def stored(records):
    for number, job_id in enumerate(IDS[:2]):
        assert records.create(job_id, JobRecord(attempt=number), lambda _: None)


def test_many_records_are_read_in_one_command(records, stored, redis):
    before = commands(redis)

    found = records.get_many_raw(IDS)

    assert commands(redis) - before - 1 == 1
    assert found == {IDS[0]: b"{}", IDS[1]: b'{"attempt":1}', IDS[2]: None}
    assert list(found) == IDS


def test_no_records_are_read_without_a_command(records, redis):
    before = commands(redis)

    assert records.get_many_raw([]) == records.get_many_raw(iter([])) == {}

    assert commands(redis) - before - 1 == 0


def test_an_unreadable_record_does_not_hide_the_others(records, stored, redis):
    redis.set(job_key(IDS[2]), '{"of": "another version"}')

    raw = records.get_many_raw(IDS)

    assert JobRecord.from_json(raw[IDS[1]]) == JobRecord(attempt=1)
    with pytest.raises(UnknownFormat):
        JobRecord.from_json(raw[IDS[2]])


def test_an_update_gets_the_time_of_redis(records, stored, redis):
    times = []

    def step(record, now):
        times.append(now)
        return record.request_cancel()

    before = redis_now(redis)
    updated = records.update(IDS[0], step)

    assert before <= times[0] <= redis_now(redis)
    assert JobRecord.from_json(records.get_many_raw(IDS)[IDS[0]]) == updated
    assert updated == JobRecord(cancel_requested=True)


def test_the_token_of_a_claim_stands_beside_the_record(records, stored, redis):
    """Releases before it refuse a record with a field that they do not know."""
    claimed = records.update(
        IDS[0], lambda record, now: record.claim(now, max_attempts=3, token="a")
    )
    assert claimed.token == "a"
    assert redis.get(token_key(IDS[0])) == b"a"
    assert b"token" not in redis.get(job_key(IDS[0]))
    seen = []
    records.update(IDS[0], lambda record, _: seen.append(record.token) or record)
    assert seen == ["a"]
    records.delete(IDS[0])
    assert not redis.keys("rollout:*0")


def test_a_claim_without_a_token_ends_the_one_before(records, stored, redis):
    def claim(token):
        return lambda record, now: record.release(record.attempt, record.token).claim(
            now, max_attempts=9, token=token
        )

    records.update(IDS[0], lambda record, now: record.claim(now, max_attempts=3, token="a"))
    records.update(IDS[0], claim(None))
    assert not redis.exists(token_key(IDS[0]))


def test_an_update_of_a_missing_record_writes_nothing(records, redis):
    with pytest.raises(AttemptLost):
        records.update(IDS[0], lambda record, _: record)

    assert not redis.exists(job_key(IDS[0]))


def test_several_records_are_deleted_in_one_command_and_told(records, stored, redis):
    before = commands(redis)

    records.delete(*IDS)
    records.delete()

    assert commands(redis) - before - 1 == 1 + len(IDS)
    assert list(records.ids()) == []


def test_an_unreadable_announcement_is_skipped_but_can_be_removed(redis):
    announcements = Announcements(redis)
    redis.hset(WORKERS_KEY, "other-version", "{}")

    assert announcements.read() == {}
    assert announcements.read_raw() == {"other-version": b"{}"}
    announcements.remove("other-version")
    announcements.remove()
    assert announcements.read_raw() == {}


def test_an_announcement_tells_the_gpu_but_only_if_there_is_one(redis):
    announcements = Announcements(redis)
    on_cpu = Announcement(
        model=ModelSpec(name="m", frames=4, clip_seconds=1, height=32, width=48, classes=3),
        checkpoint_sha256=None,
        engine="torch",
        device="cpu",
        ready=True,
        beat_at=redis_now(redis),
    )
    gpu = Gpu(uuid="GPU-1", name="NVIDIA T4", memory_total_bytes=16, memory_used_bytes=3)
    announcements.write("cpu", on_cpu)
    announcements.write("gpu", on_cpu.model_copy(update={"gpu": gpu}))

    found = announcements.read()

    assert (found["cpu"].gpu, found["gpu"].gpu) == (None, gpu)
    assert b"gpu" not in announcements.read_raw()["cpu"]
    assert found["cpu"].identity() == found["gpu"].identity()


def test_an_announcement_that_has_not_changed_is_not_parsed_again(redis, monkeypatch):
    parsed = []

    def parse(text):
        parsed.append(text)
        return parse_announcement(text)

    monkeypatch.setattr(redis_records, "parse_announcement", parse)
    announcements = Announcements(redis)
    item = Announcement(
        model=ModelSpec(name="fake", frames=4, clip_seconds=1, classes=3),
        checkpoint_sha256=None,
        engine="fake",
        device="cpu",
        ready=True,
        beat_at=redis_now(redis),
    )
    announcements.write("a", item)
    announcements.write("b", item)
    redis.hset(WORKERS_KEY, "strange", b"{}")
    first = announcements.read()
    assert len(parsed) == 3
    announcements.write("b", item.model_copy(update={"ready": False}))
    announcements.remove("a")

    second = announcements.read()

    assert len(parsed) == 4
    assert first["b"].ready
    assert set(second) == {"b"}
    assert not second["b"].ready


def test_a_store_is_checked_against_the_one_of_the_service(redis):
    require_store(redis, "a")  # no service has announced its store yet
    announce_store(redis, "a")
    announce_store(redis, "a")
    require_store(redis, "a")
    with pytest.raises(OtherStore, match="it is the store b, the service uses a"):
        require_store(redis, "b")


def test_a_second_service_with_another_store_is_refused_until_the_first_has_ended(redis):
    announce_store(redis, "a")
    assert 0 < redis.ttl(STORE_KEY) <= STORE_SECONDS
    with pytest.raises(OtherStore):
        announce_store(redis, "b")
    require_store(redis, "a")
    redis.delete(STORE_KEY)  # as when it expires
    announce_store(redis, "b")
    require_store(redis, "b")
