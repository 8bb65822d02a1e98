"""The fake worker in an environment that has only the extra `fake`: no torch and nothing near it.

The environment that runs the tests has these packages, so an import hook hides them. Python loads
it in every child process, except in media: that gets an environment without PYTHONPATH.
"""

import json
import os
import subprocess
import sys

import pytest
from redis import Redis

from tests.system.processes import ROOT
from tests.system.system import open_system
from tests.worker.clips import make_video

HIDDEN = (
    "einops",
    "huggingface_hub",
    "safetensors",
    "timm",
    "torch",
    "torchvision",
    "tqdm",
    "transformers",
)

HOOK = f"""
import sys

HIDDEN = {HIDDEN!r}


class Hider:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None


sys.meta_path.insert(0, Hider)
"""


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """Return a PYTHONPATH with which the hidden packages cannot be imported."""
    folder = tmp_path_factory.mktemp("hook")
    (folder / "sitecustomize.py").write_text(HOOK)
    return f"{folder}{os.pathsep}{ROOT}"


@pytest.fixture
def run(hidden, tmp_path):
    """Run Python without the hidden packages."""

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": hidden},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.mark.parametrize("module", HIDDEN)
def test_the_hook_hides_a_package(run, module):
    done = run("-c", f"import {module}")
    assert done.returncode == 1
    assert done.stderr.endswith(f"ModuleNotFoundError: No module named '{module}'\n")


def test_fake_worker_serves_a_job(hidden, monkeypatch, tmp_path):
    video = make_video(tmp_path / "video.mp4", seconds=2).read_bytes()
    with open_system() as system:
        system.api()
        monkeypatch.setenv("PYTHONPATH", hidden)
        worker = system.worker(model="fake", kept=False)
        system.await_models("fake")
        job = system.wait(system.accepted(video, faithfulness=True), seconds=60)
        assert job["state"] == "succeeded", (job, worker.log.read_text())
        names = {artifact["name"] for artifact in job["result"]["artifacts"]}
        assert {"rollout.npz", "overlay.mp4", "sheet.png", "faithfulness.png"} <= names
        assert job["attempt"] == 1
        assert "Traceback" not in worker.log.read_text()


def test_the_fixture_and_the_suite_run(run):
    suite = ("--pyargs", "rollout_core.testing.contract", "-k", "test_models or test_arrays")
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *suite)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.parametrize(
    "module", ["worker.__main__", "worker.media", "worker.fake_engine", "worker.engine_server"]
)
def test_fake_worker_imports_none_of_them(run, module):
    """Media is covered here: the hook does not reach its process."""
    done = run("-c", f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert set(HIDDEN).isdisjoint(json.loads(done.stdout))


def require_one_line(done, command):
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{command} needs the extra 'worker': ")
    assert "pip install 'timesformer-rollout[worker]'" in line


def test_torch_engine_names_the_missing_extra(run, redis: Redis, redis_url):
    done = run("-m", "worker", "--engine", "torch", "--redis-url", redis_url)
    require_one_line(done, "rollout-worker")
    assert redis.dbsize() == 0


def test_explain_names_the_missing_extra(run, tmp_path):
    done = run("-m", "rollout_core", str(make_video(tmp_path / "video.mp4", seconds=1)))
    require_one_line(done, "rollout-explain")
