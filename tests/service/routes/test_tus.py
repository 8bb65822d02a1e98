"""Resumable uploads over HTTP, call by call."""

from base64 import b64encode
from datetime import timedelta
from hashlib import md5, sha1, sha256

import pytest

from rollout_core.video.signatures import HEAD_BYTES
from service import tus
from service.folder_uploads import FolderUploads
from service.inventory import Inventory
from service.ledger import ENTRIES_KEY, LEASES_KEY
from service.maintenance import Reconciler
from tests.service.conftest import MP4

VIDEO = MP4 + bytes(5000)
SIZE = len(VIDEO)
SPEAKS = {"Tus-Resumable": "1.0.0"}
HASHES = {"sha1": sha1, "sha256": sha256, "md5": md5}


@pytest.fixture
def uploads(store):
    return FolderUploads(store)


def checksum(algorithm, data):
    return {
        "Upload-Checksum": f"{algorithm} {b64encode(HASHES[algorithm](data).digest()).decode()}"
    }


def create(client, size=SIZE, **headers):
    return client.post("/v1/uploads", headers={**SPEAKS, "Upload-Length": str(size), **headers})


def patch(client, url, data, offset=0, **headers):
    given = {**SPEAKS, "Content-Type": tus.BODY_TYPE, "Upload-Offset": str(offset), **headers}
    return client.patch(url, content=data, headers=given)


def offset_of(client, url):
    response = client.head(url, headers=SPEAKS)
    assert response.status_code == 200, response.text
    return int(response.headers["upload-offset"])


@pytest.fixture
def url(client):
    return create(client).headers["location"]


def check(response, status, code):
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["tus-resumable"] == "1.0.0"


def test_options_tell_what_is_offered(client, settings):
    for path in ("/v1/uploads", f"/v1/uploads/{'0' * 32}"):
        response = client.options(path)

        assert response.status_code == 204
        assert response.headers["tus-version"] == "1.0.0"
        assert response.headers["tus-max-size"] == str(settings.max_upload_bytes)
        assert response.headers["tus-checksum-algorithm"] == "sha256,sha1,md5"
        assert "creation-with-upload" in response.headers["tus-extension"].split(",")


class TestCreation:
    def test_it_answers_where_the_bytes_go(self, client, uploads):
        response = create(client, **{"Upload-Metadata": "filename " + b64encode(b"a.mp4").decode()})

        assert response.status_code == 201
        assert response.headers["upload-offset"] == "0"
        assert response.headers["upload-expires"].endswith("GMT")
        assert response.headers["tus-resumable"] == "1.0.0"
        record = uploads.record(response.headers["location"].removeprefix("/v1/uploads/"))
        assert (record.bytes, record.filename, record.is_complete) == (len(VIDEO), "a.mp4", False)

    def test_the_location_has_the_root_path(self, open_client):
        response = create(open_client(root_path="/rollout"))

        assert response.headers["location"].startswith("/rollout/v1/uploads/")

    def test_bytes_may_come_with_it(self, client, uploads):
        response = client.post(
            "/v1/uploads",
            content=VIDEO[:3000],
            headers={**SPEAKS, "Upload-Length": str(len(VIDEO)), "Content-Type": tus.BODY_TYPE},
        )

        assert (response.status_code, response.headers["upload-offset"]) == (201, "3000")
        assert offset_of(client, response.headers["location"]) == 3000

    def test_bytes_that_are_no_video_leave_nothing(self, client, uploads):
        response = client.post(
            "/v1/uploads",
            content=bytes(3000),
            headers={**SPEAKS, "Upload-Length": "4000", "Content-Type": tus.BODY_TYPE},
        )

        check(response, 415, "video_container_unsupported")
        assert uploads.names() == []

    @pytest.mark.parametrize(
        ("headers", "status", "code"),
        [
            ({"Upload-Length": "x"}, 400, "tus_header_invalid"),
            ({"Upload-Length": str(10**12)}, 413, "upload_too_large"),
            ({"Upload-Metadata": "filename !"}, 400, "tus_header_invalid"),
            ({"Tus-Resumable": "0.1"}, 412, "tus_version_unsupported"),
        ],
    )
    def test_what_is_wrong_is_refused(self, client, uploads, headers, status, code):
        check(create(client, **headers), status, code)
        assert uploads.names() == []

    def test_all_bytes_are_reserved_at_once(self, open_client, redis):
        client = open_client(max_store_bytes=3 * 1024**2)

        first, second = create(client, 1000), create(client, 4 * 1024**2)

        assert first.status_code == 201
        check(second, 507, "store_full")
        (upload_id,) = redis.hkeys(ENTRIES_KEY)
        assert first.headers["location"].endswith(upload_id.decode())


