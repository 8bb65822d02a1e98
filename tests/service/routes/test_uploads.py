"""Uploads over HTTP: sent once, asked many times, listed, deleted, expired."""

from datetime import timedelta
from hashlib import sha256

import pytest

from service import stored_uploads
from service.folder_uploads import FolderUploads
from service.inventory import Inventory
from service.ledger import Ledger
from service.upload_store import UploadRecord
from tests.service.test_uploads import END, part


@pytest.fixture
def services(client):
    return client.app_state["services"]


@pytest.fixture
def upload(client, mp4):
    """Send a video; return the answer's JSON."""

    def send(content=mp4, **options):
        response = client.post("/v1/uploads", content=content, **options)
        assert response.status_code == 201, response.text
        return response.json()

    return send


@pytest.fixture
def ask(client, announce):
    """Make a job from an upload; return the response."""
    announce()

    def send(upload_id, **request):
        return client.post("/v1/jobs", json={"upload": upload_id, **request})

    return send


@pytest.fixture
def uploads(store):
    return FolderUploads(store)


@pytest.fixture
def clock():
    """The monotonic clock of the sweeper; the service itself sweeps by the real one."""
    return [0.0]


@pytest.fixture
def sweeper(store, redis, services, clock):
    return stored_uploads.StoredUploads(
        store,
        Inventory(store),
        Ledger(redis),
        upload_ttl=services.settings.upload_ttl,
        result_ttl=services.settings.result_ttl,
        now=services.jobs.age_now,
        monotonic=lambda: clock[0],
    )


@pytest.fixture
def make_old(store):
    """Make an upload older by seconds."""

    def one(upload_id, seconds):
        path = store.root / "uploads" / upload_id / "upload.json"
        record = UploadRecord.from_json(path.read_bytes())
        created_at = record.created_at - timedelta(seconds=seconds)
        path.write_text(record.model_copy(update={"created_at": created_at}).to_json())

    return one


def check(response, status, code):
    assert (response.status_code, response.json()["code"]) == (status, code), response.text


def videos(store):
    """Return the files of videos on the disk, each once."""
    found = {path.stat().st_ino: path for path in store.root.rglob("video") if path.is_file()}
    found |= {path.stat().st_ino: path for path in (store.root / "blobs").iterdir()}
    return list(found.values())


class TestCreate:
    def test_the_answer_tells_size_digest_and_expiry(self, client, mp4, settings, uploads):
        response = client.post("/v1/uploads?filename=a/clip.mp4", content=mp4)

        answer = response.json()
        assert response.status_code == 201
        assert response.headers["Location"] == f"/v1/uploads/{answer['id']}"
        assert answer["sha256"] == sha256(mp4).hexdigest()
        assert answer["bytes"] == answer["received_bytes"] == len(mp4)
        assert (answer["state"], answer["filename"]) == ("complete", "clip.mp4")
        assert answer["expires_at"] > answer["created_at"]
        assert uploads.path(answer["id"]).read_bytes() == mp4
        assert client.get(f"/v1/uploads/{answer['id']}").json() == answer

    @pytest.mark.parametrize("content_type", ["video/mp4", "application/x-www-form-urlencoded", ""])
    def test_the_content_type_of_a_video_is_ignored(self, upload, content_type):
        upload(headers={"Content-Type": content_type})

    def test_a_form_is_accepted_too(self, client, mp4, uploads):
        response = client.post("/v1/uploads", files={"video": ("näme.mp4", mp4)})

        assert response.status_code == 201
        assert response.json()["filename"] == "näme.mp4"
        assert response.json()["sha256"] == sha256(mp4).hexdigest()
        assert uploads.path(response.json()["id"]).read_bytes() == mp4

    def test_a_form_with_a_request_is_refused(self, client, mp4, leftovers):
        body = part("request", b"{}") + part("video", mp4) + END
        headers = {"Content-Type": "multipart/form-data; boundary=cut"}

        check(client.post("/v1/uploads", content=body, headers=headers), 422, "form_invalid")
        assert leftovers() == []

    @pytest.mark.parametrize("content_type", ["application/json", "multipart/mixed; boundary=cut"])
    def test_what_is_declared_as_no_video_is_refused(self, client, mp4, leftovers, content_type):
        response = client.post("/v1/uploads", content=mp4, headers={"Content-Type": content_type})

        check(response, 415, "media_type_not_video")
        assert leftovers() == []

    @pytest.mark.parametrize(
        ("content", "headers", "status", "code"),
        [
            (b"", {}, 422, "upload_empty"),
            (b"hello", {}, 415, "video_container_unsupported"),
            (bytes(5000), {}, 415, "video_container_unsupported"),
            (b"x", {"Content-Encoding": "gzip"}, 415, "content_encoding_unsupported"),
        ],
    )
    def test_a_bad_body_leaves_nothing(
        self, client, leftovers, redis, content, headers, status, code
    ):
        check(client.post("/v1/uploads", content=content, headers=headers), status, code)
        assert leftovers() == []
        assert redis.hgetall("rollout:bytes") == {}

    def test_a_body_of_exactly_the_limit_is_accepted(self, open_client, mp4, leftovers):
        small = open_client(max_upload_bytes=len(mp4) - 1)
        check(small.post("/v1/uploads", content=mp4), 413, "upload_too_large")
        pieces = (mp4[start : start + 100] for start in range(0, len(mp4), 100))
        check(small.post("/v1/uploads", content=pieces), 413, "upload_too_large")
        assert leftovers() == []

        exact = open_client(max_upload_bytes=len(mp4))
        assert exact.post("/v1/uploads", content=mp4).status_code == 201

    def test_the_name_may_come_in_a_header(self, upload):
        disposition = "attachment; filename*=UTF-8''na%C3%AFve.mp4; filename=naive.mp4"

        assert upload(headers={"Content-Disposition": disposition})["filename"] == "naïve.mp4"

    def test_equal_bytes_are_stored_once(self, upload, store, mp4):
        first, second = upload(), upload()
        other = upload(mp4 + b"x")

        assert first["id"] != second["id"]
        assert len(videos(store)) == 2
        assert other["sha256"] != first["sha256"]


