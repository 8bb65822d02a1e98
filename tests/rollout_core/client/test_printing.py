from rollout_core.client.printing import job_lines, job_table
from rollout_core.jobs.schemas import Job


def job(server, **fields):
    return Job.model_validate(server.job(1, **fields), extra="ignore")


def test_columns_are_aligned_and_cells_clean(server):
    jobs = [job(server, tag="a tag", filename="a\nb.mp4"), job(server, model="a-long-name")]
    head, first, second = job_table(jobs)
    assert first.index("fake") == second.index("a-long-name") == head.index("MODEL")
    assert first.endswith("a tag  a\ufffdb.mp4")
    assert second == second.rstrip()


def test_facts_that_are_null_are_left_out(server):
    lines = list(job_lines(job(server)))
    assert not any(line.startswith(("error", "progress", "tag")) for line in lines)
    assert "state:            queued" in lines


def test_a_job_that_runs_shows_its_progress(server):
    progress = {"stage": "explain", "done": 2, "total": 9}
    lines = list(job_lines(job(server, state="running", progress=progress)))
    assert "progress:         explain 2 of 9" in lines


def test_only_a_job_with_files_says_how_long_they_are_kept(server):
    ended = server.ended(server.job(1))
    expires = {"expires_at": "2026-01-01T00:00:00Z"}
    kept = "files kept until: 2026-01-01 00:00:00+00:00"
    assert kept in job_lines(Job.model_validate(ended | expires, extra="ignore"))
    error = {"code": "no_worker", "title": "No worker", "detail": "for it"}
    lines = list(job_lines(job(server, state="failed", error=error, **expires)))
    assert "error:            No worker: for it" in lines
    assert not any("kept" in line for line in lines)


def test_a_result_shows_predictions_and_warnings(server):
    ended = server.ended(server.job(1))
    ended["result"]["warnings"] = [{"code": "video_incomplete", "detail": "a part is missing"}]
    lines = list(job_lines(Job.model_validate(ended, extra="ignore")))
    assert lines[-2:] == ["          75.00%  left", "warning:          a part is missing"]
