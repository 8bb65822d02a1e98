"""The HTTP API with its store in a bucket: uploads, and jobs from the upload to the last file."""

from base64 import b64encode
from datetime import timedelta
from hashlib import sha1, sha256

import pytest

from rollout_core.jobs.bucket import Bucket
from rollout_core.jobs.object_store import ObjectStore
from service import stored_uploads
from service.inventory import Inventory
from service.ledger import Ledger
from service.maintenance import Reconciler
from service.settings import Settings
from service.uploads_of import uploads_of
from tests.service.conftest import MP4
from tests.service.owners import headers
from tests.service.routes.test_tus import SPEAKS, create, offset_of, patch

VIDEO = MP4 + bytes(5000)
SIZE = len(VIDEO)
DIGEST = "a" * 64


@pytest.fixture
def settings(tmp_path, redis_url, bucket_url):
    return Settings(redis_url=redis_url, data_dir=tmp_path / "scratch", store=bucket_url)


@pytest.fixture
def store(settings):
    return ObjectStore(Bucket.at(settings.store), settings.data_dir, remember_seconds=0)


@pytest.fixture
def services(client):
    return client.app_state["services"]


@pytest.fixture
def keys(bucket):
    """List the keys of all jobs and uploads."""
    return lambda: [found.key for place in ("jobs", "uploads") for found in bucket.objects(place)]


@pytest.fixture
def scratch(settings):
    """List the files of this machine."""
    return lambda: [path for path in settings.data_dir.rglob("*") if path.is_file()]


@pytest.fixture
def upload(client):
    """Send a video; return the answer's JSON."""

    def send(content=VIDEO, **options):
        response = client.post("/v1/uploads", content=content, **options)
        assert response.status_code == 201, response.text
        return response.json()

    return send


@pytest.fixture
def ask(client, announce):
    """Make a job from an upload; return the response."""
    announce(sha256=DIGEST)

    def send(upload_id, *, key=None, **request):
        extra = {"Idempotency-Key": key} if key else {}
        return client.post("/v1/jobs", json={"upload": upload_id, **request}, headers=extra)

    return send


def check(response, status, code):
    assert (response.status_code, response.json()["code"]) == (status, code)


class TestUploads:
    def test_a_video_is_sent_once(self, client, upload, store, scratch):
        sent = upload(headers={"Content-Disposition": 'attachment; filename="a.mp4"'})

        assert (sent["state"], sent["bytes"], sent["received_bytes"]) == ("complete", SIZE, SIZE)
        assert (sent["filename"], sent["sha256"]) == ("a.mp4", sha256(VIDEO).hexdigest())
        assert client.get(f"/v1/uploads/{sent['id']}").json() == sent
        assert store.bucket.get(f"uploads/{sent['id']}/video") == VIDEO
        assert scratch() == []

    def test_what_is_no_video_leaves_nothing(self, client, keys, scratch):
        check(client.post("/v1/uploads", content=b"x" * 5000), 415, "video_container_unsupported")

        assert (keys(), scratch()) == ([], [])

    def test_uploads_are_listed_and_deleted(self, client, upload, keys):
        first, second = upload(), upload()
        assert client.get("/v1/uploads").json()["uploads"] == [second, first]

        assert client.delete(f"/v1/uploads/{first['id']}").status_code == 204
        assert client.get("/v1/uploads").json()["uploads"] == [second]
        check(client.delete(f"/v1/uploads/{first['id']}"), 404, "upload_not_found")
        client.delete(f"/v1/uploads/{second['id']}")
        assert keys() == []

    def test_another_process_sees_it_at_once(self, open_client, upload):
        other = open_client()
        sent = upload()

        assert other.get("/v1/uploads").json()["uploads"] == [sent]
        assert other.get(f"/v1/uploads/{sent['id']}").json() == sent


