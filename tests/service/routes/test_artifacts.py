import hashlib

import pytest

from rollout_core.contract import Artifact
from rollout_core.jobs.records import JobError
from service.errors import ArtifactNotFound
from service.routes.artifacts import ArtifactResponse, find

NAMES = (
    "result.json",
    "rollout.npz",
    "overlay.mp4",
    "sheet.png",
    "faithfulness.png",
    "preview.mp4",
    "thumbnails.jpg",
)


@pytest.fixture
def done(client, new_job, worker):
    """Return the path of a finished job's artifacts, and their contents."""
    job_id = new_job()
    files = worker.succeed(job_id)
    return f"/v1/jobs/{job_id}/artifacts", files


@pytest.mark.parametrize(
    ("name", "media_type", "disposition"),
    [
        ("result.json", "application/json", "inline"),
        ("rollout.npz", "application/octet-stream", "attachment"),
        ("overlay.mp4", "video/mp4", "inline"),
        ("sheet.png", "image/png", "inline"),
        ("faithfulness.png", "image/png", "inline"),
        ("preview.mp4", "video/mp4", "inline"),
        ("thumbnails.jpg", "image/jpeg", "inline"),
    ],
)
def test_a_file_comes_whole_and_named(client, done, name, media_type, disposition):
    folder, files = done

    response = client.get(f"{folder}/{name}")

    digest = hashlib.sha256(response.content).hexdigest()
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    assert response.headers["etag"] == f'"{digest}"'
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["accept-ranges"] == "bytes"
    job_id = folder.split("/")[3]
    assert (
        response.headers["content-disposition"] == f'{disposition}; filename="{job_id[:8]}-{name}"'
    )
    assert response.content == files.get(name, response.content)


def test_result_json_is_the_published_result(client, done):
    folder, files = done

    result = client.get(f"{folder}/result.json").json()

    assert [artifact["name"] for artifact in result["artifacts"]] == list(files)


@pytest.mark.parametrize("name", NAMES)
def test_the_job_lists_the_digest_of_every_file(client, done, name):
    folder, _ = done
    artifacts = client.get(folder.removesuffix("/artifacts")).json()["result"]["artifacts"]

    response = client.get(f"{folder}/{name}")

    listed = next(artifact for artifact in artifacts if artifact["name"] == name)
    assert listed["url"] == f"{folder}/{name}"
    assert f'"{listed["sha256"]}"' == response.headers["etag"]
    assert listed["bytes"] == len(response.content)


@pytest.mark.parametrize("name", NAMES)
def test_head_has_the_headers_and_no_body(client, done, name):
    folder, _ = done

    head, get = client.head(f"{folder}/{name}"), client.get(f"{folder}/{name}")

    assert (head.status_code, head.content) == (200, b"")
    assert dict(head.headers) == dict(get.headers)


class TestConditional:
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("form", ["{etag}", "W/{etag}", '"other", {etag}', "*"])
    def test_a_current_copy_gets_304(self, client, done, method, form):
        url = f"{done[0]}/overlay.mp4"
        etag = client.head(url).headers["etag"]

        response = client.request(method, url, headers={"If-None-Match": form.format(etag=etag)})

        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == etag
        assert "content-type" not in response.headers

    def test_another_version_is_sent(self, client, done):
        response = client.get(f"{done[0]}/overlay.mp4", headers={"If-None-Match": '"other"'})

        assert response.status_code == 200

    def test_if_none_match_takes_precedence_over_range(self, client, done):
        url = f"{done[0]}/overlay.mp4"
        etag = client.head(url).headers["etag"]

        response = client.get(url, headers={"If-None-Match": etag, "Range": "bytes=0-1"})

        assert response.status_code == 304


