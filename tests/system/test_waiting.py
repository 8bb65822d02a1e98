import time
from types import SimpleNamespace

import pytest

from tests.system import waiting
from tests.system.waiting import FIRST_POLL_SECONDS, LAST_POLL_SECONDS, wait_until


def test_returns_the_first_true_value():
    values = iter([0, None, "", "found", "later"])
    assert wait_until(lambda: next(values)) == "found"


def test_names_what_it_waited_for():
    with pytest.raises(AssertionError, match=r"waited 0\.1 s for rain"):
        wait_until(lambda: False, 0.1, "rain")


def test_asks_once_more_when_the_time_is_over():
    """On a busy machine, a single pause may take longer than the whole limit."""
    asked = []

    def slow() -> bool:
        asked.append(time.sleep(0.2))
        return len(asked) == 2

    assert wait_until(slow, 0.1)


def test_asks_often_at_first_and_less_in_a_long_wait(monkeypatch):
    clock, pauses = [0.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    wait_until(lambda: clock[0] > 10)
    assert (pauses[0], pauses[-1]) == (FIRST_POLL_SECONDS, LAST_POLL_SECONDS)
    assert pauses == sorted(pauses)