class TestParts:
    def test_any_process_goes_on(self, client, open_client, store, scratch):
        url, other = create(client, SIZE).headers["location"], open_client()

        assert patch(client, url, VIDEO[:3000]).headers["upload-offset"] == "3000"
        assert offset_of(other, url) == 3000
        assert client.get(url).json()["state"] == "receiving"
        assert patch(other, url, VIDEO[3000:], 3000).headers["upload-offset"] == str(SIZE)

        found = client.get(url).json()
        assert (found["state"], found["sha256"]) == ("complete", sha256(VIDEO).hexdigest())
        assert store.bucket.get(f"uploads/{found['id']}/video") == VIDEO
        assert scratch() == []

    def test_a_part_at_another_offset_is_refused(self, client):
        url = create(client, SIZE).headers["location"]
        patch(client, url, VIDEO[:3000])

        check(patch(client, url, VIDEO[:3000]), 409, "upload_offset_mismatch")
        assert offset_of(client, url) == 3000

    def test_a_part_with_a_wrong_checksum_leaves_nothing(self, client, scratch):
        url = create(client, SIZE).headers["location"]
        wrong = {"Upload-Checksum": f"sha1 {b64encode(sha1(b'').digest()).decode()}"}

        check(patch(client, url, VIDEO[:3000], **wrong), 460, "checksum_mismatch")
        assert offset_of(client, url) == 0
        right = {"Upload-Checksum": f"sha1 {b64encode(sha1(VIDEO).digest()).decode()}"}
        assert patch(client, url, VIDEO, **right).status_code == 204
        assert scratch() == []

    def test_it_is_deleted(self, client, keys):
        url = create(client, SIZE).headers["location"]
        patch(client, url, VIDEO[:3000])

        assert client.delete(url, headers=SPEAKS).status_code == 204
        assert keys() == []

    def test_no_job_is_made_before_all_has_arrived(self, client, ask):
        url = create(client, SIZE).headers["location"]
        patch(client, url, VIDEO[:3000])

        check(ask(url.rpartition("/")[2]), 409, "upload_incomplete")


class TestJobs:
    def test_a_job_of_an_upload_runs_to_its_result(self, client, upload, ask, worker, scratch):
        sent = upload()
        response = ask(sent["id"])
        assert (response.status_code, response.json()["upload"]) == (202, sent["id"])

        files = worker.succeed(response.json()["id"])

        job = client.get(f"/v1/jobs/{response.json()['id']}").json()
        assert job["state"] == "succeeded"
        sizes = {file["name"]: file["bytes"] for file in job["result"]["artifacts"]}
        assert {name: len(content) for name, content in files.items()}.items() <= sizes.items()

    def test_a_job_of_a_form(self, client, new_job, keys, store):
        job_id = new_job()

        attempt = store.begin_attempt(job_id, 1)
        assert store.stage_upload(job_id, attempt).read_bytes() == MP4
        assert client.get(f"/v1/jobs/{job_id}").json()["filename"] == "clip.mp4"
        assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
        assert keys() == []

    def test_a_refused_form_leaves_nothing(self, client, announce, keys, scratch):
        announce()
        files = {"video": ("a.mp4", MP4), "request": (None, '{"model": "other"}')}

        check(client.post("/v1/jobs", files=files), 422, "unknown_model")
        assert (keys(), scratch()) == ([], [])

    def test_a_job_is_canceled_and_listed(self, client, new_job):
        canceled, waiting = new_job(), new_job()

        assert client.post(f"/v1/jobs/{canceled}/cancel").json()["state"] == "canceled"
        listed = client.get("/v1/jobs").json()["jobs"]
        assert [(job["id"], job["state"]) for job in listed] == [
            (waiting, "queued"),
            (canceled, "canceled"),
        ]

    def test_an_upload_in_use_is_kept(self, client, upload, ask):
        sent = upload()
        job = ask(sent["id"]).json()

        check(client.delete(f"/v1/uploads/{sent['id']}"), 409, "upload_in_use")
        client.post(f"/v1/jobs/{job['id']}/cancel")
        assert client.delete(f"/v1/uploads/{sent['id']}").status_code == 204
        assert client.get(f"/v1/jobs/{job['id']}").json()["upload"] is None

    def test_a_deleted_upload_takes_the_video_from_ended_jobs(
        self, client, upload, ask, worker, keys
    ):
        sent = upload()
        job_id = ask(sent["id"]).json()["id"]
        worker.succeed(job_id)

        assert client.delete(f"/v1/uploads/{sent['id']}").status_code == 204
        assert [key for key in keys() if key.endswith("/video")] == []
        assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "succeeded"

    def test_a_repeated_call_makes_one_job(self, upload, ask):
        sent = upload()
        first, again = ask(sent["id"], key="k"), ask(sent["id"], key="k")

        assert (first.status_code, again.status_code) == (202, 200)
        assert first.json()["id"] == again.json()["id"]
        check(ask(sent["id"], key="k", tag="other"), 422, "idempotency_key_reused")

    def test_an_equal_job_is_answered(self, client, upload, ask, worker, store):
        sent = upload()
        first = ask(sent["id"]).json()["id"]
        files = worker.succeed(first, checkpoint_sha256=DIGEST)

        again = ask(sent["id"]).json()

        assert (again["state"], again["reused_from"]) == ("succeeded", first)
        client.delete(f"/v1/jobs/{first}")
        for name, content in files.items():
            assert store.artifact(again["id"], name).read() == content