class TestParts:
    def test_an_upload_in_parts_has_the_bytes_and_their_digest(self, client, url, uploads):
        for start in range(0, len(VIDEO), 1500):
            part = VIDEO[start : start + 1500]
            response = patch(client, url, part, start)
            assert response.status_code == 204
            assert response.headers["upload-offset"] == str(start + len(part))

        (name,) = uploads.names()
        assert uploads.path(name).read_bytes() == VIDEO
        assert uploads.record(name).sha256 == sha256(VIDEO).hexdigest()

    def test_the_offset_is_the_size_of_the_file(self, client, url, uploads):
        (name,) = uploads.names()
        uploads.path(name).write_bytes(VIDEO[:777])

        response = client.head(url, headers=SPEAKS)

        assert response.headers["upload-offset"] == "777"
        assert response.headers["upload-length"] == str(len(VIDEO))
        assert response.headers["cache-control"] == "no-store"

    def test_another_offset_is_refused(self, client, url):
        patch(client, url, VIDEO[:100])

        check(patch(client, url, VIDEO[:100], 0), 409, "upload_offset_mismatch")
        check(patch(client, url, VIDEO[:100], 200), 409, "upload_offset_mismatch")
        assert offset_of(client, url) == 100

    def test_more_bytes_than_announced_are_refused(self, client, url):
        check(patch(client, url, VIDEO + b"x"), 413, "upload_too_large")
        check(patch(client, url, iter([VIDEO, b"x"])), 413, "upload_too_large")

    def test_a_complete_upload_takes_no_more(self, client, url, uploads):
        patch(client, url, VIDEO)

        check(patch(client, url, b"x", len(VIDEO)), 413, "upload_too_large")
        assert patch(client, url, b"", len(VIDEO)).status_code == 204
        assert offset_of(client, url) == len(VIDEO)

    @pytest.mark.parametrize(
        ("headers", "status", "code"),
        [
            ({"Content-Type": "video/mp4"}, 415, "tus_media_type_unsupported"),
            ({"Content-Encoding": "gzip"}, 415, "content_encoding_unsupported"),
            ({"Upload-Offset": "-1"}, 400, "tus_header_invalid"),
            ({"Upload-Checksum": "crc32 AAAA"}, 400, "tus_header_invalid"),
            ({"Tus-Resumable": "2.0.0"}, 412, "tus_version_unsupported"),
        ],
    )
    def test_what_is_wrong_is_refused(self, client, url, headers, status, code):
        check(patch(client, url, VIDEO, **headers), status, code)
        assert offset_of(client, url) == 0

    def test_a_client_that_names_no_version_is_refused(self, client, url):
        response = client.patch(url, content=b"x", headers={"Content-Type": tus.BODY_TYPE})

        check(response, 412, "tus_version_unsupported")
        assert response.headers["tus-version"] == "1.0.0"

    def test_the_container_is_checked_as_soon_as_its_mark_is_there(self, client, url, uploads):
        assert patch(client, url, bytes(HEAD_BYTES - 1)).status_code == 204

        check(patch(client, url, b"x", HEAD_BYTES - 1), 415, "video_container_unsupported")
        assert uploads.names() == []

    def test_the_container_of_a_short_file_is_checked_at_its_end(self, client, uploads):
        url = create(client, 10).headers["location"]

        check(patch(client, url, bytes(10)), 415, "video_container_unsupported")
        assert uploads.names() == []

    def test_an_upload_whose_process_died_at_the_end_is_completed(self, client, url, uploads):
        (name,) = uploads.names()
        uploads.path(name).write_bytes(VIDEO)

        assert offset_of(client, url) == len(VIDEO)
        assert uploads.record(name).sha256 == sha256(VIDEO).hexdigest()

    def test_the_method_can_be_overridden(self, client, url):
        headers = {
            **SPEAKS,
            "Content-Type": tus.BODY_TYPE,
            "Upload-Offset": "0",
            "X-HTTP-Method-Override": "PATCH",
        }

        response = client.post(url, content=VIDEO[:10], headers=headers)

        assert (response.status_code, response.headers["upload-offset"]) == (204, "10")


