import os
import time
from hashlib import sha256

import pytest

from rollout_core.client import DamagedTransfer, RolloutApiError, RolloutConnectionError, uploading
from tests.rollout_core.client.contract_server import Fault

SIZE = 3_000_000
UPLOAD = r"/v1/uploads/\w+"


@pytest.fixture(autouse=True)
def _large(monkeypatch):
    """Let files of a megabyte be large, and go in three pieces."""
    monkeypatch.setattr(uploading, "SMALL_BYTES", 1_000_000)
    monkeypatch.setattr(uploading, "PIECE_BYTES", 1_100_000)


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "clip ü.mp4"
    path.write_bytes(os.urandom(SIZE))
    return path


def data_of(server, upload_id):
    return bytes(server.uploads[upload_id]["data"])


def test_a_small_file_goes_as_one_request(client, server, tmp_path):
    path = tmp_path / "small.mp4"
    path.write_bytes(b"small")
    upload = client.upload(path)
    (sent,) = server.seen
    assert (sent.body, sent.query) == (b"small", {"filename": "small.mp4"})
    assert upload.sha256 == sha256(b"small").hexdigest()


def test_a_large_file_goes_in_pieces(client, server, video):
    told = []
    upload = client.upload(video, on_bytes=lambda *bytes_: told.append(bytes_))
    assert data_of(server, upload.id) == video.read_bytes()
    assert server.uploads[upload.id]["filename"] == "clip ü.mp4"
    assert server.count("PATCH", UPLOAD) == 3
    assert told[-1] == (SIZE, SIZE)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_job_of_a_large_file_names_its_upload(client, server, video):
    job = client.submit(video, method="attention")
    assert data_of(server, job.upload) == video.read_bytes()


def test_the_upload_of_a_job_takes_more_questions(client, server, video):
    job = client.submit(video)
    second = client.submit(client.get_upload(job.upload), method="attention")
    assert second.upload == job.upload
    assert server.count("PATCH", UPLOAD) == 3


def test_a_broken_upload_goes_on_where_it_stopped(client, server, video):
    server.faults += [
        Fault("PATCH", UPLOAD, after_bytes=500_000),
        Fault("PATCH", UPLOAD, after_bytes=100_000),
        Fault("PATCH", UPLOAD, when_done=True),
    ]
    upload = client.upload(video)
    assert data_of(server, upload.id) == video.read_bytes()
    offsets = [int(sent.headers["upload-offset"]) for sent in server.find("PATCH", UPLOAD)]
    assert offsets == [0, 500_000, 600_000, 1_700_000, 2_800_000]


def test_a_later_call_resumes_it(open_client, server, video):
    server.faults.append(Fault("PATCH", UPLOAD, after_bytes=700_000))
    server.faults.append(Fault("(HEAD|PATCH)", UPLOAD, times=0))
    away = [Fault(method, UPLOAD, times=99) for method in ("HEAD", "PATCH")]
    server.faults += away
    with pytest.raises(RolloutConnectionError):
        open_client(server.url).upload(video)
    for fault in away:
        fault.times = 0
    upload = open_client(server.url).upload(video)
    assert data_of(server, upload.id) == video.read_bytes()
    assert server.count("POST", "/v1/uploads") == 1
    assert int(server.find("PATCH", UPLOAD)[-3].headers["upload-offset"]) == 700_000


def test_a_complete_upload_is_not_sent_again(client, server, video):
    assert client.upload(video).id == client.upload(video).id
    assert server.count("PATCH", UPLOAD) == 3


def test_a_changed_file_is_another_upload(client, server, video):
    first = client.upload(video)
    video.write_bytes(os.urandom(SIZE))
    os.utime(video, ns=(1, 1))
    second = client.upload(video)
    assert first.id != second.id
    assert data_of(server, second.id) == video.read_bytes()


def test_an_upload_that_is_gone_starts_anew(client, server, video):
    first = client.upload(video)
    del server.uploads[first.id]
    server.uploads["of another"] = {}
    upload = client.upload(video)
    assert data_of(server, upload.id) == video.read_bytes()


def test_another_server_has_other_uploads(open_client, server, video):
    open_client(server.url).upload(video)
    open_client(f"{server.url}/").upload(video)
    assert server.count("POST", "/v1/uploads") == 1  # the same address
    open_client(server.url.replace("127.0.0.1", "localhost")).upload(video)
    assert server.count("POST", "/v1/uploads") == 2


def test_another_writer_is_waited_for(client, server, video):
    server.faults.append(Fault("PATCH", UPLOAD, status=409, code="upload_busy"))
    upload = client.upload(video)
    assert data_of(server, upload.id) == video.read_bytes()


def test_a_refusal_ends_it(client, server, video):
    fault = Fault("POST", "/v1/uploads", times=9, status=413, code="upload_too_large")
    server.faults.append(fault)
    with pytest.raises(RolloutApiError) as caught:
        client.submit(video)
    assert caught.value.code == "upload_too_large"
    assert len(server.seen) == 1


def test_a_file_that_is_refused_at_its_end_is_not_resumed(client, server, video):
    server.faults.append(Fault("PATCH", UPLOAD, status=415, code="video_container_unsupported"))
    with pytest.raises(RolloutApiError):
        client.upload(video)
    client.upload(video)
    assert server.count("POST", "/v1/uploads") == 2


def test_other_bytes_than_those_of_the_file_are_noticed(client, server, video):
    first = client.upload(video)
    server.uploads[first.id]["data"][5] ^= 1
    with pytest.raises(DamagedTransfer, match="changed while it was uploaded"):
        client.upload(video)
    second = client.upload(video)
    assert second.id != first.id


def test_a_service_without_uploads_gets_a_form(client, server, video):
    server.has_uploads = False
    assert client.submit(video).state == "queued"
    assert video.read_bytes() in server.find("POST", "/v1/jobs")[0].body


def test_a_cache_that_cannot_be_written_does_no_harm(open_client, server, video, tmp_path):
    (tmp_path / "a file").write_text("")
    client = open_client(server.url, cache=tmp_path / "a file" / "below")
    assert data_of(server, client.upload(video).id) == video.read_bytes()


def test_old_notes_are_removed(open_client, server, video, tmp_path):
    cache = tmp_path / "notes"
    cache.mkdir()
    for name, age_seconds in (("old.json", 8 * 86_400), ("new.json", 86_400)):
        (cache / name).write_text("{}")
        os.utime(cache / name, (time.time() - age_seconds,) * 2)
    open_client(server.url, cache=cache).upload(video)
    names = {path.name for path in cache.iterdir()}
    assert "new.json" in names
    assert "old.json" not in names
    assert len(names) == 2


def test_the_key_is_sent_to_the_service_alone(open_client, server, video):
    """The Location of the upload names another host."""
    open_client(server.url, api_key="secret").upload(video)
    assert all(sent.headers["authorization"] == "Bearer secret" for sent in server.seen)
    assert server.count("PATCH", UPLOAD) == 3
