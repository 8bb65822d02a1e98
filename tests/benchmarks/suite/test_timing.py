import time

import pytest

from tests.benchmarks.suite.timing import (
    Seconds,
    Spread,
    Timing,
    fastest,
    interleaved,
    measured,
    ratio,
    timed,
)


def test_spread_is_median_and_quartiles():
    assert Spread.of([5, 1, 4, 2, 3]) == (3, 2, 4)
    assert Spread.of([7]) == (7, 7, 7)


def test_spread_is_scaled():
    assert Spread(1, 0.5, 2).scaled(1000) == (1000, 500, 2000)


def test_ratios_are_of_the_same_round():
    # The machine was three times as slow in the second round: the ratio does not show it.
    slow, fast = Timing((2, 6), (1, 3)), Timing((1, 3), (1, 1))
    assert slow.over(fast) == (2, 2, 2)
    assert slow.cpu_over(fast) == (2, 1.5, 2.5)
    with pytest.raises(ValueError, match="zip"):
        ratio([1, 2], [1])


def test_timings_are_added_round_by_round():
    total = Timing((1, 2), (3, 4)) + Timing((10, 20), (30, 40))
    assert total == Timing((11, 22), (33, 44))
    assert total.seconds == (16.5, 13.75, 19.25)
    assert total.milliseconds == (16500, 13750, 19250)


def test_calls_run_in_turn_and_every_second_round_backwards():
    calls = []
    found = interleaved({name: lambda n=name: calls.append(n) for name in "ab"}, 3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(timing.wall) for name, timing in found.items()} == {"a": 3, "b": 3}


def test_warm_ups_do_not_count():
    times = iter([Seconds(9, 9), Seconds(9, 9), Seconds(1, 2), Seconds(3, 4)])
    found = measured({"call": lambda: next(times)}, 2, warm_ups=2)
    assert found["call"] == Timing((1, 3), (2, 4))


def test_fastest_call_is_named():
    assert fastest({"slow": lambda: time.sleep(0.05), "fast": lambda: None}) == "fast"


def test_sleeping_takes_time_but_no_processor():
    wall, cpu = timed(lambda: time.sleep(0.05))
    assert wall >= 0.05
    assert cpu < 0.05
