"""A short load test with few clients; `scripts/load` runs a long one with many."""

import dataclasses
import json

import pytest

from service.app import REDIS_CONNECTIONS
from tests.load.__main__ import Load, measure

GOOD = Load(
    clients=2,
    seconds=10.0,
    calls={"poll": {"count": 4, "failures": 0, "milliseconds": {"50": 1, "95": 2, "99": 3}}},
    failures=[],
    jobs={"succeeded": 20},
    memory={"API": (100 * 2**20, 102 * 2**20), "supervisor 1": (2**26, 2**26)},
    files={"API": (10, 30), "supervisor 1": (7, 7)},
    connections=(4, 24),
)


@pytest.fixture(scope="module")
def load() -> Load:
    return measure(clients=6, seconds=10, workers=1)


def test_every_client_is_served_and_nothing_stays_open(load):
    assert load.failures == []
    assert set(load.jobs) == {"succeeded"}
    assert load.jobs["succeeded"] >= 2
    assert load.files_kept <= 0
    assert load.connections[1] <= load.connections[0] + REDIS_CONNECTIONS
    for call in ("submit", "poll", "fetch result"):
        assert load.calls[call]["count"] >= 2
        times = list(load.calls[call]["milliseconds"].values())
        assert 0 < times[0] <= times[1] <= times[2]
    assert set(load.memory) == set(load.files) == {"API", "supervisor 1"}
    assert all(held > 2**24 for held in load.memory["API"])


def test_the_report_contains_the_measurements():
    report = str(GOOD)
    assert "| poll | 4 | 0 | 1 ms | 2 ms | 3 ms |" in report
    assert "| API | 100.0 MiB | 102.0 MiB | +2.0% | 10 | 30 |" in report
    assert "2 clients for 10 s: 20 succeeded; 2.00 jobs/s." in report
    assert "Files kept beside these: 0." in report


@pytest.mark.parametrize(
    "changes",
    [
        {"failures": ["1 × poll: 500"]},
        {"jobs": {"succeeded": 20, "failed": 1}},
        {"jobs": {}},
        {"memory": {"API": (100, 106)}},
        {"files": {"API": (10, 31)}},
    ],
    ids=json.dumps,
)
def test_the_load_test_fails_if_one_measurement_is_bad(changes):
    assert GOOD.passed
    assert not dataclasses.replace(GOOD, **changes).passed
