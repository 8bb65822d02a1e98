"""Both clients against a server that speaks the contract, and breaks it where a test says so."""

import io
import json
import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from rollout_core.client import (
    AsyncRolloutClient,
    Retries,
    RolloutApiError,
    RolloutClient,
    RolloutConnectionError,
)
from rollout_core.client.errors import ClientError, FieldFault
from rollout_core.contract import JobOptions
from rollout_core.jobs.schemas import Upload
from tests.rollout_core.client.contract_server import NOW, Fault

JOB = "0" * 31 + "1"


@pytest.fixture
def video(tmp_path):
    path = tmp_path / 'a "clip"\n.mp4'
    path.write_bytes(os.urandom(3000))
    return path


def test_both_clients_have_the_same_methods():
    def public(kind):
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(RolloutClient) == public(AsyncRolloutClient)


class TestSubmit:
    def test_a_small_file_goes_as_one_form(self, client, server, video):
        job = client.submit(video, method="attention", layer=3)
        assert (job.id, job.state, job.upload) == (JOB, "queued", "f" * 32)
        (sent,) = server.seen
        assert video.read_bytes() in sent.body
        assert b'name="video"; filename="a %22clip%22%0A.mp4"' in sent.body
        assert b'{"method": "attention", "layer": 3}' in sent.body
        assert int(sent.headers["content-length"]) == len(sent.body)

    def test_an_open_file_is_read_from_its_position(self, client, server):
        file = io.BytesIO(b"beforeTHE VIDEO")
        file.seek(6)
        client.submit(file, filename="named.mp4")
        (sent,) = server.seen
        assert b"\r\n\r\nTHE VIDEO\r\n--" in sent.body
        assert b'filename="named.mp4"' in sent.body

    def test_a_pipe_can_be_sent_and_sent_again(self, client, server):
        server.faults.append(Fault("POST", "/v1/jobs"))
        reader, writer = os.pipe()
        os.write(writer, b"from a pipe")
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            client.submit(pipe)
        assert b"\r\n\r\nfrom a pipe\r\n--" in server.seen[-1].body

    def test_a_url_and_an_upload_go_as_json(self, client, server):
        upload = Upload(
            id="a" * 32,
            state="complete",
            filename=None,
            bytes=1,
            received_bytes=1,
            sha256=None,
            created_at=NOW,
            expires_at=NOW,
        )
        client.submit(upload, tag="mine")
        client.submit("https://videos.example/a.mp4", JobOptions(reuse=False))
        first, second = (json.loads(sent.body) for sent in server.seen)
        assert first == {"upload": "a" * 32, "tag": "mine"}
        assert second == {"video_url": "https://videos.example/a.mp4", "reuse": False}

    def test_a_wrong_field_is_refused_before_anything_is_sent(self, client, server, video):
        with pytest.raises(ValidationError, match="layer is for attention"):
            client.submit(video, layer=3)
        with pytest.raises(ValidationError, match=r"methd\n  no such field; did you mean method\?"):
            client.submit(video, methd="attention")
        with pytest.raises(TypeError, match="either options or fields"):
            client.submit(video, JobOptions(), layer=3)
        assert server.seen == []

    def test_bytes_and_text_files_are_no_source(self, client, server, video):
        with pytest.raises(TypeError, match=r"a path, an open binary file.* not as bytes"):
            client.submit(video.read_bytes())
        with pytest.raises(TypeError, match="not as list"):
            client.upload([video])
        with video.open() as text, pytest.raises(TypeError, match="binary mode"):
            client.submit(text)
        assert server.seen == []

    def test_a_missing_file_is_named(self, client, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            client.submit(tmp_path / "nowhere.mp4")

    def test_progress_reaches_the_size_of_the_file(self, client, video):
        told = []
        client.submit(video, on_bytes=lambda done, total: told.append((done, total)))
        assert told[-1] == (3000, 3000)


class TestRetries:
    @pytest.mark.parametrize("status", [429, 502, 503, 504])
    def test_a_create_is_repeated_with_the_same_key_and_bytes(self, client, server, video, status):
        server.faults.append(Fault("POST", "/v1/jobs", times=2, status=status))
        assert client.submit(video).id == JOB
        assert len({sent.headers["idempotency-key"] for sent in server.seen}) == 1
        assert len({sent.body for sent in server.seen}) == 1
        assert len(server.seen) == 3

    def test_a_create_whose_answer_was_lost_makes_one_job(self, client, server, video):
        server.faults.append(Fault("POST", "/v1/jobs", when_done=True))
        assert client.submit(video).id == JOB
        assert len(server.jobs) == 1
        assert server.count("POST", "/v1/jobs") == 2

    def test_a_create_that_is_still_received_is_repeated(self, client, server, video):
        fault = Fault("POST", "/v1/jobs", status=409, code="idempotency_in_progress")
        server.faults.append(fault)
        assert client.submit(video).id == JOB

    def test_two_submissions_have_two_keys_unless_one_is_given(self, client, server, video):
        client.submit(video)
        client.submit(video)
        client.submit(video, idempotency_key="mine")
        first, second, third = (sent.headers["idempotency-key"] for sent in server.seen)
        assert first != second
        assert third == "mine"

    def test_a_lasting_refusal_is_not_repeated(self, client, server, video):
        server.faults.append(Fault("POST", "/v1/jobs", times=9, status=422, code="unknown_model"))
        with pytest.raises(RolloutApiError) as caught:
            client.submit(video)
        error = caught.value
        assert (error.code, error.status, error.title) == ("unknown_model", 422, "It failed")
        assert str(error) == "It failed: as the test wants"
        assert len(server.seen) == 1

    def test_attempts_are_bounded(self, client, server):
        server.faults.append(Fault("GET", "/v1/models", times=99, status=503))
        with pytest.raises(RolloutApiError):
            client.models()
        assert len(server.seen) == 5

    def test_a_cancel_is_not_repeated_after_a_lost_answer(self, client, server, video):
        job = client.submit(video)
        server.faults.append(Fault("POST", f"/v1/jobs/{JOB}/cancel", when_done=True))
        with pytest.raises(RolloutConnectionError, match=r"the connection to .* broke"):
            client.cancel(job)
        assert server.count("POST", f"/v1/jobs/{JOB}/cancel") == 1

    def test_retry_after_is_honoured(self, kind, open_client, server):
        server.faults.append(Fault("GET", "/v1/jobs", status=503, headers={"Retry-After": "1"}))
        retries = Retries(attempts=1, first_seconds=0, patience_seconds=1)
        assert list(open_client(server.url, retries=retries).list()) == []
        assert retries.pause(1, api_error(1)) >= 1

    def test_a_retry_after_beyond_patience_is_an_error(self, client, server):
        server.faults.append(Fault("GET", "/v1/jobs", status=429, headers={"Retry-After": "3600"}))
        with pytest.raises(RolloutApiError) as caught:
            list(client.list())
        assert caught.value.retry_after_seconds == 3600

    def test_pauses_grow_to_a_limit_and_differ(self):
        retries = Retries(attempts=9, first_seconds=1, most_seconds=4)
        failure = RolloutConnectionError("gone")
        pauses = [retries.pause(failures, failure) for failures in (1, 2, 3, 4, 9)]
        for pause, most in zip(pauses, (1, 2, 4, 4, 4), strict=True):
            assert most / 2 <= pause <= most
        assert retries.pause(10, failure) is None
        assert len({retries.pause(1, failure) for _ in range(9)}) > 1


def api_error(seconds):
    return RolloutApiError("c", "t", "d", status=503, retry_after_seconds=seconds)


class TestErrors:
    def test_a_service_that_is_away_is_named(self, open_client):
        url = "http://127.0.0.1:9"
        client = open_client(url, retries=Retries(attempts=1, first_seconds=0))
        with pytest.raises(RolloutConnectionError, match=f"cannot connect to {url}") as caught:
            client.models()
        assert caught.value.unsent

    @pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "nonsense", "http://"])
    def test_a_url_that_is_none_is_named(self, url):
        with pytest.raises(
            RolloutConnectionError, match="is not a URL of a service, such as http://"
        ):
            RolloutClient(url)

    def test_invalid_fields_are_listed(self):
        body = {"code": "invalid_request", "errors": [{"field": "layer", "message": "too deep"}]}
        error = RolloutApiError.from_answer(422, {}, json.dumps(body).encode())
        assert error.fields == (FieldFault("layer", "too deep"),)

    @pytest.mark.parametrize("body", [b"<html>", b"[]", b"", b'{"errors": [1]}'])
    def test_an_answer_of_a_proxy_is_an_error_too(self, body):
        error = RolloutApiError.from_answer(502, {"retry-after": "a date"}, body)
        assert (error.code, str(error)) == ("http_502", "Bad Gateway")
        assert error.retry_after_seconds is None
        assert error.request_id is None

    def test_the_id_of_the_request_is_kept(self):
        error = RolloutApiError.from_answer(500, {"x-request-id": "abc.1"}, b"")
        assert error.request_id == "abc.1"

    def test_an_answer_that_is_no_job_asks_for_the_url(self, client, server):
        server.jobs[JOB] = {"id": 3}
        with pytest.raises(ClientError, match="is not a Job"):
            client.get(JOB)


