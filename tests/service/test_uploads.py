"""Uploads over HTTP: a refused form leaves nothing on disk."""

import asyncio
import json
import tracemalloc

import pytest

from rollout_core.video.signatures import HEAD_BYTES
from service.maintenance import STALE_UPLOAD_SECONDS
from service.receiving import FLUSH_BYTES, STEP_BYTES
from service.settings import Settings
from service.uploads import MAX_REQUEST_BYTES

TYPE = "multipart/form-data; boundary=cut"


END = b"--cut--\r\n"


def part(name, content, *headers):
    """Return one part of a form."""
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="f"'.encode()
    return b"\r\n".join((b"--cut", disposition, *headers, b"", content, b""))


@pytest.fixture
def post(client, announce):
    """Post a raw body."""
    announce()

    def send(body, content_type=TYPE):
        return client.post("/v1/jobs", content=body, headers={"Content-Type": content_type})

    return send


def check(response, status, code):
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"


async def call(client, chunks, *headers, path=b"/v1/jobs"):
    """Send a body in chunks to the ASGI app, None being a disconnect; return its messages."""
    messages = []
    chunks = iter(chunks)

    async def receive():
        chunk = next(chunks, b"")
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": chunk != b""}

    async def send(message):
        messages.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path.decode(),
        "raw_path": path,
        "query_string": b"",
        "headers": [(b"content-type", TYPE.encode()), *headers],
        "server": ("testserver", 80),
        "client": ("127.0.0.1", 1),
        "state": dict(client.app_state),
    }
    await client.app(scope, receive, send)
    return messages


class TestForm:
    @pytest.mark.parametrize("request_first", [True, False])
    def test_parts_may_come_in_any_order(self, post, store, mp4, request_first):
        parts = [part("video", mp4), part("request", b'{"clips": "tile"}')]

        response = post(b"".join(parts[::-1] if request_first else parts) + END)

        assert response.status_code == 202
        assert response.json()["request"]["clips"] == "tile"
        assert store.upload_path(response.json()["id"]).read_bytes() == mp4

    def test_the_request_may_be_left_out(self, post, mp4):
        assert post(part("video", mp4) + END).status_code == 202

    @pytest.mark.parametrize("size", [1, 7, 100])
    def test_a_body_may_come_in_pieces(self, post, store, mp4, size):
        tricky = mp4 + b"\r\n--cu\r\n--\r\n--cut" * 3  # all but the boundary
        tricky = tricky.replace(b"\r\n--cut", b"\r\n--cuT")
        body = part("video", tricky) + END

        response = post(body[start : start + size] for start in range(0, len(body), size))

        assert store.upload_path(response.json()["id"]).read_bytes() == tricky

    def test_a_preamble_of_line_breaks_and_an_epilogue_are_ignored(self, post, mp4):
        assert post(b"\r\n" + part("video", mp4) + END + b"epilogue").status_code == 202

    @pytest.mark.parametrize(
        "content_type",
        ["video/mp4", "multipart/mixed; boundary=cut", "text/plain", ""],
    )
    def test_another_content_type_is_refused(self, post, mp4, leftovers, content_type):
        response = post(part("video", mp4) + END, content_type)
        check(response, 415, "media_type_unsupported")
        assert "Content-Type: application/json" in response.json()["detail"]
        assert leftovers() == []

    @pytest.mark.parametrize(
        "content_type",
        ["multipart/form-data", "multipart/form-data; boundary=", f"{TYPE}{'x' * 300}"],
    )
    def test_an_invalid_boundary_is_refused(self, post, mp4, content_type):
        check(post(part("video", mp4) + END, content_type), 400, "upload_malformed")

    def test_a_body_that_is_not_a_form_is_refused(self, post, mp4, leftovers):
        for body in (b"", mp4, b"--cut", b"--other\r\n\r\n", part("video", mp4)[:-2] + b"--cutter"):
            check(post(body), 400, "upload_malformed")
        assert leftovers() == []

    def test_an_incomplete_form_is_refused(self, post, mp4, leftovers):
        body = part("request", b"{}") + part("video", mp4) + END

        for end in range(1, len(body) - 2, 97):
            check(post(body[:end]), 400, "upload_malformed")
        assert leftovers() == []

    @pytest.mark.parametrize(
        ("form", "words"),
        [
            (lambda mp4: part("request", b"{}"), "no part named 'video'"),
            (lambda mp4: part("video", b""), "'video' is empty"),
            (lambda mp4: part("video", mp4) * 2, "more than one part 'video'"),
            (lambda mp4: part("request", b"{}") * 2 + part("video", mp4), "more than one"),
            (lambda mp4: part("video", mp4) + part("other", b"1"), "unexpected part 'other'"),
            (lambda mp4: part("", mp4), "unexpected part ''"),
            (lambda mp4: part("video", mp4) + part("send", b"Send"), "unexpected part 'send'"),
            (lambda mp4: part("video", mp4) + part("clips", b"tile"), "unexpected part 'clips'"),
            (lambda mp4: part("_charset_", b"utf-8"), "no part named 'video'"),
            (lambda mp4: part("_CHARSET_", b"utf-8") + part("video", mp4), "unexpected part"),
            (lambda mp4: part("x" * 3000, mp4), "unexpected part 'xxx"),
        ],
    )
    def test_unexpected_parts_are_refused(self, post, mp4, leftovers, form, words):
        response = post(form(mp4) + END)

        check(response, 422, "form_invalid")
        assert words in response.json()["detail"]
        assert len(response.json()["detail"]) < 150
        assert leftovers() == []

    @pytest.mark.parametrize("first", [True, False])
    @pytest.mark.parametrize(
        "more",
        [
            part("_charset_", b"UTF-8"),
            part("_charset_", b"windows-1252"),
            part("send", b""),
            part("", b""),
            part("other_file", b"", b"Content-Type: application/octet-stream"),
            part("request", b""),
            part("a", b"") * 2 + part("_charset_", b"utf-8"),
        ],
    )
    def test_what_browsers_add_to_a_form_is_ignored(self, post, store, mp4, more, first):
        video = part("video", mp4)

        response = post((more + video if first else video + more) + END)

        assert response.status_code == 202, response.text
        assert store.upload_path(response.json()["id"]).read_bytes() == mp4