class TestRange:
    @pytest.mark.parametrize(
        ("wanted", "start", "end"),
        [("0-0", 0, 1), ("10-19", 10, 20), ("10200-", 10200, 10240), ("-40", 10200, 10240),
         ("0-99999", 0, 10240)],
    )  # fmt: skip
    def test_a_part(self, client, done, wanted, start, end):
        folder, files = done

        response = client.get(f"{folder}/overlay.mp4", headers={"Range": f"bytes={wanted}"})

        assert response.status_code == 206
        assert response.content == files["overlay.mp4"][start:end]
        assert response.headers["content-range"] == f"bytes {start}-{end - 1}/10240"

    def test_several_parts(self, client, done):
        response = client.get(f"{done[0]}/overlay.mp4", headers={"Range": "bytes=0-1,100-101"})

        assert response.status_code == 206
        assert response.headers["content-type"].startswith("multipart/byteranges")
        assert b"\x00\x01" in response.content
        assert b"\x64\x65" in response.content

    @pytest.mark.parametrize("wanted", ["10240-", "20000-20001"])
    def test_behind_the_end(self, client, done, wanted):
        response = client.get(f"{done[0]}/overlay.mp4", headers={"Range": f"bytes={wanted}"})

        assert response.status_code == 416
        assert response.headers["content-range"] == "bytes */10240"
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] == "range_not_satisfiable"

    @pytest.mark.parametrize(
        "malformed", ["bytes", "lines=0-1", "bytes=", "bytes=9-3", "bytes=x-y"]
    )
    def test_a_malformed_range_is_ignored(self, client, done, malformed):
        response = client.get(f"{done[0]}/overlay.mp4", headers={"Range": malformed})

        assert (response.status_code, len(response.content)) == (200, 10240)

    def test_if_range(self, client, done):
        url = f"{done[0]}/overlay.mp4"
        etag = client.head(url).headers["etag"]

        same = client.get(url, headers={"Range": "bytes=0-9", "If-Range": etag})
        other = client.get(url, headers={"Range": "bytes=0-9", "If-Range": '"other"'})

        assert (same.status_code, len(same.content)) == (206, 10)
        assert (other.status_code, len(other.content)) == (200, 10240)


class TestAbsent:
    @pytest.mark.parametrize(
        "name", ["other.txt", "%2e%2e%2fjob.json", "..%2Fjob.json", "", "video", "%00", "x" * 300]
    )
    def test_an_unknown_name(self, client, done, name):
        response = client.get(f"{done[0]}/{name}")

        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"

    def test_a_stored_file_that_the_result_does_not_list(self, client, done, store):
        folder, _ = done
        extra = store.artifact_path(folder.split("/")[3], "sheet.png").with_name("extra.txt")
        extra.write_text("extra")

        response = client.get(f"{folder}/extra.txt")

        assert (response.status_code, response.json()["code"]) == (404, "artifact_not_found")

    def test_an_unknown_job(self, client):
        response = client.get(f"/v1/jobs/{'0' * 32}/artifacts/result.json")

        assert (response.status_code, response.json()["code"]) == (404, "job_not_found")

    def test_a_waiting_or_running_job(self, client, new_job, worker):
        job_id = new_job()
        url = f"/v1/jobs/{job_id}/artifacts/result.json"

        waiting = client.get(url)
        worker.claim(job_id)
        running = client.get(url)

        for response, state in ((waiting, "queued"), (running, "running")):
            assert (response.status_code, response.json()["code"]) == (409, "job_not_finished")
            assert state in response.json()["detail"]

    def test_a_failed_job(self, client, new_job, worker):
        job_id = new_job()
        worker.claim(job_id)
        worker.fail(job_id, JobError(code="x", title="x", detail="x"))

        response = client.get(f"/v1/jobs/{job_id}/artifacts/result.json")

        assert (response.status_code, response.json()["code"]) == (409, "job_without_result")
        assert "failed" in response.json()["detail"]

    def test_a_canceled_job(self, client, new_job):
        job_id = new_job()
        client.post(f"/v1/jobs/{job_id}/cancel")

        response = client.get(f"/v1/jobs/{job_id}/artifacts/result.json")

        assert (response.status_code, response.json()["code"]) == (409, "job_without_result")

    def test_after_its_time(self, client, done, store):
        folder, _ = done
        store.expire(folder.split("/")[3])

        for name in NAMES:
            response = client.get(f"{folder}/{name}")
            assert (response.status_code, response.json()["code"]) == (410, "artifact_expired")

        job = client.get(folder.removesuffix("/artifacts")).json()
        assert job["state"] == "succeeded"
        assert job["result"]["artifacts"] == []
        assert job["result"]["predictions"]


def test_an_unknown_suffix_is_a_download(tmp_path):
    artifact = Artifact(name="notes.html", bytes=1, sha256="0" * 64)
    (tmp_path / "notes.html").write_text("x")

    response = ArtifactResponse(tmp_path / "notes.html", artifact, job_id="1" * 32)

    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"].startswith("attachment")


def test_a_listed_file_that_is_missing_is_not_found(jobs, store, new_job, worker):
    job_id = new_job()
    worker.succeed(job_id)
    job = jobs.get(job_id)
    file, artifact = find(store, job, "sheet.png")
    assert (file.name, artifact.bytes) == ("sheet.png", file.size)

    file.path.unlink()

    with pytest.raises(ArtifactNotFound):
        find(store, job, "sheet.png")


def test_a_file_deleted_during_the_call_is_not_found(tmp_path):
    artifact = Artifact(name="sheet.png", bytes=1, sha256="0" * 64)

    with pytest.raises(ArtifactNotFound):
        ArtifactResponse(tmp_path / "sheet.png", artifact, job_id="1" * 32)