class TestCalls:
    def test_answers_may_have_more_fields_than_are_known(self, client, video):
        job = client.submit(video)
        assert client.get(job).request.model == "fake"

    def test_a_job_is_named_by_itself_or_its_id(self, client, video):
        job = client.submit(video)
        assert client.get(job).id == client.get(job.id).id == JOB

    def test_ids_cannot_leave_their_path(self, client, server):
        with pytest.raises(RolloutApiError):
            client.get("../models?x=")
        (sent,) = server.seen
        assert sent.path.startswith("/v1/jobs/")
        assert sent.query == {}

    def test_all_pages_are_listed(self, client, server, video):
        for _ in range(5):
            client.submit(video)
        listed = [int(job.id, 16) for job in client.list(state="queued", tag="mine")]
        assert listed == [5, 4, 3, 2, 1]
        first, *_ = server.find("GET", "/v1/jobs")
        assert first.query == {"state": "queued", "tag": "mine", "limit": "100"}

    def test_cancel_and_delete(self, client, server, video):
        job = client.submit(video)
        assert client.cancel(job).state == "canceled"
        assert client.delete(job) is None
        assert server.jobs == {}

    def test_key_and_url_come_from_the_environment(self, monkeypatch, server):
        monkeypatch.setenv("ROLLOUT_URL", server.url)
        monkeypatch.setenv("ROLLOUT_API_KEY", "a key")
        with RolloutClient() as client:
            list(client.list())
            assert client.url == server.url
        assert server.seen[0].headers["authorization"] == "Bearer a key"

    def test_arguments_count_before_the_environment(self, monkeypatch, server):
        monkeypatch.setenv("ROLLOUT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("ROLLOUT_API_KEY", "a key")
        with RolloutClient(server.url, "another") as client:
            list(client.list())
        assert server.seen[0].headers["authorization"] == "Bearer another"

    def test_without_a_key_none_is_sent(self, client, server, monkeypatch):
        list(client.list())
        assert "authorization" not in server.seen[0].headers


def test_importing_the_client_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys, time; begun = time.process_time(); import rollout_core.client; "
        "print(time.process_time() - begun); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, modules = done.stdout.splitlines()
    assert float(seconds) < 1.5  # 0.2 on an idle machine
    assert {"numpy", "torch", "av", "fastapi", "redis", "mcp"}.isdisjoint(modules.split())
