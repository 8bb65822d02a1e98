"""A watch over a job whose states are given by hand."""

import httpx
import pytest

from tests.chaos.watch import Watch
from tests.system.system import wait_until


class Stage:
    """Plays the system: answers as the test wants it to."""

    def __init__(self) -> None:
        self.answer = httpx.Response(200, json={"state": "queued", "attempt": 0})
        self.client = httpx.Client(transport=httpx.MockTransport(self._handle), base_url="http://x")
        self.leave = None

    def shows(self, watch: Watch, state: str, attempt: int = 1) -> None:
        """Let the job be seen so by the watch."""
        self.answer = httpx.Response(200, json={"state": state, "attempt": attempt})
        wait_until(lambda: watch.sights[-1].state == state, 5, state)

    def breaks(self, watch: Watch) -> None:
        self.answer = None
        wait_until(lambda: watch.sights[-1].state == "no answer", 5, "a broken connection")

    def job(self, job_id: str):
        return self.answer.json()

    def before_closing(self, leave) -> None:
        self.leave = leave

    def _handle(self, request: httpx.Request) -> httpx.Response:
        if self.answer is None:
            raise httpx.ConnectError("nobody is there")
        return httpx.Response(self.answer.status_code, content=self.answer.content)


@pytest.fixture
def stage():
    stage = Stage()
    yield stage
    stage.leave()
    stage.client.close()


def test_tells_what_was_seen_from_the_disaster_on(stage):
    watch = Watch(stage, "a")
    stage.shows(watch, "running")
    watch.strike()
    stage.breaks(watch)
    stage.shows(watch, "queued")
    stage.shows(watch, "running", attempt=2)
    stage.shows(watch, "succeeded", attempt=2)
    assert watch.await_end()["state"] == "succeeded"
    assert watch.seen == ("running", "no answer", "queued", "running (2)", "succeeded (2)")
    assert 0 < watch.again_seconds <= watch.ended_seconds < 5


def test_a_job_that_goes_on_needs_no_other_attempt(stage):
    watch = Watch(stage, "a")
    stage.shows(watch, "running")
    watch.strike()
    stage.shows(watch, "succeeded")
    watch.await_end()
    assert watch.again_seconds is None


def test_times_count_from_when_the_cause_was_gone(stage):
    watch = Watch(stage, "a")
    watch.strike()
    stage.answer = httpx.Response(503)
    watch.await_sight("503")
    watch.relieve()
    stage.shows(watch, "succeeded")
    watch.await_end()
    assert watch.seen == ("queued", "503", "succeeded")
    assert watch.again_seconds == watch.ended_seconds < 5


def test_an_end_that_is_followed_by_anything_else_is_an_error(stage):
    watch = Watch(stage, "a")
    stage.shows(watch, "failed")
    stage.shows(watch, "running", attempt=2)
    stage.shows(watch, "failed", attempt=2)
    with pytest.raises(AssertionError):
        watch.await_end()
