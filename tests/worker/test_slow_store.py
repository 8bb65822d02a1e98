"""A job on a slow disk: no file call may keep the thread that beats from beating."""

import threading
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from itertools import pairwise

import pytest

from rollout_core.jobs.records import LEASE_SECONDS
from rollout_core.jobs.redis_records import job_key
from tests.worker.file_calls import file_calls
from worker.children import Children
from worker.messages import EngineOptions, MediaOptions
from worker.redis_jobs import RetryingRecords
from worker.runner import Runner

SLOW_SECONDS = 0.3
"""Time that each file call takes on the slow disk."""


class WatchedRecords(RetryingRecords):
    """Notes when the lease of a job is renewed, and whether it is held."""

    def __init__(self, redis) -> None:
        super().__init__(redis)
        self.beats: list[float] = []
        self.held = False

    def claim(self, *args, **kwargs):
        record = super().claim(*args, **kwargs)
        self.beats, self.held = [time.monotonic()], True
        return record

    def beat(self, *args):
        self._note()
        return super().beat(*args)

    def renew(self, *args):
        self._note()
        super().renew(*args)

    def release(self, *args):
        super().release(*args)
        self._end()

    def hand_back(self, *args):
        super().hand_back(*args)
        self._end()

    def delete_record(self, *args):
        super().delete_record(*args)
        self._end()

    def longest_pause(self) -> float:
        return max(after - before for before, after in pairwise(self.beats))

    def _note(self) -> None:
        self.beats.append(time.monotonic())

    def _end(self) -> None:
        self._note()
        self.held = False


@pytest.fixture
def records(redis) -> WatchedRecords:
    return WatchedRecords(redis)


@contextmanager
def running(settings, records, store, model="fake", do_duties=lambda: None):
    children = Children("fake", EngineOptions(model=model), MediaOptions(), load_seconds=30)
    try:
        yield Runner(settings, children, records, store, do_duties)
    finally:
        children.close()


def succeeds(submit, records, redis) -> str:
    return submit(faithfulness=True, method="rollout")


def fails(submit, records, redis) -> str:
    return submit(start_layer=99)


def is_no_video(submit, records, redis) -> str:
    return submit(b"\0\0\0\x18ftypmp42" + bytes(1000))


def was_canceled(submit, records, redis) -> str:
    job_id = submit()
    records._records.update(job_id, lambda record, _: record.request_cancel())
    return job_id


def is_canceled_while_it_runs(submit, records, redis) -> str:
    job_id = submit()
    beat = records.beat

    def cancel(*args):
        records._records.update(job_id, lambda record, _: record.request_cancel())
        return beat(*args)

    records.beat = cancel
    return job_id


def had_its_last_attempt(submit, records, redis) -> str:
    job_id = submit()
    for attempt in (1, 2, 3):
        RetryingRecords(redis).claim(job_id, max_attempts=3)
        RetryingRecords(redis).release(job_id, attempt)
    return job_id


JOBS = [
    succeeds,
    fails,
    is_no_video,
    was_canceled,
    is_canceled_while_it_runs,
    had_its_last_attempt,
]


@pytest.mark.parametrize("job", JOBS)
def test_no_file_call_is_made_by_the_thread_that_beats(
    settings, records, store, submit, redis, job: Callable[..., str]
):
    """Holds for every step that is added: a call of `during` is missing where this fails."""
    beating, blocking, calls = threading.current_thread(), [], []

    def note(name: str) -> None:
        calls.append(name)
        if records.held and threading.current_thread() is beating:
            blocking.append(f"{name}: {''.join(traceback.format_stack()[-8:-2])}")

    job_id = job(submit, records, redis)
    with running(settings, records, store) as runner, file_calls(settings.data_dir, note):
        runner.run(job_id)
    assert store.has_ended(job_id)
    assert not redis.exists(job_key(job_id))
    assert len(calls) > 5
    assert not blocking, blocking[0]


@pytest.mark.parametrize("job", [succeeds, fails])
def test_lease_is_renewed_in_time_on_a_slow_disk(settings, records, store, submit, redis, job):
    def delay(_: str) -> None:
        if records.held:
            time.sleep(SLOW_SECONDS)

    job_id = job(submit, records, redis)
    with running(settings, records, store) as runner, file_calls(settings.data_dir, delay):
        runner.run(job_id)
    assert store.ending(job_id).attempt == 1
    assert len(records.beats) > 3
    assert records.longest_pause() < LEASE_SECONDS / 2
