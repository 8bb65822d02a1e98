import pytest

from rollout_core import timings as timings_module
from rollout_core.timings import Timings


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timings_module, "time", clock)
    return clock


def test_time_of_a_stage_counts_and_time_between_stages_does_not(clock: Clock):
    timings = Timings()
    for _ in range(2):
        clock.now += 10
        with timings.stage("render"):
            clock.now += 1
    assert timings.with_total() == {"render": 2.0, "total": 2.0}


def test_stage_within_a_stage_interrupts_it(clock: Clock):
    timings = Timings()
    with timings.stage("explain"):
        clock.now += 1
        with timings.stage("decode"):
            clock.now += 2
        clock.now += 4
    assert timings.with_total() == {"explain": 5.0, "decode": 2.0, "total": 7.0}


def test_present_stage_counts_until_now(clock: Clock):
    timings = Timings()
    with timings.stage("save"):
        clock.now += 1
        assert timings.with_total() == {"save": 1.0, "total": 1.0}
        clock.now += 1
    assert timings.with_total() == {"save": 2.0, "total": 2.0}


def test_making_of_items_counts_and_their_use_does_not(clock: Clock):
    timings = Timings()

    def items():
        for item in range(2):
            clock.now += 1
            yield item
        clock.now += 4  # after the last one

    for _ in timings.each("decode", items()):
        clock.now += 100
    assert timings.with_total() == {"decode": 6.0, "total": 6.0}


def test_stage_that_fails_counts(clock: Clock):
    timings = Timings()
    with pytest.raises(KeyError), timings.stage("open"):
        clock.now += 1
        raise KeyError
    clock.now += 1
    assert timings.with_total() == {"open": 1.0, "total": 1.0}