class TestJobs:
    def test_many_jobs_are_made_from_one_upload(self, upload, ask, store, mp4):
        sent = upload(headers={"Content-Disposition": "attachment; filename=v.mp4"})

        answers = [ask(sent["id"], method=method) for method in ("rollout", "attention")]

        for answer in answers:
            assert answer.status_code == 202
            job = answer.json()
            assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
            assert (job["upload"], job["filename"]) == (sent["id"], "v.mp4")
            assert store.upload_path(job["id"]).read_bytes() == mp4
        assert [answer.json()["request"]["method"] for answer in answers] == [
            "rollout",
            "attention",
        ]
        assert len(videos(store)) == 1

    def test_the_upload_of_a_form_can_be_asked_again(self, client, new_job, ask, store):
        first = client.get(f"/v1/jobs/{new_job()}").json()

        second = ask(first["upload"], clips="tile")

        assert second.status_code == 202
        assert second.json()["upload"] == first["upload"]
        assert second.json()["filename"] == "clip.mp4"
        assert len(videos(store)) == 1

    def test_an_unknown_upload_is_404(self, ask, leftovers):
        check(ask("0" * 32), 404, "upload_not_found")
        assert leftovers() == []

    def test_an_incomplete_upload_is_409(self, ask, uploads, services):
        record = UploadRecord(id="1" * 32, created_at=services.jobs.age_now(), bytes=100)
        uploads.begin(record)
        uploads.path(record.id).write_bytes(bytes(60))

        check(ask(record.id), 409, "upload_incomplete")

    def test_an_address_is_refused(self, client, announce):
        announce()
        response = client.post("/v1/jobs", json={"video_url": "https://example.org/v.mp4"})

        check(response, 422, "video_url_refused")

    @pytest.mark.parametrize(
        ("text", "field"),
        [
            ('{"upload": "x"}', "upload"),
            ("{}", "body"),
            ("{", "body"),
            ('{"upload": "' + "0" * 32 + '", "metod": 1}', "metod"),
            ('{"upload": "' + "0" * 32 + '", "clips": "one", "clips": "one"}', "clips"),
        ],
    )
    def test_a_wrong_request_names_the_field(self, client, announce, text, field):
        announce()
        headers = {"Content-Type": "application/json; charset=utf-8"}

        response = client.post("/v1/jobs", content=text, headers=headers)

        check(response, 422, "invalid_request")
        assert response.json()["errors"][0]["field"] == field

    def test_a_refused_request_keeps_the_upload(self, client, upload, ask):
        sent = upload()

        check(ask(sent["id"], model="other"), 422, "unknown_model")
        assert client.get(f"/v1/uploads/{sent['id']}").status_code == 200
        assert ask(sent["id"]).status_code == 202


