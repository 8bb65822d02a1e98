import asyncio
import json
import shutil
from hashlib import sha256

import pytest

from rollout_core.jobs.records import JobError
from tests.service.test_uploads import END, call, part

JSON = "application/json"


def form(mp4, request=None):
    files = {"video": ("clip.mp4", mp4)}
    if request is not None:
        files["request"] = (None, request, JSON)
    return files


class TestCreate:
    def test_an_upload_becomes_a_job(self, client, announce, mp4, store):
        announce(seconds_per_job=4)

        response = client.post("/v1/jobs", files=form(mp4, '{"clips": "tile"}'))

        job = response.json()
        assert response.status_code == 202
        assert response.headers["location"] == f"/v1/jobs/{job['id']}"
        assert response.headers["retry-after"] == "4"
        assert client.get(response.headers["location"]).json() == job
        assert store.upload_path(job["id"]).read_bytes() == mp4

    def test_the_answer_has_every_field_of_the_contract(self, client, announce, mp4):
        announce()

        job = client.post("/v1/jobs", files=form(mp4)).json()

        created_at = job.pop("created_at")
        assert created_at.endswith("Z")
        assert job == {
            "id": job["id"],
            "state": "queued",
            "model": "fake",
            "tag": None,
            "upload": job["upload"],
            "priority": "normal",
            "filename": "clip.mp4",
            "reused_from": None,
            "expires_at": job["expires_at"],
            "started_at": None,
            "ended_at": None,
            "attempt": 0,
            "queue_position": 1,
            "waiting_for": "turn",
            "progress": None,
            "request": {
                "model": "fake",
                "method": "rollout",
                "weighting": None,
                "head_fusion": "mean",
                "discard_ratio": 0.0,
                "start_layer": 0,
                "layer": None,
                "reference": "still",
                "target": None,
                "against": None,
                "query": "cls",
                "per_layer": False,
                "full_rollout": False,
                "faithfulness": False,
                "sampling": None,
                "clips": "one",
                "start_seconds": None,
                "end_seconds": None,
                "stream": None,
                "allow_incomplete": False,
                "preview": False,
                "fake": None,
                "overlay": {
                    "colormap": "plasma",
                    "opacity": 0.6,
                    "layout": "overlay",
                    "scale": "video",
                    "signed": False,
                    "contours": False,
                    "caption": True,
                    "max_height": 1080,
                },
            },
            "result": None,
            "error": None,
        }

    def test_an_unknown_model(self, client, announce, mp4, leftovers):
        announce()

        response = client.post("/v1/jobs", files=form(mp4, '{"model": "other"}'))

        assert response.status_code == 422
        assert response.json()["code"] == "unknown_model"
        assert "fake" in response.json()["detail"]
        assert leftovers() == []

    @pytest.mark.parametrize(
        ("request_", "detail"),
        [
            ('{"method": "attention", "discard_ratio": 0.5}', "discard_ratio is for rollout"),
            ('{"method": "attention", "target": 1}', "target is for gradient_rollout"),
            ('{"full_rollout": true, "clips": "tile"}', "full_rollout is for one clip"),
            ('{"faithfulness": true, "clips": "tile"}', "faithfulness is for one clip"),
            ('{"start_layer": 12}', "start_layer: there is no layer 12; the model has 12 layers"),
            (
                '{"method": "gradient_rollout", "target": "none"}',
                "target: fake has no class",
            ),
            ('{"query": {"frame": 4, "row": 0, "column": 0}}', "query: frame is 4"),
        ],
    )
    def test_a_request_that_does_not_fit_the_model_is_refused(
        self, client, announce, mp4, leftovers, request_, detail
    ):
        announce()

        response = client.post("/v1/jobs", files=form(mp4, request_))

        assert response.status_code == 422
        assert response.json()["code"] == "invalid_request"
        told = response.json()["detail"].removeprefix("request: ").removeprefix("request.")
        assert told.startswith(detail)
        (fault,) = response.json()["errors"]
        assert f"{fault['field']}: {fault['message']}" == response.json()["detail"]
        assert leftovers() == []

    def test_a_full_queue(self, open_client, announce, mp4, leftovers):
        announce(seconds_per_job=30)
        client = open_client(max_queued=1)
        client.post("/v1/jobs", files=form(mp4))
        stored = leftovers()

        response = client.post("/v1/jobs", files=form(mp4))

        assert response.status_code == 429
        assert response.headers["retry-after"] == "30"
        assert response.json()["code"] == "queue_full"
        assert leftovers() == stored

    def test_while_every_queue_is_full_no_body_is_read(self, open_client, announce, mp4):
        announce("a", worker="w1", seconds_per_job=30)
        announce("b", worker="w2", seconds_per_job=20)
        client = open_client(max_queued=1)
        upload = [part("video", mp4) + END]
        for model in ("a", "b"):
            assert asyncio.run(call(client, upload))[0]["status"] == 422  # a model must be named
            assert client.post("/v1/jobs", files=form(mp4, f'{{"model": "{model}"}}'))

        status = asyncio.run(call(client, unread()))[0]

        assert status["status"] == 429
        assert (b"retry-after", b"20") in status["headers"]

    def test_a_used_up_quota_is_told_before_the_body_is_read(
        self, open_client, announce, mp4, tmp_path
    ):
        announce()
        digest = sha256(b"a").hexdigest()
        (tmp_path / "keys").write_text(f'[ann]\nsha256 = "{digest}"\nmax_queued_jobs = 1\n')
        client = open_client(api_keys_file=tmp_path / "keys")
        key = {"Authorization": "Bearer a"}
        first = client.post("/v1/jobs", files=form(mp4), headers=key).json()

        started, body = asyncio.run(call(client, unread(), (b"authorization", b"Bearer a")))

        assert (started["status"], json.loads(body["body"])["code"]) == (429, "quota_exceeded")
        client.delete(f"/v1/jobs/{first['id']}", headers=key)
        assert client.post("/v1/jobs", files=form(mp4), headers=key).status_code == 202

    def test_while_redis_is_away_no_body_is_read(self, open_client, tmp_path):
        client = open_client(redis_url=f"unix://{tmp_path / 'nowhere'}")

        assert asyncio.run(call(client, unread()))[0]["status"] == 503

    def test_a_key_revoked_during_the_upload_is_refused(
        self, open_client, announce, mp4, tmp_path, leftovers
    ):
        announce()
        (path := tmp_path / "keys").write_text(f'[ann]\nsha256 = "{sha256(b"a").hexdigest()}"\n')
        client = open_client(api_keys_file=path)

        def body():
            yield part("video", mp4)
            path.write_text("")
            yield END

        started, ended = asyncio.run(call(client, body(), (b"authorization", b"Bearer a")))

        assert (started["status"], json.loads(ended["body"])["code"]) == (401, "unauthorized")
        assert leftovers() == []

    def test_the_default_model_is_a_setting(self, open_client, announce, mp4):
        announce("a", worker="w1")
        announce("b", worker="w2")

        assert (
            open_client(default_model="b").post("/v1/jobs", files=form(mp4)).json()["model"] == "b"
        )
        assert open_client().post("/v1/jobs", files=form(mp4)).status_code == 422