class TestContainer:
    @pytest.mark.parametrize(
        "content", [b"hello", b"ffconcat version 1.0\nfile 'video'\n", b"\x89PNG" + bytes(2000)]
    )
    def test_a_file_that_is_not_a_video_is_refused(self, post, leftovers, content):
        check(post(part("video", content) + END), 415, "video_container_unsupported")
        assert leftovers() == []

    def test_the_rest_of_an_unsupported_file_is_not_read(self, client, announce):
        announce()
        sent = []

        def body():
            yield part("video", bytes(HEAD_BYTES))[:-2]
            for _ in range(1000):
                sent.append(1000)
                yield bytes(1000)

        status = asyncio.run(call(client, body()))[0]["status"]

        assert status == 415
        assert sent == []


class TestRequest:
    @pytest.mark.parametrize(
        ("text", "field"),
        [
            ('{"clip": "tile"}', "request.clip"),
            ('{"clips": "three"}', "request.clips"),
            ('{"discard_ratio": 1}', "request.discard_ratio"),
            ('{"discard_ratio": NaN}', "request.discard_ratio"),
            ('{"overlay": {"opacity": 2}}', "request.overlay.opacity"),
            ('{"start_seconds": 2, "end_seconds": 1}', "request"),
            ('{"model": "../etc"}', "request.model"),
            ("{", "request"),
            ("[]", "request"),
            ("\udcff", "request"),
        ],
    )
    def test_a_wrong_field_is_named(self, post, mp4, leftovers, text, field):
        encoded = text.encode(errors="surrogateescape")

        response = post(part("video", mp4) + part("request", encoded) + END)

        check(response, 422, "invalid_request")
        assert response.json()["errors"][0]["field"] == field
        assert field in response.json()["detail"]
        assert leftovers() == []

    def test_a_byte_order_mark_is_ignored(self, post, mp4):
        body = part("request", b"\xef\xbb\xbf" + b'{"clips": "tile"}') + part("video", mp4) + END

        assert post(body).json()["request"]["clips"] == "tile"

    @pytest.mark.parametrize("text", ["\ufeff", "\ufeff\ufeff{}", "{}\ufeff"])
    def test_other_marks_are_no_json(self, post, mp4, text):
        check(
            post(part("request", text.encode()) + part("video", mp4) + END), 422, "invalid_request"
        )

    def test_utf_16_is_no_json(self, post, mp4):
        body = part("request", "{}".encode("utf-16")) + part("video", mp4) + END

        check(post(body), 422, "invalid_request")

    @pytest.mark.parametrize(
        "text",
        [
            '{"clips": "one", "clips": "tile"}',
            '{"overlay": {"opacity": 0.1, "opacity": 0.2}}',
            '{"clips": "one", "\\u0063lips": "tile"}',
        ],
    )
    def test_a_field_given_twice_is_refused(self, post, mp4, text):
        response = post(part("request", text.encode()) + part("video", mp4) + END)

        check(response, 422, "invalid_request")
        assert "given more than once" in response.json()["detail"]

    def test_an_error_does_not_repeat_sent_values(self, post, mp4):
        request = {"head_fusion": "secret" * 1000, **{f"{n}-{'x' * 2000}": 1 for n in range(20)}}

        response = post(part("request", json.dumps(request).encode()) + part("video", mp4) + END)

        check(response, 422, "invalid_request")
        assert "secret" not in response.text
        assert len(response.text) < 10_000

    def test_a_too_long_request_part_is_refused(self, post, mp4, leftovers):
        request = b'{"model": "' + b"x" * MAX_REQUEST_BYTES + b'"}'

        check(post(part("request", request) + part("video", mp4) + END), 422, "form_invalid")
        assert leftovers() == []


