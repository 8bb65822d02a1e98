"""The health check of a worker's container, with a real Valkey."""

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis

from rollout_core.jobs.redis_records import (
    LIVE_SECONDS,
    WAITING_KEY,
    WORKERS_KEY,
    Announcement,
    announce_waiting,
    places_waiting,
)
from tests.system.valkey import running_valkey, url_of
from worker.fake_engine import SPECS
from worker.health import is_beating, new_name, place
from worker.redis_jobs import RetryingRecords


@pytest.fixture(scope="module")
def url():
    with running_valkey() as server:
        yield url_of(server)


@pytest.fixture
def redis(url):
    with Redis.from_url(url) as redis:
        redis.flushall()
        yield redis


@pytest.fixture
def worker(redis) -> str:
    """Announce a worker of this host, and return its name."""
    name = new_name(socket.gethostname())
    RetryingRecords(redis).announce(
        name,
        Announcement(
            model=SPECS["fake"],
            checkpoint_sha256=None,
            engine="fake",
            device="none",
            ready=True,
            beat_at=datetime.now(UTC),
        ),
    )
    return name


def check(url):
    return subprocess.run(
        [sys.executable, "-m", "worker.health"],
        env=os.environ | {"ROLLOUT_REDIS_URL": url},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_worker_of_this_host_is_alive(redis, worker):
    assert is_beating(redis, socket.gethostname(), datetime.now(UTC))


def test_worker_of_another_host_does_not_count(redis, worker):
    assert not is_beating(redis, "elsewhere", datetime.now(UTC))


def test_worker_of_another_container_of_this_host_does_not_count(redis, worker, monkeypatch):
    monkeypatch.setattr("worker.health.place", lambda hostname: f"{hostname}.4026530000")
    assert not is_beating(redis, socket.gethostname(), datetime.now(UTC))


def test_worker_is_dead_after_live_seconds(redis, worker):
    later = datetime.now(UTC) + timedelta(seconds=LIVE_SECONDS + 1)
    assert not is_beating(redis, socket.gethostname(), later)


def test_host_with_the_same_prefix_does_not_count(redis, worker):
    assert not is_beating(redis, socket.gethostname()[:-1], datetime.now(UTC))
    assert not is_beating(redis, "", datetime.now(UTC))


def test_names_are_unique():
    assert new_name("a.host") != new_name("a.host")


def test_announcement_of_another_version_is_skipped(redis, worker):
    redis.hset(WORKERS_KEY, new_name(socket.gethostname()), b'{"format": "unknown"}')
    assert is_beating(redis, socket.gethostname(), datetime.now(UTC))
    RetryingRecords(redis).remove_announcement(worker)
    assert not is_beating(redis, socket.gethostname(), datetime.now(UTC))


def test_removed_announcement_does_not_count(redis, worker):
    RetryingRecords(redis).remove_announcement(worker)
    assert not is_beating(redis, socket.gethostname(), datetime.now(UTC))


def test_worker_that_waits_for_a_gpu_is_well_until_it_is_silent(url, redis):
    here = place(socket.gethostname())
    announce_waiting(redis, "elsewhere")
    assert check(url).returncode == 1
    announce_waiting(redis, here)
    assert not redis.exists(WORKERS_KEY)
    assert places_waiting(redis) == {here, "elsewhere"}
    assert check(url).returncode == 0

    redis.zincrby(WAITING_KEY, -LIVE_SECONDS - 1, here)
    assert places_waiting(redis) == {"elsewhere"}
    assert check(url).returncode == 1
    announce_waiting(redis, "elsewhere")
    assert redis.zcard(WAITING_KEY) == 1, "the silent one is forgotten"


def test_command_succeeds_while_a_worker_is_alive(url, redis, worker):
    done = check(url)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_command_fails_without_a_worker(url, redis):
    done = check(url)
    assert done.returncode == 1
    assert (
        done.stderr == f"no worker on this host has sent a heartbeat in the last {LIVE_SECONDS} s\n"
    )


def test_command_fails_without_redis(tmp_path):
    done = check(f"unix://{tmp_path}/nothing")
    assert done.returncode == 1
    assert done.stderr.startswith("Redis does not answer")
    assert done.stderr.count("\n") == 1
