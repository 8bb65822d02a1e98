"""Tests of the encoder of test videos."""

import os

from tests.rollout_core.films import encode


def test_encoding_keeps_the_scheduling_policy(tmp_path):
    before = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    encode(tmp_path / "film.mp4", codec="libsvtav1", width=64, height=64)
    assert (os.sched_getscheduler(0), os.sched_getparam(0).sched_priority) == before