def unread():
    """Yield a body that fails the test if it is read."""
    pytest.fail("the body was read")
    yield b""


class TestGet:
    def test_a_failed_job_carries_its_error(self, client, new_job, worker):
        job_id = new_job()
        worker.claim(job_id)
        worker.fail(job_id, JobError(code="video_too_long", title="Too long", detail="9 h"))

        job = client.get(f"/v1/jobs/{job_id}").json()

        assert job["state"] == "failed"
        assert job["error"] == {"code": "video_too_long", "title": "Too long", "detail": "9 h"}

    def test_a_job_that_has_succeeded_says_where_its_files_are(self, client, new_job, worker):
        job_id = new_job()
        files = worker.succeed(job_id)

        result = client.get(f"/v1/jobs/{job_id}").json()["result"]

        assert result["predictions"] == [{"label": "left", "index": 0, "probability": 0.75}]
        assert (result["clips"], result["frames"]) == (2, 8)
        for artifact in result["artifacts"]:
            content = client.get(artifact["url"]).content
            assert len(content) == artifact["bytes"]
            assert content == files.get(artifact["name"], content)

    @pytest.mark.parametrize(
        "job_id",
        ["0" * 32, "nonsense", "A" * 32, "..", "%2e%2e", "0" * 31, "0" * 33, "0" * 31 + "%0A"],
    )
    @pytest.mark.parametrize(("method", "tail"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel")])
    def test_an_unknown_id(self, client, method, tail, job_id):
        response = client.request(method, f"/v1/jobs/{job_id}{tail}")

        assert response.status_code in (404, 405)
        assert response.headers["content-type"] == "application/problem+json"

    def test_only_an_id_comes_near_the_store(self, client, new_job, worker, settings):
        job_id = new_job()
        worker.succeed(job_id)
        jobs = settings.data_dir / "jobs"
        shutil.copytree(jobs / job_id, jobs / "strange")

        assert client.get("/v1/jobs/strange").json()["code"] == "job_not_found"
        assert client.get("/v1/jobs/strange/artifacts/sheet.png").status_code == 404
        assert client.delete("/v1/jobs/strange").status_code == 404
        assert (jobs / "strange" / "result").exists()


class TestList:
    def test_pages_follow_each_other(self, client, new_job):
        ids = [new_job() for _ in range(3)][::-1]

        first = client.get("/v1/jobs", params={"limit": 2}).json()
        second = client.get("/v1/jobs", params={"cursor": first["next_cursor"]}).json()

        assert [job["id"] for job in first["jobs"]] == ids[:2]
        assert [job["id"] for job in second["jobs"]] == ids[2:]
        assert second["next_cursor"] is None

    def test_by_state(self, client, new_job):
        canceled, queued = new_job(), new_job()
        client.post(f"/v1/jobs/{canceled}/cancel")

        page = client.get("/v1/jobs", params={"state": "queued"}).json()

        assert [job["id"] for job in page["jobs"]] == [queued]

    @pytest.mark.parametrize(
        ("query", "field"),
        [("limit=0", "query.limit"), ("limit=201", "query.limit"), ("state=lost", "query.state")],
    )
    def test_a_wrong_query_names_its_field(self, client, query, field):
        response = client.get(f"/v1/jobs?{query}")

        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == field

    def test_an_invalid_cursor_is_refused(self, client):
        response = client.get("/v1/jobs?cursor=strange")

        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


class TestEnd:
    def test_cancel_a_waiting_job(self, client, new_job):
        job_id = new_job()

        response = client.post(f"/v1/jobs/{job_id}/cancel")

        assert (response.status_code, response.json()["state"]) == (202, "canceled")

    def test_cancel_an_ended_job(self, client, new_job, worker):
        job_id = new_job()
        worker.succeed(job_id)

        response = client.post(f"/v1/jobs/{job_id}/cancel")

        assert (response.status_code, response.json()["code"]) == (409, "job_ended")

    def test_delete(self, client, new_job, worker, leftovers):
        job_id = new_job()
        worker.succeed(job_id)

        response = client.delete(f"/v1/jobs/{job_id}")

        assert (response.status_code, response.content) == (204, b"")
        assert "content-type" not in response.headers
        assert leftovers() == []
        assert client.get(f"/v1/jobs/{job_id}").status_code == 404
        assert client.delete(f"/v1/jobs/{job_id}").status_code == 404