class TestChecksum:
    @pytest.mark.parametrize("algorithm", HASHES)
    def test_bytes_that_fit_count(self, client, url, algorithm):
        response = patch(client, url, VIDEO[:100], **checksum(algorithm, VIDEO[:100]))

        assert response.status_code == 204
        assert offset_of(client, url) == 100

    def test_bytes_that_do_not_fit_are_removed(self, client, url):
        patch(client, url, VIDEO[:100])

        response = patch(client, url, VIDEO[100:200], 100, **checksum("sha1", b"other"))

        check(response, 460, "checksum_mismatch")
        assert offset_of(client, url) == 100

    def test_the_last_part_does_not_complete_the_upload_unless_it_fits(self, client, url, uploads):
        response = patch(client, url, VIDEO, **checksum("sha256", b"other"))

        check(response, 460, "checksum_mismatch")
        assert patch(client, url, VIDEO, **checksum("sha256", VIDEO)).status_code == 204
        (name,) = uploads.names()
        assert uploads.record(name).is_complete

    def test_a_process_that_died_before_the_check_leaves_nothing_unchecked(
        self, client, url, uploads
    ):
        patch(client, url, VIDEO[:100])
        (name,) = uploads.names()
        uploads.path(name).with_name(".unverified").write_text("100")
        uploads.path(name).write_bytes(VIDEO[:2000])

        assert offset_of(client, url) == 100
        assert patch(client, url, VIDEO[100:], 100).status_code == 204
        assert uploads.path(name).read_bytes() == VIDEO


class TestEnd:
    def test_termination_removes_every_byte(self, client, url, uploads):
        patch(client, url, VIDEO[:100])

        response = client.delete(url, headers=SPEAKS)

        assert response.status_code == 204
        assert response.headers["tus-resumable"] == "1.0.0"
        assert uploads.names() == []
        assert client.head(url, headers=SPEAKS).status_code == 404

    def test_an_old_upload_is_gone(self, open_client, uploads):
        client = open_client(upload_ttl=3600)
        url = create(client).headers["location"]
        (name,) = uploads.names()
        record = uploads.record(name)
        old = record.model_copy(update={"created_at": record.created_at - timedelta(hours=2)})
        (uploads.path(name).parents[1] / "upload.json").write_text(old.to_json())

        assert client.head(url, headers=SPEAKS).status_code == 410
        check(patch(client, url, VIDEO), 410, "upload_expired")

    @pytest.mark.parametrize("name", ["0" * 32, "x", "..%2f..%2fjobs"])
    def test_an_unknown_upload_is_not_found(self, client, name):
        assert patch(client, f"/v1/uploads/{name}", b"x").status_code == 404


