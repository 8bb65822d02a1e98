"""The demo's client with a real service and a worker with the fake engine."""

import importlib.util
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

NAMES = {"result.json", "rollout.npz", "overlay.mp4", "sheet.png"}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Return a video of one second: a square that moves to the right."""
    path = tmp_path_factory.mktemp("video") / "drift.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 25, width=160, height=96, pix_fmt="yuv420p")
        for step in range(25):
            picture = np.full((96, 160, 3), 40, np.uint8)
            picture[32:64, 4 * step : 4 * step + 32] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def demo(root, tmp_path_factory):
    """Return a copy of the client in a temporary folder, which also gets its demo-output/."""
    folder = tmp_path_factory.mktemp("demo")
    for name in ("scripts", "t"):
        (folder / name).mkdir()
    shutil.copy(root / "scripts" / "demo.py", folder / "scripts")

    settings = {"ROLLOUT_ENGINE": "fake", "TMPDIR": str(folder / "t")}
    processes = []
    # A shell's background job ignores SIGINT, and its child processes would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def start(*arguments, model="fake", stderr=subprocess.PIPE, **environment):
        process = subprocess.Popen(
            [sys.executable, folder / "scripts" / "demo.py", *arguments],
            env=os.environ | settings | {"ROLLOUT_MODEL": model} | environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        processes.append(process)
        return process

    def run(*arguments, **options):
        process = start(*arguments, **options)
        out, err = process.communicate(timeout=60)
        status, last = process.returncode, err.splitlines()[-1:]
        return SimpleNamespace(status=status, out=out, err=err, last=last)

    output = folder / "demo-output"
    yield SimpleNamespace(folder=folder, output=output, start=start, run=run)
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)
    signal.signal(signal.SIGINT, before)
    assert list((folder / "t").iterdir()) == []
    assert processes_that_name(folder) == []


def processes_that_name(folder):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue  # it ended meanwhile
    return found


@pytest.fixture
def client(root, tmp_path, monkeypatch):
    """Return the client as a module, with a temporary output folder and sample label."""
    spec = importlib.util.spec_from_file_location("demo_client", root / "scripts" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "OUTPUT", tmp_path)
    monkeypatch.setattr(module, "SAMPLE", tmp_path / "sample.mp4")
    (tmp_path / "sample.label").write_text("right\n")
    return module


def test_writes_exactly_the_four_files(demo, video):
    demo.output.mkdir()
    (demo.output / "sheet.png").write_text("of an earlier run")
    done = demo.run(video)
    assert (done.status, done.err) == (0, "")  # no bars in a pipe
    assert {path.name for path in demo.output.iterdir()} == NAMES
    result = json.loads((demo.output / "result.json").read_text())
    for artifact in result["artifacts"]:
        data = (demo.output / artifact["name"]).read_bytes()
        assert sha256(data).hexdigest() == artifact["sha256"]
    for prediction in result["predictions"]:
        assert f"{prediction['probability']:7.2%}  {prediction['label']}\n" in done.out
    assert all(str(demo.output / name) in done.out for name in NAMES)


def test_sample_clip_of_another_class_is_an_error(demo, video):
    folder = demo.folder / "rollout_core" / "demo"
    folder.mkdir(parents=True)
    shutil.copy(video, folder / "sample.mp4")
    (folder / "sample.label").write_text("no such class\n")
    done = demo.run()
    assert done.status == 1
    found = json.loads((demo.output / "result.json").read_text())["predictions"][0]["label"]
    assert done.last == [
        f"demo: the sample clip shows 'no such class', but the model predicts {found!r}"
    ]


def test_sample_clip_is_checked_by_its_first_prediction(client):
    def job(*labels):
        predictions = [SimpleNamespace(label=label) for label in labels]
        return SimpleNamespace(result=SimpleNamespace(predictions=predictions))

    client.check_sample(job("right", "left"))
    with pytest.raises(client.DemoError, match="shows 'right', but the model predicts 'left'"):
        client.check_sample(job("left", "right"))


def test_failed_job_is_reported_in_one_line(demo, video):
    demo.output.mkdir()
    (demo.output / "result.json").write_text("of an earlier run")
    done = demo.run(video, model="fake-fail")
    assert done.status == 1
    assert done.last[0].startswith("demo: the job has failed: The model ran out of memory:")
    assert list(demo.output.iterdir()) == []


def test_file_that_is_no_video_is_refused(demo, tmp_path):
    (tmp_path / "notes.txt").write_text("not a video\n" * 1000)
    done = demo.run(tmp_path / "notes.txt")
    assert done.status == 1
    assert done.last[0].startswith("demo: the service refused: Not a video container")


def test_missing_file_is_reported_before_anything_starts(demo):
    done = demo.run("nowhere.mp4")
    assert (done.status, done.last) == (1, ["demo: there is no file nowhere.mp4"])
    assert not demo.output.exists()


def test_service_that_cannot_start_is_reported(demo, video):
    done = demo.run(video, ROLLOUT_MAX_QUEUED="none")
    assert done.status == 1
    assert done.last[0].startswith("demo: the service did not start: rollout-service: max_queued")


def read_all(terminal):
    """Read until the other side has closed, which a terminal tells as an error."""
    seen = b""
    with suppress(OSError):
        while chunk := os.read(terminal, 4096):
            seen += chunk
    return seen.decode()


def test_ctrl_c_stops_everything(demo, video):
    terminal, theirs = pty.openpty()
    process = demo.start(video, model="fake-hang", stderr=theirs)
    os.close(theirs)
    assert process.stdout.readline() == f"Explaining {video}\n"
    assert os.read(terminal, 1)  # of a progress bar: a library's first call can lose an interrupt
    process.send_signal(signal.SIGINT)
    told = read_all(terminal)
    os.close(terminal)
    process.communicate(timeout=60)
    assert (process.returncode, told.splitlines()[-1]) == (130, "demo: interrupted")
    assert list(demo.output.iterdir()) == []


def test_two_videos_are_refused(demo, video):
    done = demo.run(video, video)
    assert (done.status, done.last) == (2, ["usage: scripts/demo [VIDEO]"])
