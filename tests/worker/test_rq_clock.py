import time
from datetime import UTC, datetime, timedelta

import pytest
from rq.utils import current_timestamp

from rollout_core.jobs.redis_records import redis_now
from worker.rq_clock import PLACES, RqClock


@pytest.fixture(autouse=True)
def wrong_clock(monkeypatch) -> None:
    """Give RQ a clock that is an hour ahead."""
    for place in PLACES:
        monkeypatch.setattr(place, "now", lambda: datetime.now(UTC) + timedelta(hours=1))


def test_rq_uses_the_clock_of_redis(redis):
    assert current_timestamp() - time.time() > 3000
    clock = RqClock()
    clock.set(redis_now(redis))
    seconds, _ = redis.time()
    assert 0 <= current_timestamp() - seconds <= 2
    for place in PLACES:
        assert abs((place.now() - redis_now(redis)).total_seconds()) < 2


def test_jump_of_the_wall_clock_changes_nothing(redis, monkeypatch):
    clock = RqClock()
    clock.set(redis_now(redis))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert abs((clock.now() - redis_now(redis)).total_seconds()) < 2


def test_clock_is_that_of_the_machine_until_redis_answers():
    assert abs(RqClock().now().timestamp() - time.time()) < 2
