"""Downloads from a folder and from a bucket: the same answers."""

import hashlib
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from rollout_core.contract import ExplainRequest, ExplainResult, Prediction, describe
from rollout_core.jobs.bucket import DOWNLOAD_BYTES, Bucket
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.object_store import ObjectStore
from rollout_core.jobs.records import Ticket
from service.object_answers import LINK_SECONDS
from service.security_headers import OWN_PAGE

JOB = "1" * 32
FILES = {
    "overlay.mp4": bytes(range(256)) * 40,
    "rollout.npz": b"PK\3\4" + bytes(2 * DOWNLOAD_BYTES),
    "sheet.png": b"",
}
VIDEO = FILES["overlay.mp4"]
URL = f"/v1/jobs/{JOB}/artifacts/overlay.mp4"


def publish(store, upload):
    """Put a job that has succeeded into a store."""
    now = datetime.now(UTC)
    ticket = Ticket(id=JOB, request=ExplainRequest(model="fake"), created_at=now, upload_bytes=5)
    store.accept(ticket, upload)
    folder = store.begin_attempt(JOB, 1, "ab")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    result = ExplainResult(
        model="fake",
        checkpoint_sha256=None,
        request=ticket.request,
        predictions=(Prediction(label="left", index=0, probability=0.75),),
        clips=2,
        frames=8,
        artifacts=tuple(describe(folder / name) for name in FILES),
        timings_seconds={},
        attempt=1,
        started_at=now,
        ended_at=now + timedelta(seconds=1),
    )
    store.publish(JOB, 1, result, "ab")


@pytest.fixture(params=["folder", "bucket"])
def kind(request):
    return request.param


@pytest.fixture
def bucket_store(bucket, tmp_path):
    bucket.put("uploads/1/video", b"video")
    store = ObjectStore(bucket, tmp_path / "scratch")
    publish(store, "uploads/1/video")
    return store


@pytest.fixture
def open_stored(kind, request, open_client):
    """Open a client of a service whose store has the job; keyword arguments are settings."""
    if kind == "folder":
        store = request.getfixturevalue("store")
        with store.receiving() as path:
            path.write_bytes(b"video")
            publish(store, path)
        return open_client
    request.getfixturevalue("bucket_store")
    url = request.getfixturevalue("bucket_url")
    return lambda **settings: open_client(store=url, **settings)


@pytest.fixture
def stored(open_stored):
    return open_stored()


@pytest.fixture
def redirecting(bucket_store, bucket_url, open_client):
    """A client of a service that sends its clients to the bucket."""
    client = open_client(store=bucket_url, downloads="redirect")
    client.follow_redirects = False
    return client


def test_the_store_is_that_of_the_settings(stored, kind):
    store = stored.app_state["services"].store
    assert isinstance(store, {"folder": FolderStore, "bucket": ObjectStore}[kind])


@pytest.mark.parametrize("name", FILES)
def test_a_file_comes_whole_and_named(stored, name):
    response = stored.get(URL.replace("overlay.mp4", name))

    assert response.status_code == 200
    assert response.content == FILES[name]
    assert response.headers["etag"] == f'"{hashlib.sha256(FILES[name]).hexdigest()}"'
    assert response.headers["content-length"] == str(len(FILES[name]))
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["cache-control"] == "private, no-cache"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-disposition"].endswith(f'; filename="11111111-{name}"')


def test_both_stores_give_the_same_headers(bucket_store, bucket_url, open_client, store):
    with store.receiving() as path:
        path.write_bytes(b"video")
        publish(store, path)
    plain = dict(open_client().get(URL).headers)
    ours = dict(open_client(store=bucket_url).get(URL).headers)
    for headers in (plain, ours):
        assert headers.pop("last-modified").endswith(" GMT")
        headers.pop("x-request-id", None)
    assert ours == plain


def test_head_has_the_headers_and_no_body(stored):
    head, get = stored.head(URL), stored.get(URL)

    assert (head.status_code, head.content) == (200, b"")
    names = get.headers.keys() - {"x-request-id"}
    assert {name: head.headers[name] for name in names} == {n: get.headers[n] for n in names}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_current_copy_gets_304(stored, method):
    etag = stored.head(URL).headers["etag"]

    response = stored.request(
        method, URL, headers={"If-None-Match": f'"other", {etag}', "Range": "bytes=0-1"}
    )

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == etag
    assert "content-type" not in response.headers


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [("0-0", 0, 1), ("10-19", 10, 20), ("10200-", 10200, 10240), ("-40", 10200, 10240),
     ("0-99999", 0, 10240)],
)  # fmt: skip
def test_a_range(stored, wanted, start, end):
    response = stored.get(URL, headers={"Range": f"bytes={wanted}"})

    assert response.status_code == 206
    assert response.content == VIDEO[start:end]
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/10240"
    assert response.headers["content-length"] == str(end - start)


def test_a_range_over_several_chunks(stored):
    url, begin = URL.replace("overlay.mp4", "rollout.npz"), DOWNLOAD_BYTES - 10
    response = stored.get(url, headers={"Range": f"bytes={begin}-{2 * DOWNLOAD_BYTES + 1}"})

    assert (response.status_code, len(response.content)) == (206, DOWNLOAD_BYTES + 12)


@pytest.mark.parametrize("wanted", ["10240-", "20000-20001"])
def test_a_range_behind_the_end(stored, wanted):
    response = stored.get(URL, headers={"Range": f"bytes={wanted}"})

    assert (response.status_code, response.json()["code"]) == (416, "range_not_satisfiable")
    assert response.headers["content-range"] == "bytes */10240"


