"""Both clients against the real API, a real Valkey server and a worker with the fake engine."""

import json
from hashlib import sha256

import pytest

from rollout_core.client import NoResult, RolloutApiError


@pytest.fixture
def client(open_client, system):
    return open_client(str(system.client.base_url))


def test_a_video_is_explained_and_its_files_arrive(client, film, tmp_path):
    job = client.explain(film, model="fake", method="attention", layer=1)
    assert job.state == "succeeded"
    paths = client.download(job, tmp_path / "out")
    for path, artifact in zip(paths, job.result.artifacts, strict=True):
        assert sha256(path.read_bytes()).hexdigest() == artifact.sha256
    assert {"result.json", "rollout.npz", "overlay.mp4", "sheet.png"} <= {p.name for p in paths}


def test_the_result_is_read(client, film):
    job = client.explain(film, model="fake", overlay=None)
    result, arrays = client.result(job), client.arrays(job)
    assert result.predictions == job.result.predictions
    assert result.request.overlay is None
    assert arrays.relevance.shape[:2] == (result.clips, result.frames)
    assert arrays.meta["model"] == "fake"


def test_the_events_of_a_job_end_with_its_end(client, film):
    events = list(client.events(client.submit(film, model="fake")))
    assert [event.kind for event in events].count("end") == 1
    assert events[-1].job.state == "succeeded"


def test_a_job_that_fails_says_why(client, film):
    job = client.explain(film, model="fake-fail")
    assert (job.state, job.error.code) == ("failed", "out_of_memory")
    with pytest.raises(NoResult, match="The model ran out of memory"):
        client.result(job)


def test_a_job_is_listed_canceled_and_deleted(client, film):
    job = client.submit(film, model="fake-hang")
    assert job.id in {listed.id for listed in client.list()}
    client.cancel(job)
    assert client.wait(job, timeout_seconds=30).state == "canceled"
    client.delete(job)
    with pytest.raises(RolloutApiError) as caught:
        client.get(job)
    assert (caught.value.code, caught.value.status) == ("job_not_found", 404)


def test_a_second_question_sends_no_bytes(client, film):
    upload = client.upload(film)
    first = client.explain(upload, model="fake")
    second = client.explain(client.get_upload(first.upload), model="fake", method="attention")
    assert first.upload == second.upload == upload.id
    assert first.state == second.state == "succeeded"
    client.delete_upload(upload)
    with pytest.raises(RolloutApiError) as caught:
        client.submit(upload, model="fake")
    assert (caught.value.code, caught.value.status) == ("upload_not_found", 404)


def test_models_are_listed(client):
    served = {model.name: model for model in client.models()}
    assert served["fake"].ready == 1


def test_a_file_that_is_no_video_is_refused(client, tmp_path):
    (tmp_path / "notes.txt").write_text("no video " * 100)
    with pytest.raises(RolloutApiError) as caught:
        client.submit(tmp_path / "notes.txt", model="fake")
    assert (caught.value.code, caught.value.status) == ("video_container_unsupported", 415)


def test_an_unknown_model_is_refused(client, film):
    with pytest.raises(RolloutApiError) as caught:
        client.submit(film, model="not-there")
    assert caught.value.status in (422, 503)


def test_an_interrupted_download_is_resumed(client, system, film, tmp_path):
    job = client.explain(film, model="fake")
    (sheet,) = [a for a in job.result.artifacts if a.name == "sheet.png"]
    whole = system.client.get(sheet.url).content
    part = tmp_path / f".sheet.png.{sheet.sha256[:16]}.part"
    part.write_bytes(whole[:1000])
    told = []
    (path,) = client.download(job, tmp_path, ["sheet.png"], on_bytes=lambda *b: told.append(b))
    assert path.read_bytes() == whole
    assert told[0][0] > 1000
    assert not part.exists()


def test_the_schema_of_answers_is_that_of_the_service(client, system, film):
    job = client.explain(film, model="fake")
    answer = system.client.get(f"/v1/jobs/{job.id}").json()
    assert json.loads(job.model_dump_json()) == answer
