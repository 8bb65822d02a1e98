"""Workers that announce one name of a model, but serve different checkpoints."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from redis import Redis

from rollout_core.jobs.redis_records import (
    LIVE_SECONDS,
    WORKERS_KEY,
    Announcement,
    Announcements,
    redis_now,
)
from tests.system.waiting import wait_until
from worker.fake_engine import SPECS

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(settings) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        flags = ["--redis-url", settings.redis_url, "--data-dir", str(settings.data_dir)]
        command = [sys.executable, "-m", "worker", *flags, "--engine", "fake", "--model", "fake"]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


class Rival:
    """A worker that serves another checkpoint as `fake`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def announce(self, name: str = "rival", *, age_seconds: float = 0, **changes: bool) -> None:
        announcement = Announcement(
            model=SPECS["fake"],
            checkpoint_sha256="1" * 64,
            engine="fake",
            device="cpu",
            ready=True,
            beat_at=redis_now(self._redis) - timedelta(seconds=age_seconds),
        )
        Announcements(self._redis).write(name, announcement.model_copy(update=changes))

    def live(self, name: str = "rival", **changes: bool) -> None:
        """Announce it again and again."""
        self.announce(name, **changes)

        def run() -> None:
            while not self._stop.wait(0.2):
                self.announce(name, **changes)

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()


@pytest.fixture
def rival(redis) -> Iterator[Rival]:
    rival = Rival(redis)
    yield rival
    rival.stop()


def own(redis: Redis) -> list[Announcement]:
    """Return what workers other than the rival announce."""
    return [
        item for item in Announcements(redis).read().values() if item.checkpoint_sha256 != "1" * 64
    ]


def is_ready(redis: Redis) -> Callable[[], bool]:
    return lambda: any(item.ready for item in own(redis))


@pytest.mark.parametrize(("name", "ready"), [("rival", True), ("zzz", True), ("0", False)])
def test_a_second_checkpoint_under_a_name_is_refused_in_one_line(
    start: Start, redis: Redis, rival: Rival, name: str, ready: bool
):
    """Of two that have just loaded, the one with the lower name goes on."""
    rival.live(name, ready=ready)

    worker = start()
    _, log = worker.communicate(timeout=30)

    assert worker.returncode == 1
    line = log.splitlines()[-1]
    assert f"worker {name} serves another checkpoint as fake (fake, 1111" in line
    assert line.startswith("rollout-worker: ")
    assert "Traceback" not in log
    assert redis.hkeys(WORKERS_KEY) == [name.encode()]


@pytest.mark.parametrize(
    ("name", "changes"),
    [("rival", {"ready": False, "stopping": True}), ("zzz", {"ready": False})],
)
def test_a_worker_that_stops_or_gives_way_is_no_obstacle(
    start: Start, redis: Redis, rival: Rival, name: str, changes: dict[str, bool]
):
    rival.live(name, **changes)

    start()

    wait_until(is_ready(redis))


def test_a_worker_that_was_killed_is_waited_for(start: Start, redis: Redis, rival: Rival):
    rival.announce(age_seconds=LIVE_SECONDS - 4)
    dead_at = redis_now(redis) + timedelta(seconds=3.9)

    worker = start()
    wait_until(is_ready(redis))

    assert redis_now(redis) > dead_at
    assert worker.poll() is None


def test_a_worker_says_that_it_stops(start: Start, redis: Redis):
    worker = start()
    wait_until(is_ready(redis))

    worker.terminate()
    worker.communicate(timeout=30)

    (announcement,) = own(redis)
    assert (announcement.ready, announcement.stopping) == (False, True)