@pytest.mark.parametrize("malformed", ["bytes", "lines=0-1", "bytes=", "bytes=9-3", "bytes=x-y"])
def test_a_malformed_range_is_ignored(stored, malformed):
    response = stored.get(URL, headers={"Range": malformed})

    assert (response.status_code, response.content) == (200, VIDEO)


def test_several_ranges_come_in_one_answer(stored, kind):
    response = stored.get(URL, headers={"Range": "bytes=0-1,100-101"})

    assert response.status_code == {"folder": 206, "bucket": 200}[kind]
    assert b"\x00\x01" in response.content
    assert b"\x64\x65" in response.content


def test_if_range(stored):
    headers = stored.head(URL).headers
    conditions = (headers["etag"], headers["last-modified"], '"other"', f"W/{headers['etag']}")

    answers = [
        stored.get(URL, headers={"Range": "bytes=0-9", "If-Range": condition})
        for condition in conditions
    ]

    assert [answer.status_code for answer in answers] == [206, 206, 200, 200]


@pytest.mark.parametrize("name", ["other.txt", "video", "begun", "%2e%2e%2fjob.json", "x" * 300])
def test_an_unknown_name(stored, name):
    response = stored.get(f"/v1/jobs/{JOB}/artifacts/{name}")

    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_files_of_another_owner_are_not_found(open_stored, keys_file):
    client = open_stored(api_keys_file=keys_file)

    assert client.get(URL).status_code == 401


class TestBucket:
    def test_an_object_that_vanishes_is_not_found(
        self, bucket_store, bucket_url, open_client, monkeypatch
    ):
        client = open_client(store=bucket_url)
        found = Bucket.head

        def vanishing(bucket, key):
            answer = found(bucket, key)
            if key.endswith("overlay.mp4"):
                bucket.delete([key])
            return answer

        monkeypatch.setattr(Bucket, "head", vanishing)
        response = client.get(URL)

        assert (response.status_code, response.json()["code"]) == (404, "artifact_not_found")

    def test_memory_holds_one_chunk(self, bucket_store, bucket_url, open_client, monkeypatch):
        client, asked = open_client(store=bucket_url), []
        stream_range = Bucket.stream_range

        async def watched(bucket, key, start, end):
            async for chunk in stream_range(bucket, key, start, end):
                asked.append(len(chunk))
                yield chunk

        monkeypatch.setattr(Bucket, "stream_range", watched)
        response = client.get(URL.replace("overlay.mp4", "rollout.npz"))

        assert response.content == FILES["rollout.npz"]
        assert asked == [DOWNLOAD_BYTES, DOWNLOAD_BYTES, 4]

    def test_a_bucket_that_fails_is_a_store_that_is_unavailable(
        self, bucket_store, bucket_url, open_client, monkeypatch
    ):
        client = open_client(store=bucket_url)

        async def failing(*_):
            raise OSError(121, "the bucket does not answer")
            yield

        monkeypatch.setattr(Bucket, "stream_range", failing)
        response = client.get(URL)

        assert (response.status_code, response.json()["code"]) == (503, "store_unavailable")


class TestRedirect:
    def test_a_link_leads_to_the_file(self, redirecting, bucket_server):
        response = redirecting.get(URL)

        assert (response.status_code, response.content) == (302, b"")
        assert response.headers["cache-control"] == "no-store"
        link = response.headers["location"]
        assert link.startswith(f"{bucket_server}/")
        query = parse_qs(urlsplit(link).query)
        assert query["X-Amz-Expires"] == [str(int(LINK_SECONDS))]
        file = httpx2.get(link, headers={"Range": "bytes=1-3"})
        assert (file.status_code, file.content) == (206, VIDEO[1:4])
        assert file.headers["content-type"] == "video/mp4"
        assert file.headers["content-disposition"] == 'inline; filename="11111111-overlay.mp4"'

    def test_head_and_304_stay_with_the_service(self, redirecting):
        head = redirecting.head(URL)
        current = redirecting.get(URL, headers={"If-None-Match": head.headers["etag"]})

        assert (head.status_code, head.headers["content-length"]) == (200, "10240")
        assert current.status_code == 304

    def test_no_link_without_a_file(self, redirecting, bucket_store):
        assert redirecting.get(f"/v1/jobs/{JOB}/artifacts/other.png").status_code == 404
        assert redirecting.get(f"/v1/jobs/{'2' * 32}/artifacts/sheet.png").status_code == 404
        bucket_store.expire(JOB)
        assert redirecting.get(URL).status_code == 410

    def test_no_link_without_a_key(self, bucket_store, bucket_url, open_client, keys_file):
        client = open_client(store=bucket_url, downloads="redirect", api_keys_file=keys_file)

        response = client.get(URL, follow_redirects=False)

        assert response.status_code == 401
        assert "location" not in response.headers

    def test_the_page_may_use_files_of_the_bucket_and_no_scripts(self, redirecting, bucket_server):
        policy = redirecting.get("/").headers["content-security-policy"]

        allowed = {
            each.split()[0] for each in policy.split("; ") if bucket_server in each.split()[1:]
        }
        assert allowed == {"img-src", "media-src", "connect-src"}
        assert policy.replace(f" {bucket_server}", "") == OWN_PAGE

    def test_the_policy_names_no_bucket_while_the_service_sends_files(self, stored):
        assert stored.get("/").headers["content-security-policy"] == OWN_PAGE