class TestAge:
    @pytest.fixture
    def clock(self):
        return [0.0]

    @pytest.fixture
    def sweeper(self, store, redis, services, clock):
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
    def make_old(self, store):
        """Let an upload have been made some seconds earlier."""

        def move(upload_id, seconds):
            record = uploads_of(store).record(upload_id)
            created = record.created_at - timedelta(seconds=seconds)
            uploads_of(store).begin(record.model_copy(update={"created_at": created}))

        return move

    def test_an_old_upload_expires(self, client, upload, sweeper, make_old, services, keys, ask):
        old, young = upload()["id"], upload()["id"]
        make_old(old, services.settings.upload_ttl + 1)
        sweeper.sweep()

        check(client.get(f"/v1/uploads/{old}"), 410, "upload_expired")
        check(ask(old), 410, "upload_expired")
        assert ask(young).status_code == 202
        assert f"uploads/{old}/video" not in keys()

    def test_a_stalled_upload_expires(self, client, sweeper, make_old, services, clock, keys):
        url = create(client, SIZE).headers["location"]
        patch(client, url, VIDEO[:3000])
        make_old(url.rpartition("/")[2], services.settings.upload_ttl + 1)
        for clock[0] in (0.0, stored_uploads.STALLED_SECONDS + 1):
            sweeper.sweep()

        check(patch(client, url, VIDEO[3000:], 3000), 410, "upload_expired")
        assert [key for key in keys() if "/parts/" in key] == []

    def test_a_forgotten_upload_leaves_nothing(self, upload, sweeper, make_old, services, keys):
        sent = upload()["id"]
        ttl = services.settings.upload_ttl
        make_old(sent, ttl * stored_uploads.REMEMBERED_TTLS + 1)
        for _ in range(2):
            sweeper.sweep()

        assert keys() == []


class TestQuotas:
    def stored(self, store, redis):
        inventory = Inventory(store)
        Reconciler(store, inventory, redis).reconcile()
        return sum(entry.own for entry in inventory.entries().values())

    def test_each_copy_counts(self, upload, ask, store, redis, worker):
        sent = upload()
        first = self.stored(store, redis)
        assert SIZE < first < SIZE + 1000
        job_id = ask(sent["id"]).json()["id"]
        worker.succeed(job_id)

        assert self.stored(store, redis) > 2 * SIZE

    def test_an_owner_has_a_limit(self, keyed):
        def send(size):
            return keyed.post("/v1/uploads", content=MP4 + bytes(size), headers=headers("ann"))

        assert send(60_000).status_code == 201
        check(send(60_000), 507, "storage_quota_exceeded")

    def test_a_job_counts_its_copy_of_the_video(self, keyed):
        content = MP4 + bytes(60_000)
        sent = keyed.post("/v1/uploads", content=content, headers=headers("ann")).json()

        response = keyed.post("/v1/jobs", json={"upload": sent["id"]}, headers=headers("ann"))

        check(response, 507, "storage_quota_exceeded")


def test_the_session_secret_is_in_the_bucket(keyed, bucket):
    assert len(bucket.get("session/secret")) == 64


def test_the_service_is_ready(client, announce):
    announce()

    assert client.get("/readyz").status_code == 200
