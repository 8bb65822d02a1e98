"""A watch that polls a fake API, whose answers the test sets."""

import httpx
import pytest

from tests.chaos.watch import Watch
from tests.system.waiting import wait_until


class FakeSystem:
    """Stands in for the system: gives the answer that the test has set."""

    def __init__(self) -> None:
        self.answer = httpx.Response(200, json={"state": "queued", "attempt": 0})
        self.client = httpx.Client(transport=httpx.MockTransport(self._handle), base_url="http://x")
        self.leave = None

    def shows(self, watch: Watch, state: str, attempt: int = 1) -> None:
        """Set the job's state, and wait until the watch has seen it."""
        self.answer = httpx.Response(200, json={"state": state, "attempt": attempt})
        wait_until(lambda: watch.observations[-1].state == state, what=state)

    def breaks(self, watch: Watch) -> None:
        self.answer = None
        wait_until(lambda: watch.observations[-1].state == "no answer", what="a broken connection")

    def job(self, job_id: str):
        return self.answer.json()

    def before_closing(self, leave) -> None:
        self.leave = leave

    def _handle(self, request: httpx.Request) -> httpx.Response:
        if self.answer is None:
            raise httpx.ConnectError("connection refused")
        return httpx.Response(self.answer.status_code, content=self.answer.content)


@pytest.fixture
def system():
    system = FakeSystem()
    yield system
    system.leave()
    system.client.close()


def test_seen_states_begin_with_the_one_at_the_fault(system):
    watch = Watch(system, "a")
    system.shows(watch, "running")
    watch.mark_fault()
    system.breaks(watch)
    system.shows(watch, "queued")
    system.shows(watch, "running", attempt=2)
    system.shows(watch, "succeeded", attempt=2)
    assert watch.await_end()["state"] == "succeeded"
    assert watch.seen == ("running", "no answer", "queued", "running (2)", "succeeded (2)")
    assert 0 < watch.retry_seconds <= watch.ended_seconds < 5


def test_a_job_that_is_not_interrupted_has_no_retry_time(system):
    watch = Watch(system, "a")
    system.shows(watch, "running")
    watch.mark_fault()
    system.shows(watch, "succeeded")
    watch.await_end()
    assert watch.retry_seconds is None


def test_times_count_from_the_end_of_the_fault(system):
    watch = Watch(system, "a")
    watch.mark_fault()
    system.answer = httpx.Response(503)
    watch.await_state("503")
    watch.mark_recovery()
    system.shows(watch, "succeeded")
    watch.await_end()
    assert watch.seen == ("queued", "503", "succeeded")
    assert watch.retry_seconds == watch.ended_seconds < 5


def test_a_second_end_is_an_error(system):
    watch = Watch(system, "a")
    system.shows(watch, "failed")
    system.shows(watch, "running", attempt=2)
    system.shows(watch, "failed", attempt=2)
    with pytest.raises(AssertionError):
        watch.await_end()
