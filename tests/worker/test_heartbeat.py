import logging
from types import SimpleNamespace

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from rollout_core.errors import AttemptLost, DeadlineExceeded
from rollout_core.jobs.records import Progress
from worker import heartbeat as heartbeat_module
from worker import heartbeat as shutdown_module
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


class Scene:
    """A clock that the test winds, and all that a heartbeat speaks with."""

    def __init__(self) -> None:
        self.now = 100.0
        self.beats: list[tuple[str, int, Progress]] = []
        self.tended = 0
        self.answer: bool | Exception = False
        self.engine = SimpleNamespace(busy=False, model="a model", kill=self.kill)
        self.killed = False

    def beat(self, job_id: str, attempt: int, progress: Progress) -> bool:
        self.beats.append((job_id, attempt, progress))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def kill(self) -> None:
        self.killed = True

    def do_duties(self) -> None:
        self.tended += 1


@pytest.fixture
def scene(monkeypatch) -> Scene:
    scene = Scene()
    monkeypatch.setattr(heartbeat_module.time, "monotonic", lambda: scene.now)
    return scene


@pytest.fixture
def heartbeat(scene) -> Heartbeat:
    return Heartbeat("1" * 32, 2, DEADLINE_SECONDS, scene, scene, scene.do_duties)


def test_it_beats_at_once_and_then_once_a_second(scene, heartbeat):
    for _ in range(3):
        heartbeat()
    assert scene.beats == [("1" * 32, 2, Progress(stage="decode", done=0, total=1))]
    scene.now += BEAT_SECONDS
    heartbeat()
    assert (len(scene.beats), scene.tended) == (2, 2)


def test_a_new_stage_is_told_at_once_and_a_step_with_the_next_beat(scene, heartbeat):
    heartbeat()
    heartbeat.advance("explain", 0, 3)
    heartbeat()
    heartbeat.advance("explain", 1, 3)
    heartbeat()
    scene.now += BEAT_SECONDS
    heartbeat()
    told = [(progress.stage, progress.done) for _, _, progress in scene.beats]
    assert told == [("decode", 0), ("explain", 0), ("explain", 1)]


def test_a_cancellation_waits_for_the_engine(scene, heartbeat):
    scene.answer, scene.engine.busy = True, True
    heartbeat()
    scene.answer = False  # once asked for, it stands
    scene.engine.busy = False
    with pytest.raises(Canceled):
        heartbeat()
    assert not scene.killed


def test_a_cancellation_does_not_wait_for_long(scene, heartbeat):
    scene.answer, scene.engine.busy = True, True
    heartbeat()
    for _ in range(int(CANCEL_GRACE_SECONDS) - 1):
        scene.now += 1
        heartbeat()
    assert not scene.killed
    scene.now += 1
    with pytest.raises(Canceled):
        heartbeat()
    assert scene.killed


def test_a_cancellation_neither_waits_for_a_model_to_load_nor_ends_that(scene, heartbeat):
    scene.answer, scene.engine.busy, scene.engine.model = True, True, None
    with pytest.raises(Canceled):
        heartbeat()
    assert not scene.killed


def test_a_lost_job_is_not_kept_up(scene, heartbeat):
    scene.answer = AttemptLost("gone")
    with pytest.raises(AttemptLost):
        heartbeat()
    assert scene.tended == 0


def test_redis_being_away_is_one_missed_beat(scene, heartbeat, caplog):
    scene.answer = RedisConnectionError("away")
    with caplog.at_level(logging.WARNING):
        heartbeat()
    assert "missed a beat: away" in caplog.text
    scene.answer, scene.now = False, scene.now + BEAT_SECONDS
    heartbeat()
    assert (len(scene.beats), scene.tended) == (2, 1)


def test_other_duties_may_fail_for_want_of_redis_too(scene, monkeypatch, caplog):
    def away() -> None:
        raise RedisConnectionError("away")

    with caplog.at_level(logging.WARNING):
        Heartbeat("1" * 32, 2, DEADLINE_SECONDS, scene, scene, away)()
    assert len(scene.beats) == 1
    assert "missed a beat: away" in caplog.text


def test_the_deadline_counts_from_the_beginning(scene, heartbeat):
    scene.now += DEADLINE_SECONDS
    heartbeat()
    assert heartbeat.seconds == DEADLINE_SECONDS
    scene.now += 0.1
    with pytest.raises(DeadlineExceeded, match="not done after 60 seconds"):
        heartbeat()


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch) -> type[Clock]:
    monkeypatch.setattr(shutdown_module.time, "monotonic", lambda: Clock.now)
    Clock.now = 100.0
    return Clock


def test_nobody_leaves_untold(clock):
    shutdown = Shutdown(0)
    clock.now += 1e6
    shutdown.require_stay()
    assert not shutdown.told


def test_a_job_has_its_time_and_no_more(clock):
    shutdown = Shutdown(60)
    shutdown.tell()
    assert shutdown.told
    clock.now += 59.9
    shutdown.require_stay()
    clock.now += 0.1
    with pytest.raises(ShuttingDown):
        shutdown.require_stay()


def test_told_twice_it_leaves_at_once(clock):
    shutdown = Shutdown(60)
    shutdown.tell()
    clock.now += ECHO_SECONDS
    shutdown.tell()
    with pytest.raises(ShuttingDown):
        shutdown.require_stay()


def test_an_echo_is_no_second_word(clock):
    shutdown = Shutdown(60)
    shutdown.tell()
    clock.now += ECHO_SECONDS / 2
    shutdown.tell()
    shutdown.require_stay()
