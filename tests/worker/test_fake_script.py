import time
from typing import get_args

import pytest

from rollout_core.contract import ExplainRequest, FailureCode, FakeScript
from rollout_core.errors import InvalidRequest, OutOfMemory, VideoUndecodable
from worker import fake_script
from worker.fake_script import NO_SCRIPT
from worker.heartbeat import Canceled


class CountedHeartbeat:
    """Notes the progress, and is canceled after `beats`."""

    def __init__(self, beats=1000):
        self.progress = []
        self._beats = beats

    def advance(self, stage, done, total):
        self.progress.append((stage, done, total))

    def __call__(self):
        if len(self.progress) > self._beats:
            raise Canceled


def test_a_request_without_a_script_has_an_empty_one():
    for engine in ("fake", "torch"):
        assert fake_script.script_of(ExplainRequest(), engine) == NO_SCRIPT


def test_a_real_engine_refuses_a_script():
    request = ExplainRequest(fake=FakeScript(seconds=1))
    assert fake_script.script_of(request, "fake").seconds == 1
    with pytest.raises(InvalidRequest, match="fake engine"):
        fake_script.script_of(request, "torch")


def test_attempts_crash_first_then_hang_then_answer():
    script = FakeScript(crash_attempts=2, hang_attempts=1)
    found = [fake_script.misbehaviour(script, attempt) for attempt in (1, 2, 3, 4)]
    assert found == ["crash", "crash", "hang", None]
    assert fake_script.misbehaviour(NO_SCRIPT, 1) is None


def test_time_passes_with_progress():
    heartbeat = CountedHeartbeat()
    began = time.monotonic()
    fake_script.take_time(FakeScript(seconds=0.6), heartbeat)
    assert time.monotonic() - began == pytest.approx(0.6, abs=0.2)
    done = [step for _, step, _ in heartbeat.progress]
    assert done == sorted(done)
    assert done[-1] > done[0]
    assert {(stage, total) for stage, _, total in heartbeat.progress} == {("decode", 100)}


def test_a_canceled_job_does_not_wait_for_the_end_of_the_time():
    began = time.monotonic()
    with pytest.raises(Canceled):
        fake_script.take_time(FakeScript(seconds=600), CountedHeartbeat(beats=1))
    assert time.monotonic() - began < 5


def test_failures_of_the_video_come_before_the_engine():
    fake_script.fail_for_video(FakeScript(fail="out_of_memory"))
    fake_script.fail_for_video(NO_SCRIPT)
    fake_script.fail_for_engine(NO_SCRIPT)
    with pytest.raises(VideoUndecodable):
        fake_script.fail_for_video(FakeScript(fail="video_undecodable"))
    with pytest.raises(OutOfMemory):
        fake_script.fail_for_engine(FakeScript(fail="out_of_memory"))


@pytest.mark.parametrize("code", get_args(FailureCode))
def test_every_failure_has_the_code_and_a_title_of_its_own(code):
    error = fake_script.failure(code)
    assert error.code == code
    assert error.title not in ("", "Internal error")
