"""The steps of Backup in docs/operations.md, on a service that runs: copy, destroy, restore."""

import re
import shlex
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.system.system import START_SECONDS, open_system
from tests.system.tools import require_tool
from tests.system.waiting import wait_until

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"

VANISHED = 24
"""Exit status of rsync if files were removed while it copied, as the document says."""


@pytest.fixture
def running_system():
    with open_system(forked=True) as system:
        system.api()
        for model in ("fake", "fake-slow"):
            system.worker(model=model)
        system.await_models("fake", "fake-slow")
        yield system


@pytest.fixture(scope="module")
def section():
    _, _, rest = DOCUMENT.read_text(encoding="utf-8").partition("\n## Backup\n")
    return rest.partition("\n## ")[0]


@pytest.fixture
def commands(section, running_system, tmp_path):
    """Return the two commands of the document, for the folders of this test."""
    require_tool("rsync")
    places = {"/srv/rollout/": f"{running_system.data_dir}/", "backup:/rollout/": f"{tmp_path}/"}
    found = re.findall(r"^ {4}(rsync .+)$", section, re.MULTILINE)
    back_up, restore = (
        [places.get(word, word) for word in shlex.split(command)] for command in found
    )
    assert back_up[-2:] == restore[:-3:-1] == list(places.values())
    return back_up, restore


def run(command):
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def artifacts_of(system, job_id):
    """Return all files of a job's result, by their names."""
    names = [each["name"] for each in system.job(job_id)["result"]["artifacts"]]
    answers = {name: system.client.get(f"/v1/jobs/{job_id}/artifacts/{name}") for name in names}
    return {name: answer.raise_for_status().content for name, answer in answers.items()}


def videos_of(system):
    """Return how many paths lead to videos in the store, and how many videos these are."""
    paths = [path for path in system.data_dir.rglob("video") if path.is_file()]
    return len(paths), len({path.stat().st_ino for path in paths})


def listed(system):
    return {job["id"] for job in system.client.get("/v1/jobs?limit=50").json()["jobs"]}


def destroy(system, *, with_redis):
    """End all processes as a broken machine does, and remove what they have stored."""
    for process in system.processes:
        if process is not system.valkey:
            process.take_down()
    shutil.rmtree(system.data_dir)
    if with_redis:
        system.forget_everything()
    system.await_valkey()


def start(system):
    for process in system.processes:
        if process is not system.valkey:
            process.bring_up()
    wait_until(lambda: answers(system), START_SECONDS, "the API to be ready")
    system.await_models("fake", "fake-slow")


def answers(system):
    with suppress(httpx.TransportError):
        return system.client.get("/readyz").is_success
    return False


@pytest.mark.parametrize("with_redis", [True, False], ids=["redis is lost", "redis is kept"])
def test_a_restored_backup_has_every_result_and_ends_every_job(
    running_system, commands, video, long_video, with_redis
):
    system, (back_up, restore) = running_system, commands
    done = [system.accepted(video) for _ in range(2)]
    broken = system.accepted(video[: len(video) // 3] + bytes(2000))
    deleted = system.accepted(video, overlay=None)
    for job_id in (*done, broken, deleted):
        system.wait(job_id)
    assert run(back_up).returncode == 0
    assert system.client.delete(f"/v1/jobs/{deleted}").status_code == 204
    slow = [system.accepted(long_video, "fake-slow", clips="tile", overlay=None) for _ in range(3)]
    canceled = system.accepted(video, "fake-slow")
    system.client.post(f"/v1/jobs/{canceled}/cancel").raise_for_status()
    ended = {job_id: system.job(job_id) for job_id in (*done, broken, canceled)}
    results = {job_id: artifacts_of(system, job_id) for job_id in done}
    system.wait(slow[0], "running")

    copied = run(back_up)  # while a job runs, and two wait

    assert copied.returncode in (0, VANISHED), copied.stderr
    assert [system.job(job_id)["state"] for job_id in slow[1:]] == ["queued"] * 2
    videos = videos_of(system)
    late = system.accepted(video, overlay=None)
    assert system.client.delete(f"/v1/jobs/{done[1]}").status_code == 204  # it comes back
    destroy(system, with_redis=with_redis)
    assert run(restore).returncode == 0
    start(system)

    assert {job_id: system.job(job_id) for job_id in ended} == ended
    assert {job_id: artifacts_of(system, job_id) for job_id in done} == results
    assert [system.wait(job_id)["state"] for job_id in slow] == ["succeeded"] * 3
    assert videos_of(system) == videos
    assert listed(system) == {*ended, *slow}
    for job_id in (deleted, late):
        assert system.client.get(f"/v1/jobs/{job_id}").status_code == 404
    assert system.wait(system.accepted(video, overlay=None))["state"] == "succeeded"


def test_the_document_says_that_files_may_vanish(section):
    assert f"status {VANISHED}" in section
