"""Resumable uploads by two clients that others have written, over connections that break."""

import socket
import time
from contextlib import ExitStack, contextmanager, suppress
from hashlib import file_digest
from threading import Thread

import pytest
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError, TusUploadFailed

from rollout_core.jobs.folder_store import FolderStore
from service.folder_uploads import FolderUploads
from tests.service.conftest import MP4
from tests.system.node import run_node
from tests.system.system import open_system
from tests.system.waiting import wait_until

MIB = 1024**2
LARGE_BYTES = 500 * 10**6
PART_BYTES = 16 * MIB


@pytest.fixture(scope="module")
def system():
    with open_system(forked=True) as system:
        system.api()
        system.api()
        yield system


@pytest.fixture(scope="module")
def store(system):
    return FolderUploads(FolderStore(system.data_dir))


@pytest.fixture
def endpoint(system):
    return f"{system.client.base_url}/v1/uploads"


@pytest.fixture
def video(tmp_path):
    return make(tmp_path / "video.mp4", 3 * MIB)


@pytest.fixture
def large(tmp_path):
    path = make(tmp_path / "large.mp4", LARGE_BYTES)
    yield path
    path.unlink()


def make(path, size):
    """Make a sparse file that begins as an MP4 does, with marks by which its parts differ."""
    with path.open("wb") as file:
        file.write(MP4)
        for place in range(MIB, size - 16, MIB):
            file.seek(place)
            file.write(f"{place:016d}".encode())
        file.truncate(size)
    return path


def record_of(store, url):
    return store.record(url.rpartition("/")[2])


def size_of(store, url):
    return store.received_bytes(url.rpartition("/")[2])


def check_complete(store, url, path):
    record = record_of(store, url)
    with path.open("rb") as file:
        assert record.sha256 == file_digest(file, "sha256").hexdigest()
    assert record.bytes == size_of(store, url) == path.stat().st_size


def upload_with_js(endpoint, path, **options):
    return run_node(
        "tus-js-client", "tus-upload.mjs", {"endpoint": endpoint, "file": str(path)} | options
    )


def newest(store):
    """Return the path of the bytes of the newest upload that is not complete."""

    def find():
        found = [store.path(name) for name in store.names() if not store.record(name).is_complete]
        return max(found, key=lambda path: path.stat().st_ctime, default=None)

    return wait_until(find)


@pytest.fixture
def tuspy(endpoint):
    """Make an uploader of tuspy; it does not close the files that it opens itself."""
    with ExitStack() as stack:

        def make_one(path, **options):
            file = stack.enter_context(path.open("rb"))
            return TusClient(endpoint).uploader(file_stream=file, **options)

        yield make_one


@contextmanager
def killed_when_half_has_arrived(system, store, size):
    """Kill the first API once half of an upload has arrived; it is restarted."""
    seen = []

    def kill():
        path = newest(store)
        wait_until(lambda: path.stat().st_size > size / 2, 60)
        api = next(process for process in system.processes if process.name == "api-0")
        api.kill()
        seen.append(path.stat().st_size)

    thread = Thread(target=kill)
    thread.start()
    yield seen
    thread.join()


@contextmanager
def stalled(url, size, data):
    """Send a part of a body, then nothing more, on a connection that stays open."""
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    head = (
        f"PATCH /{path} HTTP/1.1\r\nHost: {host}\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
        f"Content-Type: application/offset+octet-stream\r\nContent-Length: {size}\r\n\r\n"
    )
    with socket.create_connection((name, int(port)), timeout=20) as client:
        client.sendall(head.encode() + data)
        yield client


class TestWhole:
    def test_tuspy(self, store, video, tuspy):
        uploader = tuspy(video, metadata={"filename": "clip.mp4"})

        uploader.upload()

        check_complete(store, uploader.url, video)
        assert record_of(store, uploader.url).filename == "clip.mp4"

    def test_tuspy_with_checksums(self, store, video, tuspy):
        uploader = tuspy(video, chunk_size=MIB, upload_checksum=True)

        uploader.upload()

        check_complete(store, uploader.url, video)

    @pytest.mark.parametrize(
        "options",
        [{}, {"uploadDataDuringCreation": True}, {"overridePatchMethod": True, "chunkSize": MIB}],
    )
    def test_tus_js_client(self, endpoint, store, video, options):
        done = upload_with_js(endpoint, video, **options)

        assert "error" not in done
        check_complete(store, done["url"], video)
        assert record_of(store, done["url"]).filename == "clip ä.mp4"


