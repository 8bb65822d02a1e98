from io import StringIO
from pathlib import Path

import pytest

from rollout_core.client import NoResult, RolloutApiError
from rollout_core.client.display import Display
from rollout_core.client.submitting import (
    Task,
    describe_task,
    error_json,
    explain_failure,
    make_tasks,
    show_job,
)
from rollout_core.jobs.schemas import Job

OUT = Path("out")


@pytest.fixture
def videos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/two.MOV", "b/one.mp4", "b/deep/one.mkv", "b/notes.txt", "one.avi"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def test_folders_are_searched_and_each_video_gets_a_folder(videos):
    tasks = make_tasks(["one.avi", "b", "https://host/x/one.mp4?token=a.b"], OUT)
    assert [(task.source, str(task.folder)) for task in tasks] == [
        ("one.avi", "out/one"),
        ("b/deep/one.mkv", "out/deep/one"),
        ("b/one.mp4", "out/one-2"),
        ("b/two.MOV", "out/two"),
        ("https://host/x/one.mp4?token=a.b", "out/one-3"),
    ]


def test_a_video_that_is_named_twice_has_one_task(videos):
    url = "https://host/a.mp4"
    tasks = make_tasks(["b", "b/one.mp4", "./b/two.MOV", url, url], OUT)
    assert [task.source for task in tasks] == ["b/deep/one.mkv", "b/one.mp4", "b/two.MOV", url]


def test_names_of_subfolders_are_kept_for_a_path_that_leaves_and_comes_back(videos):
    assert [str(task.folder) for task in make_tasks(["b/../b/", "."], OUT)] == [
        "out/deep/one",
        "out/one",
        "out/two",
        "out/one-2",
    ]


@pytest.mark.parametrize("url", ["https://host", "https://host/", "https://host/..", "http://h/?a"])
def test_an_address_cannot_leave_the_output(url):
    (task,) = make_tasks([url], OUT)
    assert task.folder.parent == OUT
    assert task.folder.name not in ("", ".", "..")


def test_a_file_of_any_name_may_be_given_itself(videos):
    assert [task.source for task in make_tasks(["b/notes.txt"], OUT)] == ["b/notes.txt"]


@pytest.mark.parametrize(("source", "text"), [("gone", "No such file"), ("empty", "No video")])
def test_what_is_not_there_is_an_error(videos, source, text):
    Path("empty").mkdir()
    with pytest.raises(FileNotFoundError, match=text):
        make_tasks([source], OUT)


def task(server, state="succeeded", **fields):
    job = server.job(1, state=state, **fields)
    if state == "succeeded":
        job = server.ended(job) | fields
    return Task("a\x1b.mp4", OUT, Job.model_validate(job, extra="ignore"))


def test_a_task_is_one_line(server):
    job_id = "0" * 31 + "1"
    assert describe_task(task(server)) == f"a\ufffd.mp4: left 75.0% (job {job_id})"
    again = task(server, reused_from="f" * 32)
    again.files = (OUT / "sheet.png",)
    assert describe_task(again) == "a\ufffd.mp4: left 75.0% (an earlier answer) → out"
    queued = task(server, "queued")
    assert describe_task(queued) == f"a\ufffd.mp4: queued (job {job_id})"
    error = {"code": "no_worker", "title": "No worker", "detail": "for it"}
    failed = task(server, "failed", error=error)
    assert describe_task(failed) == f"a\ufffd.mp4: failed: No worker: for it (job {job_id})"
    assert failed.has_failed
    refused = Task("a.mp4", OUT, failure=OSError(28, "No space left", "a.mp4"))
    assert describe_task(refused) == "a.mp4: failed: a.mp4: No space left"


def test_a_job_that_is_followed_by_its_id_is_named_once_in_a_line(server):
    job, lines = task(server, "queued", queue_position=2).job, StringIO()
    show_job(Display(err=lines), job.id, job)
    show_job(Display(err=lines), "a.mp4", job)
    assert lines.getvalue().splitlines() == [
        f"{job.id}: queued, 2 in the queue",
        f"a.mp4: job {job.id} queued, 2 in the queue",
    ]


def test_a_download_that_fails_names_the_job(server):
    broken = task(server)
    broken.failure = OSError(28, "No space left")
    assert describe_task(broken).endswith(f"failed: No space left (job {broken.job.id})")


def test_failures_are_told_to_people_and_programs(server):
    refused = RolloutApiError("queue_full", "Too many jobs", "try later", status=429)
    assert explain_failure(refused) == "Too many jobs: try later"
    assert error_json(refused) == {
        "code": "queue_full",
        "status": 429,
        "title": "Too many jobs",
        "detail": "try later",
    }
    missing = NoResult(task(server, "queued").job)
    assert error_json(missing)["code"] is None
    assert error_json(missing)["detail"].endswith("it is queued")
