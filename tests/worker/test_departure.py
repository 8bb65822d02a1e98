import pytest

from worker import departure as departure_module
from worker.departure import ECHO_SECONDS, Departure, Leaving


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch) -> type[Clock]:
    monkeypatch.setattr(departure_module.time, "monotonic", lambda: Clock.now)
    Clock.now = 100.0
    return Clock


def test_nobody_leaves_untold(clock):
    departure = Departure(0)
    clock.now += 1e6
    departure.require_stay()
    assert not departure.told


def test_a_job_has_its_time_and_no_more(clock):
    departure = Departure(60)
    departure.tell()
    assert departure.told
    clock.now += 59.9
    departure.require_stay()
    clock.now += 0.1
    with pytest.raises(Leaving):
        departure.require_stay()


def test_told_twice_it_leaves_at_once(clock):
    departure = Departure(60)
    departure.tell()
    clock.now += ECHO_SECONDS
    departure.tell()
    with pytest.raises(Leaving):
        departure.require_stay()


def test_an_echo_is_no_second_word(clock):
    departure = Departure(60)
    departure.tell()
    clock.now += ECHO_SECONDS / 2
    departure.tell()
    departure.require_stay()