class TestResumed:
    def test_tuspy(self, store, video, tuspy):
        first = tuspy(video, chunk_size=MIB)
        first.upload(stop_at=2 * MIB)

        second = tuspy(video, url=first.url)
        assert second.offset == 2 * MIB
        second.upload()

        check_complete(store, first.url, video)

    def test_tus_js_client(self, endpoint, store, tmp_path):
        video = make(tmp_path / "video.mp4", 64 * MIB)
        first = upload_with_js(endpoint, video, abortAt=MIB, chunkSize=MIB)
        assert not record_of(store, first["url"]).is_complete

        second = upload_with_js(endpoint, video, uploadUrl=first["url"])

        assert second["statuses"] == ["HEAD 200", "PATCH 204"]
        check_complete(store, first["url"], video)

    def test_a_wrong_offset_makes_tuspy_ask_for_the_right_one(self, store, video, tuspy):
        first = tuspy(video, chunk_size=MIB)
        first.upload(stop_at=2 * MIB)
        second = tuspy(video, url=first.url, retries=1, retry_delay=0, chunk_size=MIB)
        second.offset = 0

        second.upload()

        check_complete(store, first.url, video)

    def test_a_complete_upload_needs_no_byte(self, endpoint, store, video):
        first = upload_with_js(endpoint, video)

        again = upload_with_js(endpoint, video, uploadUrl=first["url"])

        assert again["statuses"] == ["HEAD 200"]


class TestRestartOfTheApi:
    def test_tuspy_goes_on(self, system, store, large, tuspy):
        uploader = tuspy(large, chunk_size=PART_BYTES, retries=30, retry_delay=1)

        with killed_when_half_has_arrived(system, store, LARGE_BYTES) as seen:
            uploader.upload()

        check_complete(store, uploader.url, large)
        assert LARGE_BYTES / 2 < seen[0] < LARGE_BYTES
        system.client.delete(uploader.url)

    def test_tus_js_client_goes_on(self, system, endpoint, store, large):
        with killed_when_half_has_arrived(system, store, LARGE_BYTES) as seen:
            done = upload_with_js(endpoint, large)

        assert done["statuses"][0] == "POST 201"
        assert done["statuses"][-2:] == ["HEAD 200", "PATCH 204"]
        check_complete(store, done["url"], large)
        assert LARGE_BYTES / 2 < seen[0] < LARGE_BYTES


class TestOneWriter:
    @pytest.mark.parametrize("api", [0, 1], ids=["same process", "other process"])
    def test_a_stalled_client_is_ended_by_the_next(self, system, store, video, api, tuspy):
        data = video.read_bytes()
        first = tuspy(video)
        url = first.create_url()

        with stalled(url, len(data), data[: 2 * MIB]) as client:
            wait_until(lambda: size_of(store, url) >= MIB)
            other = url.replace(str(system.client.base_url), str(system.clients[api].base_url))
            asked_at = time.monotonic()
            second = tuspy(video, url=other)
            waited = time.monotonic() - asked_at
            second.upload()
            answer = client.recv(4096)

        assert waited < 2
        assert b" 423 " in answer.partition(b"\r\n")[0]
        assert b"upload_locked" in answer
        check_complete(store, url, video)

    def test_what_the_stalled_client_has_sent_counts(self, store, video, tuspy):
        data = video.read_bytes()
        url = tuspy(video).create_url()

        with stalled(url, len(data), data[:1_234_567]):
            wait_until(lambda: size_of(store, url) >= MIB)
            second = tuspy(video, url=url)

        assert second.offset == 1_234_567

    def test_many_writers_leave_the_bytes_in_order(self, system, store, video, tuspy):
        url = tuspy(video).create_url()

        def send(client):
            own = url.replace(str(system.client.base_url), str(client.base_url))
            with suppress(TusUploadFailed, TusCommunicationError):
                tuspy(video, url=own, chunk_size=MIB // 2, retries=20, retry_delay=0).upload()

        threads = [Thread(target=send, args=(client,)) for client in system.clients * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        check_complete(store, url, video)


class TestRemoved:
    def test_tus_js_client_terminates_an_upload(self, endpoint, store, tmp_path):
        video = make(tmp_path / "video.mp4", 64 * MIB)

        done = upload_with_js(endpoint, video, abortAt=MIB, chunkSize=MIB, terminate=True)

        assert done["statuses"][-1] == "DELETE 204"
        assert record_of(store, done["url"]) is None

    def test_tuspy_is_told_that_an_upload_is_gone(self, store, video, tuspy):
        url = tuspy(video).create_url()
        store.expire(record_of(store, url))

        with pytest.raises(TusCommunicationError) as error:
            tuspy(video, url=url)

        assert error.value.status_code == 410

    def test_tus_js_client_begins_anew_when_an_upload_is_gone(self, endpoint, store, video, tuspy):
        url = tuspy(video).create_url()
        store.expire(record_of(store, url))

        done = upload_with_js(endpoint, video, uploadUrl=url)

        assert done["statuses"] == ["HEAD 410", "POST 201", "PATCH 204"]
        check_complete(store, done["url"], video)
