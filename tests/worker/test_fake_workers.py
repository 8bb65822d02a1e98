"""Forked workers, as processes of their own; and all models of the fake engine at once."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tests.system.processes import is_alive
from tests.system.system import open_system
from tests.system.waiting import wait_until
from tests.worker.clips import make_video
from worker.fake_engine import SPECS

RUN = """
import os, sys, time
from pathlib import Path
from worker import fake_workers

def run(model):
    path = Path({folder!r}) / f"{{model}}-{{os.getpid()}}"
    path.touch()
    {body}

fake_workers.SETTLED_SECONDS = {settled}
sys.exit(fake_workers.FakeWorkers(run, ("one", "two")).serve())
"""


@contextmanager
def workers(folder, body="time.sleep(60)", settled=0.0):
    code = RUN.format(folder=str(folder), body=body, settled=settled)
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True
    ) as parent:
        try:
            yield parent
        finally:
            parent.kill()


def pids(folder, model="*"):
    return [int(path.name.rpartition("-")[2]) for path in folder.glob(f"{model}-*")]


def test_each_model_has_a_worker_and_all_end_with_the_signal(tmp_path):
    with workers(tmp_path) as parent:
        wait_until(lambda: len(pids(tmp_path)) == 2)
        parent.terminate()
        assert parent.wait(10) == 0
    assert not any(map(is_alive, pids(tmp_path)))


def test_a_worker_that_ends_is_started_again_and_the_others_stay(tmp_path):
    with workers(tmp_path):
        wait_until(lambda: len(pids(tmp_path)) == 2)
        (first,), (other,) = pids(tmp_path, "one"), pids(tmp_path, "two")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(pids(tmp_path, "one")) == 2)
        assert is_alive(other)
        assert pids(tmp_path, "two") == [other]


@pytest.mark.parametrize(("body", "status"), [("sys.exit(78)", 78), ("sys.exit('no Redis')", 1)])
def test_if_one_cannot_work_all_stop_with_its_status(tmp_path, body, status):
    body = f"{body} if model == 'one' else time.sleep(60)"
    with workers(tmp_path, body, settled=30) as parent:
        assert parent.wait(10) == status
    assert not any(map(is_alive, pids(tmp_path)))


def test_they_end_with_their_parent(tmp_path):
    with workers(tmp_path) as parent:
        wait_until(lambda: len(pids(tmp_path)) == 2)
        parent.kill()
        parent.wait(10)
        wait_until(lambda: not any(map(is_alive, pids(tmp_path))))


def test_one_command_serves_all_models_and_none_waits_for_another(tmp_path):
    video = make_video(tmp_path / "video.mp4", seconds=1).read_bytes()
    with open_system(forked=True) as system:
        system.api()
        process = system.worker("--engine", "fake", kept=False)
        system.await_models(*SPECS)
        stuck = [system.accepted(video, model) for model in ("fake-hang", "fake-crash")]
        system.wait(stuck[0], "running")
        began = time.monotonic()
        for model, state in (
            ("fake", "succeeded"),
            ("fake-slow", "succeeded"),
            ("fake-fail", "failed"),
        ):
            job = system.wait(system.accepted(video, model, overlay=None))
            assert job["state"] == state, process.log.read_text()
        assert time.monotonic() - began < 30  # three attempts that hang take longer
        assert system.job(stuck[0])["state"] == "running"
        assert system.wait(stuck[1])["error"]["code"] == "worker_crashed"
