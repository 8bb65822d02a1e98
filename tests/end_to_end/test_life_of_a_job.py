"""Every way in which a job can end, over HTTP, with the fake engine."""

import io
import json
import os

import av
import numpy as np
import pytest
from PIL import Image

from rollout_core.jobs.redis_records import LIVE_SECONDS
from rollout_core.pictures.caption_band import band_lines
from tests.system.processes import is_alive
from tests.system.waiting import WAIT_SECONDS, wait_until


def fetch(system, job_id: str, name: str) -> bytes:
    response = system.client.get(f"/v1/jobs/{job_id}/artifacts/{name}")
    assert response.status_code == 200, response.text
    return response.content


def archive_of(system, job_id: str) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(fetch(system, job_id, "rollout.npz")), allow_pickle=False) as found:
        return dict(found)


def is_explained(job) -> bool:
    return job["progress"] is not None and job["progress"]["stage"] == "explain"


def test_a_job_succeeds_with_all_artifacts(system, video):
    job_id = system.accepted(video)
    job = system.wait(job_id)
    assert job["state"] == "succeeded", job
    assert (job["model"], job["attempt"], job["error"]) == ("fake", 1, None)
    assert (job["result"]["clips"], job["result"]["frames"]) == (1, 8)
    assert len(job["result"]["predictions"]) == 5
    names = {artifact["name"] for artifact in job["result"]["artifacts"]}
    assert names == {"result.json", "rollout.npz", "overlay.mp4", "sheet.png"}

    stored = json.loads(fetch(system, job_id, "result.json"))
    assert stored["request"]["sampling"] == "uniform"
    with np.load(io.BytesIO(fetch(system, job_id, "rollout.npz")), allow_pickle=False) as found:
        assert found["relevance"].shape == (1, 8, 8, 8)
        assert json.loads(str(found["meta"]))["model"] == "fake"
    with av.open(io.BytesIO(fetch(system, job_id, "overlay.mp4"))) as overlay:
        stream = overlay.streams.video[0]
        assert (stream.width, stream.height) == (96, 80 + band_lines((96, 80)))
        assert len(list(overlay.decode(stream))) == 24
    with Image.open(io.BytesIO(fetch(system, job_id, "sheet.png"))) as sheet:
        assert sheet.format == "PNG"


