"""What the clients do about a real API that is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import pytest

from rollout_core.client import uploading
from rollout_core.client.bodies import Video
from tests.rollout_core.client.conftest import kill_when
from tests.system.processes import ROOT
from tests.system.waiting import wait_until

LARGE_BYTES = 40_000_000


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(uploading, "PIECE_BYTES", 8 << 20)


@pytest.fixture
def large(film, tmp_path):
    """Return a playable video of 40 MB: the rest is an MP4 box that players skip."""
    path = tmp_path / f"{uuid.uuid4().hex}.mp4"
    box = (LARGE_BYTES + 8).to_bytes(4, "big") + b"free"
    path.write_bytes(film.read_bytes() + box + os.urandom(LARGE_BYTES))
    return path


def test_an_upload_goes_on_over_restarts_of_the_api(patient_client, api, large, monkeypatch):
    told, read = [], []
    untouched = Video.read

    def slow_read(video, offset, length):
        """Send about 20 MB/s, so that the API dies in the middle of a piece."""
        read.append(offset)
        for chunk in untouched(video, offset, length):
            time.sleep(len(chunk) / 20e6)
            yield chunk

    monkeypatch.setattr(Video, "read", slow_read)
    killers = [
        kill_when(api, lambda share=share: told and told[-1] > share * LARGE_BYTES)
        for share in (0.3, 0.7)
    ]
    starts = api.starts
    upload = patient_client.upload(large, on_bytes=lambda done, _: told.append(done))
    for killer in killers:
        killer.join()
    monkeypatch.undo()
    assert upload.bytes == large.stat().st_size
    assert api.starts >= starts + 1
    assert sum(offset == 0 for offset in read) <= 2, "it began again"  # the other is the digest
    assert patient_client.wait(patient_client.submit(upload, model="fake")).state == "succeeded"


def test_events_go_on_over_a_restart_of_the_api(patient_client, api, system, film):
    job = patient_client.submit(film, model="fake-hang", reuse=False)
    system.wait(job.id, "running")
    ends = []
    follower = threading.Thread(target=lambda: ends.append(patient_client.wait(job)))
    follower.start()
    time.sleep(1)
    starts = api.starts
    api.kill()
    wait_until(lambda: api.starts > starts)
    wait_until(lambda: patient_client.get(job).state == "running")
    patient_client.cancel(job)
    follower.join(60)
    assert [ended.state for ended in ends] == ["canceled"]


def test_an_interrupted_command_resumes_its_upload(system, large, tmp_path):
    environment = os.environ | {
        "ROLLOUT_URL": str(system.client.base_url),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    # In small pieces, so that the upload lasts until the signal.
    small = ["tests.system.constants", "rollout_core.client.uploading:PIECE_BYTES=400000"]
    command = [sys.executable, "-m", *small, "rollout_core.client", "submit", str(large)]
    command += ["--model", "fake", "-o", str(tmp_path / "out")]
    # What a shell starts in the background ignores the signal, and so do its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, env=environment, cwd=ROOT)
    wait_until(lambda: list(tmp_path.glob("cache/timesformer-rollout/uploads/*.json")))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    notes = list(tmp_path.glob("cache/timesformer-rollout/uploads/*.json"))
    done = subprocess.run(command, env=environment, cwd=ROOT, timeout=120)
    assert done.returncode == 0
    assert list(tmp_path.glob("cache/timesformer-rollout/uploads/*.json")) == notes