class TestSize:
    def test_a_body_of_exactly_the_limit_is_accepted(self, open_client, announce, mp4, leftovers):
        announce()
        body = part("video", mp4) + END
        headers = {"Content-Type": TYPE}

        refused = open_client(max_upload_bytes=len(body) - 1)
        check(refused.post("/v1/jobs", content=body, headers=headers), 413, "upload_too_large")
        in_pieces = (body[start : start + 100] for start in range(0, len(body), 100))
        check(refused.post("/v1/jobs", content=in_pieces, headers=headers), 413, "upload_too_large")
        assert leftovers() == []

        accepted = open_client(max_upload_bytes=len(body))
        assert accepted.post("/v1/jobs", content=body, headers=headers).status_code == 202

    def test_a_body_announced_as_too_large_is_not_read(self, client, announce, settings):
        announce()
        sent = []

        def body():
            sent.append(1)
            yield b"x"

        for announced in (settings.max_upload_bytes + 1, 10**19):  # more than any disk has
            length = (b"content-length", str(announced).encode())
            status = asyncio.run(call(client, body(), length))[0]["status"]

            assert (status, sent) == (413, [])

    def test_a_body_without_an_end_is_stopped(self, open_client, announce, mp4, leftovers):
        announce()
        client = open_client(max_upload_bytes=100_000)
        sent = []

        def body():
            yield part("video", mp4)[:-2]
            while True:
                sent.append(1000)
                yield bytes(1000)

        status = asyncio.run(call(client, body()))[0]["status"]

        assert status == 413
        assert sum(sent) <= 100_000
        assert leftovers() == []

    def test_memory_does_not_grow_with_the_upload(self, client, announce, mp4, store, leftovers):
        announce()
        chunk = bytes(64 * 1024)
        chunks = 512  # 32 MiB

        def body():
            yield part("video", mp4)[:-2]
            for _ in range(chunks):
                yield chunk
            yield b"\r\n" + END

        tracemalloc.start()
        try:
            start, answer = asyncio.run(call(client, body()))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert start["status"] == 202
        size = store.upload_path(json.loads(answer["body"])["id"]).stat().st_size
        assert size == len(mp4) + chunks * len(chunk)
        assert peak < 8 * FLUSH_BYTES


def test_the_slowest_accepted_upload_is_never_cleaned_up():
    slowest = Settings(upload_idle_seconds=60).upload_idle_seconds

    assert FLUSH_BYTES / STEP_BYTES * slowest < STALE_UPLOAD_SECONDS


def test_a_disconnected_client_leaves_nothing(client, announce, mp4, redis, leftovers):
    announce()
    seen = []

    def body():
        yield part("video", mp4)[:-2]
        yield bytes(2 * FLUSH_BYTES)
        seen.extend(path.stat().st_size for path in leftovers())
        yield None

    asyncio.run(call(client, body()))

    assert max(seen) > FLUSH_BYTES  # it was on its way to disk
    assert leftovers() == []
    assert redis.keys("rq:*") == []


def test_recording_that_begins_in_the_middle_of_a_packet_is_accepted(client, announce):
    announce()
    packets = (b"G\x01\x00\x10" + bytes(184)) * 20

    response = client.post("/v1/jobs", files={"video": packets[100:]})

    assert response.status_code == 202