def test_tiles_cover_the_whole_span(system, video):
    job_id = system.accepted(video, clips="tile", overlay=None)
    job = system.wait(job_id)
    assert job["result"]["clips"] == 3
    with np.load(io.BytesIO(fetch(system, job_id, "rollout.npz")), allow_pickle=False) as found:
        seconds = found["pts_seconds"]
    assert seconds.shape == (3, 8)
    assert [row.min() // 1 for row in seconds] == [0, 1, 2]


def test_the_same_upload_gives_the_same_answer(system, video):
    first, second = (system.accepted(video, overlay=None) for _ in range(2))
    for job_id in (first, second):
        assert system.wait(job_id)["state"] == "succeeded"
    assert system.job(first)["result"]["predictions"] == system.job(second)["result"]["predictions"]


def test_a_failure_of_the_engine_has_its_code(system, video):
    job = system.wait(system.accepted(video, "fake-fail"))
    assert (job["state"], job["attempt"]) == ("failed", 1)
    assert job["error"]["code"] == "out_of_memory"
    assert job["result"] is None


def test_a_crash_is_tried_three_times_and_the_next_job_is_served(system, video):
    first, second = system.accepted(video, "fake-crash"), system.accepted(video, "fake-crash")
    for job_id in (first, second):
        job = system.wait(job_id)
        assert (job["state"], job["attempt"]) == ("failed", 3)
        assert job["error"]["code"] == "worker_crashed"
    system.await_models("fake-crash")


def test_a_hanging_engine_fails_the_job_as_a_crash_does(system, video):
    job = system.wait(system.accepted(video, "fake-hang"))
    assert (job["state"], job["attempt"]) == ("failed", 3)
    assert job["error"]["code"] == "worker_crashed"
    assert "did not answer" in job["error"]["detail"]


def test_a_queued_job_is_canceled_at_once(system, video):
    running = system.accepted(video, "fake-slow", clips="tile", overlay=None)
    queued = system.accepted(video, "fake-slow")
    response = system.client.post(f"/v1/jobs/{queued}/cancel")
    assert (response.status_code, response.json()["state"]) == (202, "canceled")
    assert system.wait(running)["state"] == "succeeded"
    assert system.job(queued)["state"] == "canceled"
    assert system.job(queued)["attempt"] == 0


def test_a_running_job_is_canceled_at_a_clips_boundary(system, long_video):
    job_id = system.accepted(long_video, "fake-slow", clips="tile")
    system.wait(job_id, "running", until=is_explained)
    assert system.client.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
    job = system.wait(job_id)
    assert (job["state"], job["result"]) == ("canceled", None)
    assert system.client.post(f"/v1/jobs/{job_id}/cancel").status_code == 409


def test_a_job_deleted_while_it_runs_leaves_nothing_behind(system, video, long_video):
    job_id = system.accepted(long_video, "fake-slow", clips="tile")
    system.wait(job_id, "running")
    assert system.client.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert system.client.get(f"/v1/jobs/{job_id}").status_code == 404
    following = system.accepted(video, "fake-slow", overlay=None)
    assert system.wait(following)["state"] == "succeeded"
    assert system.client.get(f"/v1/jobs/{job_id}").status_code == 404
    assert not any(job_id in folder for folder, *_ in os.walk(system.data_dir))


def test_an_unknown_model_is_refused(system, video):
    def answer():
        response = system.submit(video, "no-such-model")
        return response.status_code, response.json()["code"]

    # While Redis is young, a worker may not have announced the model yet.
    wait_until(lambda: answer() != (503, "model_unavailable"))
    assert answer() == (422, "unknown_model")


def test_an_upload_in_no_video_container_is_refused(system):
    response = system.submit(b"ffconcat version 1.0\nfile '/etc/passwd'\n")
    assert response.status_code == 415
    assert response.headers["content-type"] == "application/problem+json"


def test_an_upload_that_cannot_be_decoded_fails_with_its_code(system, video):
    job = system.wait(system.accepted(video[: len(video) // 3] + bytes(2000)))
    assert job["state"] == "failed"
    assert job["error"]["code"].startswith("video_")
    assert job["attempt"] == 1


@pytest.mark.parametrize(
    ("request_", "detail"),
    [
        ({"start_layer": 40}, "start_layer: there is no layer 40; the model has 4 layers"),
        ({"method": "gradient_rollout", "target": "swimming"}, "no class 'swimming'"),
        ({"method": "attention", "start_layer": 1}, "start_layer is for"),
    ],
)
def test_a_request_that_the_model_cannot_fulfil_is_refused_at_once(system, video, request_, detail):
    response = system.submit(video, **request_)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert detail in response.json()["detail"]


def test_a_point_that_the_model_does_not_see_fails_with_its_code(system, video):
    job = system.wait(system.accepted(video, query={"x": 95, "y": 0, "seconds": 1}))
    assert (job["state"], job["error"]["code"]) == ("failed", "invalid_request")
    assert "outside what the model sees" in job["error"]["detail"]


@pytest.mark.parametrize(
    "request_",
    [
        {"method": "attention", "layer": 2},
        {"method": "gradient_rollout", "target": "turning"},
        {"method": "contribution_rollout", "weighting": "projection"},
        {"method": "contribution_rollout", "target": "turning"},
        {"method": "contribution_rollout", "target": "turning", "against": "growing"},
        {"method": "difference", "target": "turning", "reference": "blur"},
        {"method": "contribution_rollout", "weighting": "deviation"},
    ],
)
def test_every_method_is_answered_and_not_as_another_is(system, video, request_):
    ids = [system.accepted(video, overlay=None, **wanted) for wanted in ({}, request_)]
    assert [system.wait(job_id)["state"] for job_id in ids] == ["succeeded"] * 2
    plain, other = (archive_of(system, job_id) for job_id in ids)
    assert not np.allclose(plain["relevance"], other["relevance"], atol=1e-6)
    meta = json.loads(str(other["meta"]))
    options = {name: value for name, value in request_.items() if name != "method"}
    assert meta["method"].items() >= ({"name": request_["method"]} | options).items()
    assert meta["targets"] == ([options["target"]] if "target" in options else None)


def test_queries_layers_and_the_full_rollout_are_optional_results(system, video):
    patch = {"clip": 0, "frame": 1, "row": 2, "column": 3}
    # The model sees 80×80 pixels from (8, 0) as 8×8 patches; frame 1 is sampled at 0.56 s.
    point = {"x": 8 + 35, "y": 25, "seconds": 0.6}
    job_id = system.accepted(
        video, overlay=None, query=["cls", patch, point], per_layer=True, full_rollout=True
    )
    assert system.wait(job_id)["state"] == "succeeded"
    stored = json.loads(fetch(system, job_id, "result.json"))
    assert stored["queries"] == ["cls", patch, patch]
    assert sum(stored["frame_relevance"][0]) == pytest.approx(1, abs=1e-3)
    found = archive_of(system, job_id)
    assert found["layer_relevance"].shape == (1, 4, 8, 8, 8)
    row = found["full_rollout"][0, 1 + 64 + 2 * 8 + 3, 1:].astype(np.float32)
    np.testing.assert_allclose(found["query_relevance"][1, 0].ravel(), row, rtol=2e-3, atol=1e-6)
    np.testing.assert_array_equal(found["query_relevance"][1], found["query_relevance"][2])


def test_faithfulness_has_its_own_picture(system, video):
    job_id = system.accepted(video, overlay=None, faithfulness=True)
    job = system.wait(job_id)
    assert job["state"] == "succeeded", job
    assert job["result"]["timings_seconds"]["faithfulness"] > 0
    stored = json.loads(fetch(system, job_id, "result.json"))
    assert stored["faithfulness"]["target"]["index"] == stored["predictions"][0]["index"]
    for fill in stored["faithfulness"]["fills"]:
        assert fill["deletion"]["most_first"] < fill["deletion"]["random_mean"]
    with Image.open(io.BytesIO(fetch(system, job_id, "faithfulness.png"))) as plot:
        assert plot.format == "PNG"


@pytest.fixture
def temporary_worker(system):
    """Start workers that are killed when the test ends."""
    started = []

    def start(*flags: str):
        started.append(system.worker(*flags, kept=False))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()


def test_another_worker_finishes_the_job_of_a_killed_worker(system, long_video, temporary_worker):
    """Both jobs run on `fake-slow`, one of them on a worker of the session, which stays."""
    flags = ["--engine", "fake", "--model", "fake-slow"]
    mortal = temporary_worker(*flags)
    await_workers(system, "fake-slow", 2)
    running = [
        system.accepted(long_video, "fake-slow", clips="tile", overlay=None) for _ in range(2)
    ]
    for job_id in running:
        system.wait(job_id, "running", until=is_explained)
    children = mortal.children
    assert len(children) >= 2
    mortal.kill()
    jobs = [system.wait(job_id) for job_id in running]
    assert [job["state"] for job in jobs] == ["succeeded", "succeeded"]
    assert sorted(job["attempt"] for job in jobs) == [1, 2]
    assert not any(map(is_alive, children))


def test_a_stopped_worker_finishes_its_job_first(system, long_video, temporary_worker):
    flags = ["--engine", "fake", "--model", "fake-slow"]
    leaving = temporary_worker(*flags)
    await_workers(system, "fake-slow", 2)
    running = [
        system.accepted(long_video, "fake-slow", clips="tile", overlay=None) for _ in range(2)
    ]
    for job_id in running:
        system.wait(job_id, "running")
    children = leaving.children
    assert leaving.stop() == 0
    jobs = [system.wait(job_id) for job_id in running]
    assert [(job["state"], job["attempt"]) for job in jobs] == [("succeeded", 1)] * 2
    assert not any(map(is_alive, children))
    # It must say that it leaves: otherwise it would count as live for `LIVE_SECONDS`.
    await_workers(system, "fake-slow", 1, LIVE_SECONDS / 2)


def await_workers(system, model: str, count: int, seconds: float = WAIT_SECONDS) -> None:
    def are_ready() -> bool:
        served = system.client.get("/v1/models").json()["models"]
        return {item["name"]: item["ready"] for item in served}.get(model) == count

    wait_until(are_ready, seconds, f"{count} workers of {model}")
