"""Every byte of the store counts once, for its owner's quota and for the limit of the store."""

from datetime import timedelta

import pytest

from service.folder_uploads import FolderUploads
from service.ledger import SUMS_KEY, result_bytes
from service.upload_store import UploadRecord
from tests.service.owners import headers

VIDEO_BYTES = 60_000


@pytest.fixture
def video(mp4):
    return mp4 + bytes(VIDEO_BYTES - len(mp4))


@pytest.fixture
def services(keyed):
    return keyed.app_state["services"]


@pytest.fixture
def call(keyed):
    """Call the API as an owner; return the response."""

    def one(method, path, name="ann", **options):
        return keyed.request(method, f"/v1/{path}", headers=headers(name), **options)

    return one


@pytest.fixture
def upload(call, video):
    def one(name="ann", content=video):
        response = call("POST", "uploads", name, content=content)
        assert response.status_code == 201, response.text
        return response.json()["id"]

    return one


@pytest.fixture
def ended(call):
    """Make a job from an upload, and cancel it; return its id."""

    def one(upload_id, name="ann"):
        response = call("POST", "jobs", name, json={"upload": upload_id})
        assert response.status_code == 202, response.text
        job_id = response.json()["id"]
        assert call("POST", f"jobs/{job_id}/cancel", name).status_code == 202
        return job_id

    return one


@pytest.fixture
def counted(services, redis):
    """Count the store, and return the bytes of an owner."""

    def one(name="ann", *, count=True):
        if count:
            services.reconciler.reconcile()
        return int(redis.hget(SUMS_KEY, f"owner:{name}") or 0)

    return one


@pytest.fixture
def total(redis):
    return lambda: int(redis.hget(SUMS_KEY, "shared") or 0)


def disk(store):
    """Return the bytes of all files of the store, each counted once."""
    paths = [
        path for place in ("jobs", "uploads", "blobs") for path in store.root.rglob(f"{place}/**/*")
    ]
    files = {path.stat().st_ino: path.stat().st_size for path in paths if path.is_file()}
    return sum(files.values())


def test_an_upload_counts_for_its_owner_before_and_after_the_count(upload, counted, total, store):
    upload()
    assert counted(count=False) == VIDEO_BYTES

    assert counted() == total() == disk(store)
    assert counted("ben") == 0


def test_five_jobs_of_an_upload_count_it_once(upload, ended, counted, total, store):
    upload_id = upload()
    for _ in range(5):
        ended(upload_id)

    assert counted() == total() == disk(store) < VIDEO_BYTES + 10_000


def test_equal_uploads_count_once(upload, counted, store, ended):
    upload_id, _ = upload(), counted()
    with pytest.raises(AssertionError, match="storage_quota_exceeded"):
        upload()  # the bytes arrive before it is known that they are equal
    ended(upload_id)

    assert counted() == disk(store)


def test_each_owner_pays_for_its_own_copy(upload, counted, total, store):
    upload("ann")
    upload("ben")

    assert counted("ann") == counted("ben") > VIDEO_BYTES
    assert total() == disk(store) > 2 * VIDEO_BYTES


def test_a_waiting_job_reserves_room_for_its_result_alone(upload, call, counted, total, store):
    upload_id, before = upload(), counted()
    room = result_bytes(VIDEO_BYTES)

    assert call("POST", "jobs", json={"upload": upload_id}).status_code == 202

    assert counted(count=False) == before
    assert total() == before + room
    assert counted() == disk(store)
    assert total() == before + room


def test_a_job_from_a_form_counts_its_video_once(call, video, counted, store):
    answer = call("POST", "jobs", files={"video": ("v.mp4", video)})
    assert answer.status_code == 202
    assert counted(count=False) == VIDEO_BYTES

    assert counted() == disk(store)
    call("POST", f"jobs/{answer.json()['id']}/cancel")
    assert counted() == disk(store)


@pytest.mark.parametrize("is_counted", [False, True])
def test_deleted_bytes_are_given_back_at_once(upload, call, counted, total, is_counted):
    upload_id = upload()
    if is_counted:
        counted()

    assert call("DELETE", f"uploads/{upload_id}").status_code == 204

    assert counted(count=False) == total() == 0
    assert counted() == 0
    upload()


def test_the_video_of_ended_jobs_is_given_back_with_the_upload(
    upload, call, ended, counted, total, store
):
    upload_id = upload()
    for _ in range(2):
        ended(upload_id)
    counted()

    assert call("DELETE", f"uploads/{upload_id}").status_code == 204

    assert counted(count=False) == total() == disk(store) < 10_000
    assert counted() == disk(store)


def test_the_last_job_of_a_form_gives_all_back(call, video, counted, total):
    answer = call("POST", "jobs", files={"video": ("v.mp4", video)}).json()
    counted()

    assert call("DELETE", f"jobs/{answer['id']}").status_code == 204

    assert counted(count=False) == total() == 0
    assert counted() == 0