class TestAccounting:
    @pytest.fixture
    def entry(self, redis, settings, store):
        """Return the sums of the ledger's entries, after the leases and a count."""

        def read():
            redis.delete(LEASES_KEY)
            Reconciler(store, Inventory(store), redis).reconcile()
            entries = [map(int, text.split()[:3]) for text in redis.hvals(ENTRIES_KEY)]
            return tuple(map(sum, zip(*entries, strict=True)))

        return read

    def test_all_bytes_count_although_nothing_writes(self, client, url, entry):
        assert entry() == (SIZE, SIZE, SIZE)

        patch(client, url, VIDEO[:3000])

        assert entry() == (SIZE, SIZE, SIZE - 3000)

    def test_a_complete_upload_counts_once(self, client, url, entry):
        patch(client, url, VIDEO)

        own, shared, pending = entry()
        assert SIZE <= own == shared < SIZE + 500  # with its record
        assert pending == 0

    def test_bytes_are_given_back_when_creation_fails(self, client, redis):
        client.post(
            "/v1/uploads",
            content=bytes(3000),
            headers={**SPEAKS, "Upload-Length": "4000", "Content-Type": tus.BODY_TYPE},
        )

        assert client.get("/v1/uploads").json()["uploads"] == []
        assert redis.hlen(ENTRIES_KEY) == 0


class TestOtherCalls:
    def test_a_job_can_be_made_from_it(self, client, url, announce, uploads):
        announce()
        upload_id = url.removeprefix("/v1/uploads/")
        assert client.get(url).json()["state"] == "receiving"
        early = client.post("/v1/jobs", json={"upload": upload_id})
        patch(client, url, VIDEO)

        job = client.post("/v1/jobs", json={"upload": upload_id})

        assert (early.status_code, early.json()["code"]) == (409, "upload_incomplete")
        assert (job.status_code, job.json()["upload"]) == (202, upload_id)
        assert client.get(url).json()["received_bytes"] == SIZE
        check(client.delete(url, headers=SPEAKS), 409, "upload_in_use")
        assert client.get("/v1/uploads").json()["uploads"][0]["state"] == "complete"

    def test_the_plain_calls_answer_without_the_header(self, client, url):
        assert client.head(url).headers["content-type"] == "application/json"
        assert client.post("/v1/uploads", content=VIDEO).status_code == 201


class TestOwner:
    @pytest.fixture
    def keyed(self, open_client, tmp_path):
        path = tmp_path / "keys.toml"
        path.write_text(
            "".join(f'[{who}]\nsha256 = "{sha256(who.encode()).hexdigest()}"\n' for who in "ab")
        )
        return open_client(api_keys_file=path)

    def test_an_upload_does_not_exist_for_others(self, keyed):
        a, b = ({"Authorization": f"Bearer {who}"} for who in "ab")
        url = create(keyed, **a).headers["location"]

        check(patch(keyed, url, VIDEO, **b), 404, "upload_not_found")
        assert keyed.head(url, headers={**SPEAKS, **b}).status_code == 404
        assert keyed.delete(url, headers={**SPEAKS, **b}).status_code == 404
        assert patch(keyed, url, VIDEO, **a).status_code == 204

    def test_a_key_that_is_revoked_meanwhile_completes_no_upload(self, keyed, uploads, tmp_path):
        url = create(keyed, Authorization="Bearer a").headers["location"]

        def body():
            yield VIDEO[:3000]
            (tmp_path / "keys.toml").write_text(f'[b]\nsha256 = "{"0" * 64}"\n')
            yield VIDEO[3000:]

        response = patch(keyed, url, body(), Authorization="Bearer a")

        check(response, 401, "unauthorized")
        (name,) = uploads.names()
        assert not uploads.record(name).is_complete

    def test_no_byte_is_stored_without_a_key(self, keyed, uploads):
        assert create(keyed).status_code == 401
        url = create(keyed, Authorization="Bearer a").headers["location"]

        assert patch(keyed, url, VIDEO).status_code == 401
        (name,) = uploads.names()
        assert uploads.received_bytes(name) == 0