class TestList:
    def test_pages_are_newest_first(self, client, upload):
        sent = [upload()["id"] for _ in range(5)]
        found, cursor = [], None
        while True:
            query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = client.get("/v1/uploads", params=query).json()
            found += [each["id"] for each in page["uploads"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break

        assert found == sent[::-1]

    def test_another_process_sees_it_at_once(self, open_client, upload):
        other = open_client()
        assert other.get("/v1/uploads").json()["uploads"] == []
        sent = upload()

        assert other.get("/v1/uploads").json()["uploads"] == [sent]

    def test_deleted_and_expired_uploads_are_left_out(self, client, upload, services, make_old):
        deleted, expired, kept = upload()["id"], upload()["id"], upload()["id"]
        client.delete(f"/v1/uploads/{deleted}")
        make_old(expired, services.settings.upload_ttl + 1)
        services.uploads.sweep()

        listed = client.get("/v1/uploads").json()["uploads"]
        assert [each["id"] for each in listed] == [kept]


class TestDelete:
    def test_an_upload_without_jobs_leaves_nothing(self, client, upload, leftovers):
        sent = upload()

        assert client.delete(f"/v1/uploads/{sent['id']}").status_code == 204
        assert leftovers() == []
        check(client.get(f"/v1/uploads/{sent['id']}"), 404, "upload_not_found")
        check(client.delete(f"/v1/uploads/{sent['id']}"), 404, "upload_not_found")

    def test_an_upload_in_use_is_kept(self, client, upload, ask):
        sent = upload()
        job = ask(sent["id"]).json()

        check(client.delete(f"/v1/uploads/{sent['id']}"), 409, "upload_in_use")
        client.post(f"/v1/jobs/{job['id']}/cancel")
        assert client.delete(f"/v1/uploads/{sent['id']}").status_code == 204

    def test_ended_jobs_keep_their_results_and_lose_the_video(
        self, client, upload, ask, worker, store
    ):
        sent = upload()
        job_id = ask(sent["id"]).json()["id"]
        files = worker.succeed(job_id)

        assert client.delete(f"/v1/uploads/{sent['id']}").status_code == 204

        assert videos(store) == []
        job = client.get(f"/v1/jobs/{job_id}").json()
        assert (job["state"], job["upload"]) == ("succeeded", None)
        for name, content in files.items():
            artifact = client.get(f"/v1/jobs/{job_id}/artifacts/{name}")
            assert artifact.content == content

    def test_a_job_without_its_video_still_expires(
        self, client, upload, ask, worker, store, services
    ):
        sent = upload()
        job_id = ask(sent["id"]).json()["id"]
        worker.succeed(job_id)
        client.delete(f"/v1/uploads/{sent['id']}")

        services.jobs.expire(job_id, services.jobs.age_now() + timedelta(seconds=1), 1)

        check(client.get(f"/v1/jobs/{job_id}/artifacts/sheet.png"), 410, "artifact_expired")

    def test_equal_bytes_of_another_upload_stay(self, client, upload, ask, store, mp4):
        first, second = upload(), upload()

        client.delete(f"/v1/uploads/{first['id']}")

        assert ask(second["id"]).status_code == 202
        assert [path.read_bytes() for path in videos(store)] == [mp4]

    def test_the_last_job_of_a_form_takes_its_upload_along(self, client, new_job, ask, leftovers):
        first = client.get(f"/v1/jobs/{new_job()}").json()
        second = ask(first["upload"]).json()

        client.delete(f"/v1/jobs/{first['id']}")
        assert client.get(f"/v1/jobs/{second['id']}").json()["upload"] == first["upload"]
        client.delete(f"/v1/jobs/{second['id']}")

        assert leftovers() == []

    def test_the_last_job_of_an_upload_leaves_it(self, client, upload, ask):
        sent = upload()
        job = ask(sent["id"]).json()

        client.delete(f"/v1/jobs/{job['id']}")

        assert client.get(f"/v1/uploads/{sent['id']}").status_code == 200


class TestExpiry:
    def test_an_old_upload_is_gone_and_its_record_tells_so(
        self, client, upload, ask, services, make_old, store, uploads
    ):
        sent = upload()
        make_old(sent["id"], services.settings.upload_ttl - 60)
        services.uploads.sweep()
        assert client.get(f"/v1/uploads/{sent['id']}").status_code == 200
        make_old(sent["id"], 61)

        services.uploads.sweep()

        assert videos(store) == []
        check(client.get(f"/v1/uploads/{sent['id']}"), 410, "upload_expired")
        check(ask(sent["id"]), 410, "upload_expired")
        make_old(sent["id"], stored_uploads.REMEMBERED_TTLS * services.settings.upload_ttl)
        services.uploads.sweep()
        check(client.get(f"/v1/uploads/{sent['id']}"), 404, "upload_not_found")
        assert uploads.names() == []

    def test_an_upload_lives_as_long_as_a_job_of_it_has_files(
        self, client, upload, ask, services, make_old, store
    ):
        sent = upload()
        job = ask(sent["id"]).json()
        client.post(f"/v1/jobs/{job['id']}/cancel")
        make_old(sent["id"], 2 * services.settings.upload_ttl)

        services.uploads.sweep()

        now = client.get(f"/v1/uploads/{sent['id']}").json()
        assert now["expires_at"] > sent["expires_at"]
        assert client.get(f"/v1/jobs/{job['id']}").json()["upload"] == sent["id"]

        services.jobs.expire(job["id"], services.jobs.age_now() + timedelta(seconds=1), 1)
        services.uploads.sweep()

        assert videos(store) == []
        assert client.get(f"/v1/jobs/{job['id']}").json()["upload"] is None

    def test_an_upload_of_an_open_job_never_expires(
        self, upload, ask, services, make_old, store, mp4
    ):
        sent = upload()
        ask(sent["id"])
        make_old(sent["id"], 100 * services.settings.upload_ttl)

        services.uploads.sweep()

        assert [path.read_bytes() for path in videos(store)] == [mp4]

    def test_an_upload_that_still_grows_does_not_expire(
        self, client, uploads, services, sweeper, clock
    ):
        created_at = services.jobs.age_now() - timedelta(days=3)
        record = UploadRecord(id="1" * 32, created_at=created_at, bytes=100)
        uploads.begin(record)
        path = uploads.path(record.id)
        for size in range(3):
            path.write_bytes(bytes(size))
            sweeper.sweep()
            clock[0] += stored_uploads.STALLED_SECONDS + 1
            assert client.get(f"/v1/uploads/{record.id}").json()["received_bytes"] == size

        sweeper.sweep()

        check(client.get(f"/v1/uploads/{record.id}"), 410, "upload_expired")


class TestSweep:
    @pytest.fixture
    def sweep_late(self, sweeper, clock):
        """Sweep twice, with more than `STALE_SECONDS` between."""

        def run():
            sweeper.sweep()
            clock[0] += stored_uploads.STALE_SECONDS + 1
            sweeper.sweep()

        return run

    def test_the_upload_of_a_job_that_was_never_stored_is_removed(
        self, uploads, store, services, sweep_late, leftovers
    ):
        self.leave(uploads, store, services, with_job=True)
        services.uploads.sweep()
        assert len(uploads.names()) == 1

        sweep_late()

        assert leftovers() == []

    def test_a_marker_of_a_job_that_was_never_stored_is_removed(
        self, uploads, store, services, sweep_late
    ):
        record = self.leave(uploads, store, services, with_job=False)
        uploads.attach(record.id, "2" * 32)

        sweep_late()

        assert uploads.jobs(record.id) == []
        assert uploads.record(record.id) == record

    def test_the_upload_of_a_form_goes_with_the_marker_of_a_lost_job(
        self, uploads, store, services, sweep_late, leftovers
    ):
        record = self.leave(uploads, store, services, with_job=True)
        uploads.attach(record.id, "2" * 32)

        sweep_late()

        assert leftovers() == []

    def test_an_unused_blob_is_removed(self, uploads, store, services):
        record = self.leave(uploads, store, services, with_job=False)
        assert len(videos(store)) == 1
        store.remove_atomically(store.root / "uploads" / record.id)

        services.uploads.sweep()  # so does the service itself, at its start

        assert videos(store) == []

    def test_one_that_cannot_be_read_hides_no_other(
        self, client, upload, services, make_old, store, caplog
    ):
        broken, old = upload(), upload()
        (store.root / "uploads" / broken["id"] / "upload.json").write_text("{")
        make_old(old["id"], 2 * services.settings.upload_ttl)

        for _ in range(2):
            services.uploads.sweep()

        check(client.get(f"/v1/uploads/{old['id']}"), 410, "upload_expired")
        assert sum(broken["id"] in record.getMessage() for record in caplog.records) <= 2
        caplog.clear()

    def leave(self, uploads, store, services, *, with_job):
        record = UploadRecord(
            id="1" * 32,
            created_at=services.jobs.age_now(),
            bytes=5,
            sha256=sha256(b"video").hexdigest(),
            with_job=with_job,
        )
        with store.receiving() as path:
            path.write_bytes(b"video")
            uploads.add(record, path)
        return record