def test_expired_bytes_are_given_back_at_once(upload, services, store, counted, total):
    upload_id = upload()
    counted()
    path = store.root / "uploads" / upload_id / "upload.json"
    record = UploadRecord.from_json(path.read_bytes())
    old = record.model_copy(update={"created_at": record.created_at - timedelta(days=2)})
    path.write_text(old.to_json())

    services.uploads.sweep()

    assert counted(count=False) == total() == disk(store) < 1000
    assert counted() == disk(store)


def test_bytes_that_another_process_removes_and_stores_again_count(
    open_client,
    keys_file,
    upload,
    call,
    counted,
    store,
    redis,
    announce,
):
    """The entry of a file may be removed by one process while another one believes in it."""
    other = open_client(api_keys_file=keys_file)
    reconcile = other.app_state["services"].reconciler.reconcile
    upload_id = upload()
    counted()
    reconcile()
    other.request("DELETE", f"/v1/uploads/{upload_id}", headers=headers("ann"))
    upload()

    reconcile()

    assert counted() == disk(store)


def test_an_upload_that_arrives_in_parts_reserves_its_whole_size(services, store, counted, total):
    record = UploadRecord(
        id="1" * 32, created_at=services.jobs.age_now(), owner="ann", bytes=VIDEO_BYTES
    )
    uploads = FolderUploads(store)
    uploads.begin(record)
    path = uploads.path(record.id)
    path.write_bytes(bytes(1000))

    assert counted() == total() == VIDEO_BYTES
    path.write_bytes(bytes(2000))
    assert counted() == VIDEO_BYTES
    assert redis_pending(services.redis) == VIDEO_BYTES - 2000


def test_a_service_that_starts_counts_what_is_there(upload, ended, open_client, redis, store):
    upload_id = upload()
    ended(upload_id)
    redis.flushdb()

    open_client().app_state["services"].reconciler.reconcile()

    assert int(redis.hget(SUMS_KEY, "owner:ann")) == disk(store)


class TestOwnership:
    @pytest.mark.parametrize("method", ["GET", "DELETE"])
    def test_other_owners_get_404(self, upload, call, leftovers, method):
        upload_id = upload("ann")
        before = sorted(leftovers())

        anothers = call(method, f"uploads/{upload_id}", "ben")
        unknown = call(method, f"uploads/{'0' * 32}", "ben")

        assert (anothers.status_code, anothers.json()["code"]) == (404, "upload_not_found")
        assert anothers.text.replace(upload_id, "0" * 32) == unknown.text
        assert sorted(leftovers()) == before

    def test_another_owner_makes_no_job_from_it(self, upload, call, leftovers):
        upload_id = upload("ann")
        before = sorted(leftovers())

        response = call("POST", "jobs", "ben", json={"upload": upload_id})

        assert (response.status_code, response.json()["code"]) == (404, "upload_not_found")
        assert sorted(leftovers()) == before

    def test_another_owner_lists_none(self, upload, call):
        upload_id = upload("ann")

        assert call("GET", "uploads", "ben").json()["uploads"] == []
        assert [each["id"] for each in call("GET", "uploads").json()["uploads"]] == [upload_id]

    def test_equal_bytes_of_another_owner_change_nothing(self, upload, call, video, store):
        mine = call("GET", f"uploads/{upload('ann')}").json()
        his = call("GET", f"uploads/{upload('ben')}", "ben").json()

        changing = {"id", "created_at", "expires_at"}
        assert mine.items() - his.items() == {(name, mine[name]) for name in changing}
        assert len(list((store.root / "blobs").iterdir())) == 2

    def test_without_a_key_no_byte_is_read(self, keyed, leftovers):
        sent = []

        def body():
            sent.append(1)
            yield bytes(10)

        assert keyed.post("/v1/uploads", content=body()).status_code == 401
        assert leftovers() == []

    def test_quota_of_bytes(self, call, video, leftovers):
        response = call("POST", "uploads", content=video + bytes(60_000))

        assert (response.status_code, response.json()["code"]) == (507, "storage_quota_exceeded")
        assert leftovers() == []

    def test_quota_of_open_jobs(self, upload, call):
        upload_id = upload("ann")
        statuses = [call("POST", "jobs", json={"upload": upload_id}).status_code for _ in range(3)]

        assert statuses == [202, 202, 429]

    def test_a_key_that_is_revoked_meanwhile_stores_nothing(
        self,
        keyed,
        keys_file,
        mp4,
        leftovers,
    ):
        def body():
            yield mp4
            keys_file.write_text("")
            yield mp4

        response = keyed.post("/v1/uploads", content=body(), headers=headers("ann"))

        assert response.status_code == 401
        assert leftovers() == []


def redis_pending(redis):
    return int(redis.hget(SUMS_KEY, "pending") or 0)
