"""The heartbeat of an attempt and graceful shutdown, with a clock that the test sets."""

import logging
from types import SimpleNamespace

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from rollout_core.errors import AttemptLost, DeadlineExceeded
from rollout_core.jobs.records import Progress
from worker import heartbeat as heartbeat_module
from worker.heartbeat import (
    BEAT_SECONDS,
    CANCEL_GRACE_SECONDS,
    ECHO_SECONDS,
    Canceled,
    Heartbeat,
    Shutdown,
    ShuttingDown,
)

DEADLINE_SECONDS = 60


class Clock:
    """A monotonic clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 100.0


class FakeWorker:
    """Stands in for a heartbeat's children, records and duties.

    Attributes:
        beats: the arguments of each heartbeat.
        duties: how often the duties were done.
        answer: what a heartbeat returns, or raises.
    """

    def __init__(self) -> None:
        self.beats: list[tuple[str, int, Progress]] = []
        self.duties = 0
        self.answer: bool | Exception = False
        self.engine = SimpleNamespace(busy=False, model="a model", kill=self.kill)
        self.killed = False

    def beat(self, job_id: str, attempt: int, progress: Progress, token: str | None = None) -> bool:
        self.beats.append((job_id, attempt, progress))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def kill(self) -> None:
        self.killed = True

    def do_duties(self) -> None:
        self.duties += 1


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(heartbeat_module.time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


@pytest.fixture
def heartbeat(clock, worker) -> Heartbeat:
    return Heartbeat("1" * 32, 2, DEADLINE_SECONDS, worker, worker, worker.do_duties)


class TestHeartbeat:
    def test_first_is_immediate_and_the_next_a_second_later(self, clock, worker, heartbeat):
        for _ in range(3):
            heartbeat()
        assert worker.beats == [("1" * 32, 2, Progress(stage="decode", done=0, total=1))]
        clock.now += BEAT_SECONDS
        heartbeat()
        assert (len(worker.beats), worker.duties) == (2, 2)

    def test_new_stage_is_reported_at_once_and_progress_with_the_next_heartbeat(
        self, clock, worker, heartbeat
    ):
        heartbeat()
        heartbeat.advance("explain", 0, 3)
        heartbeat()
        heartbeat.advance("explain", 1, 3)
        heartbeat()
        clock.now += BEAT_SECONDS
        heartbeat()
        reported = [(progress.stage, progress.done) for _, _, progress in worker.beats]
        assert reported == [("decode", 0), ("explain", 0), ("explain", 1)]

    def test_cancel_waits_for_the_engine(self, worker, heartbeat):
        worker.answer, worker.engine.busy = True, True
        heartbeat()
        worker.answer = False  # a request to cancel cannot be taken back
        worker.engine.busy = False
        with pytest.raises(Canceled):
            heartbeat()
        assert not worker.killed

    def test_cancel_kills_engine_after_the_grace_time(self, clock, worker, heartbeat):
        worker.answer, worker.engine.busy = True, True
        heartbeat()
        for _ in range(int(CANCEL_GRACE_SECONDS) - 1):
            clock.now += 1
            heartbeat()
        assert not worker.killed
        clock.now += 1
        with pytest.raises(Canceled):
            heartbeat()
        assert worker.killed

    def test_cancel_neither_waits_for_nor_kills_a_loading_engine(self, worker, heartbeat):
        worker.answer, worker.engine.busy, worker.engine.model = True, True, None
        with pytest.raises(Canceled):
            heartbeat()
        assert not worker.killed

    def test_lost_job_raises_and_skips_duties(self, worker, heartbeat):
        worker.answer = AttemptLost("deleted")
        with pytest.raises(AttemptLost):
            heartbeat()
        assert worker.duties == 0

    def test_unreachable_redis_is_logged_as_a_missed_heartbeat(
        self, clock, worker, heartbeat, caplog
    ):
        worker.answer = RedisConnectionError("away")
        with caplog.at_level(logging.WARNING):
            heartbeat()
        assert "missed a heartbeat: away" in caplog.text
        worker.answer, clock.now = False, clock.now + BEAT_SECONDS
        heartbeat()
        assert (len(worker.beats), worker.duties) == (2, 1)

    def test_unreachable_redis_in_a_duty_is_logged_too(self, clock, worker, caplog):
        def away() -> None:
            raise RedisConnectionError("away")

        with caplog.at_level(logging.WARNING):
            Heartbeat("1" * 32, 2, DEADLINE_SECONDS, worker, worker, away)()
        assert len(worker.beats) == 1
        assert "missed a heartbeat: away" in caplog.text

    def test_deadline_counts_from_the_start(self, clock, heartbeat):
        clock.now += DEADLINE_SECONDS
        heartbeat()
        assert heartbeat.seconds == DEADLINE_SECONDS
        clock.now += 0.1
        with pytest.raises(DeadlineExceeded, match="not done after 60 seconds"):
            heartbeat()


class TestShutdown:
    def test_without_a_request_work_continues(self, clock):
        shutdown = Shutdown(0)
        clock.now += 1e6
        shutdown.check_shutdown()
        assert not shutdown.is_requested

    def test_request_starts_the_drain_time(self, clock):
        shutdown = Shutdown(60)
        shutdown.request_shutdown()
        assert shutdown.is_requested
        clock.now += 59.9
        shutdown.check_shutdown()
        clock.now += 0.1
        with pytest.raises(ShuttingDown):
            shutdown.check_shutdown()

    def test_second_request_ends_the_drain_time(self, clock):
        shutdown = Shutdown(60)
        shutdown.request_shutdown()
        clock.now += ECHO_SECONDS
        shutdown.request_shutdown()
        with pytest.raises(ShuttingDown):
            shutdown.check_shutdown()

    def test_echo_of_the_first_request_does_not_count(self, clock):
        shutdown = Shutdown(60)
        shutdown.request_shutdown()
        clock.now += ECHO_SECONDS / 2
        shutdown.request_shutdown()
        shutdown.check_shutdown()
