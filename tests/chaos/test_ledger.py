import time

import pytest

from tests.chaos.ledger import Ledger


def job(state: str, **changes):
    ended_at = None if state in ("queued", "running") else "2026-11-01T12:00:00Z"
    return {
        "id": "a",
        "state": state,
        "attempt": 1,
        "ended_at": ended_at,
        "result": None,
        "error": None,
    } | changes


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger()
    ledger.accept("a", "fake")
    return ledger


def see(ledger: Ledger, state: str, **changes) -> None:
    ledger.see(job(state, **changes), asked_at=time.monotonic())


def account(ledger: Ledger) -> dict[str, int]:
    pairs = (item.split("=") for item in str(ledger).split())
    return {name: int(count) for name, count in pairs if count != "0"}


def test_names_every_count_in_one_line(ledger):
    line = "accepted=1 succeeded=0 failed=0 canceled=0 lost=0 double=0 stuck=1"
    assert str(ledger) == line


@pytest.mark.parametrize("state", ["succeeded", "failed", "canceled"])
def test_a_job_that_ends_once_balances(ledger, state):
    for seen in ("queued", "running", "queued", "running", state, state):
        see(ledger, seen)
    assert account(ledger) == {"accepted": 1, state: 1}
    assert ledger.balances
    assert ledger.open == []


def test_a_job_that_has_not_ended_is_stuck(ledger):
    see(ledger, "running")
    assert account(ledger) == {"accepted": 1, "stuck": 1}
    assert not ledger.balances


@pytest.mark.parametrize(
    ("state", "changes"),
    [
        ("running", {}),
        ("failed", {}),
        ("succeeded", {"attempt": 2}),
        ("succeeded", {"ended_at": "2026-11-01T12:00:01Z"}),
        ("succeeded", {"result": {"artifacts": [{"sha256": "0"}]}}),
    ],
)
def test_an_end_that_changes_is_double(ledger, state, changes):
    see(ledger, "succeeded")
    see(ledger, state, **changes)
    assert account(ledger)["double"] == 1
    assert not ledger.balances
    assert ledger.remarks


def test_an_id_that_is_given_twice_is_double(ledger):
    ledger.accept("a", "fake")
    assert account(ledger)["double"] == 1


def test_a_job_that_is_gone_is_lost(ledger):
    see(ledger, "succeeded")
    ledger.miss("a")
    assert account(ledger) == {"accepted": 1, "succeeded": 1, "lost": 1}
    assert not ledger.balances


def test_a_job_deleted_before_its_end_counts_as_canceled(ledger):
    see(ledger, "running")
    ledger.ask_deletion("a")
    ledger.miss("a")
    ledger.confirm_deletion("a")
    assert account(ledger) == {"accepted": 1, "canceled": 1}
    assert ledger.balances
    assert ledger.deleted == ["a"]


def test_a_job_that_comes_back_after_its_deletion_is_double(ledger):
    asked_before = time.monotonic()
    ledger.ask_deletion("a")
    ledger.confirm_deletion("a")
    ledger.see(job("running"), asked_at=asked_before)
    assert ledger.balances
    see(ledger, "running")
    assert account(ledger)["double"] == 1


def test_failures_are_counted_by_their_code(ledger):
    see(ledger, "failed", error={"code": "worker_crashed"})
    assert ledger.codes == {"worker_crashed": 1}


def test_open_jobs_are_counted_by_their_model(ledger):
    ledger.accept("b", "fake-slow")
    ledger.accept("c", "fake-slow")
    assert (ledger.count_open("fake"), ledger.count_open("fake-slow")) == (1, 2)
    see(ledger, "succeeded")
    assert ledger.count_open("fake") == 0
