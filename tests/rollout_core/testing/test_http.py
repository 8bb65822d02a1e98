"""The calls of the suite, to a server that answers with what it was sent."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from rollout_core.testing.http import Api


class Echo(BaseHTTPRequestHandler):
    def answer(self):
        length = int(self.headers.get("Content-Length", 0))
        sent = self.rfile.read(length).decode("latin-1")
        body = json.dumps(
            {"method": self.command, "path": self.path, "body": sent, **self.headers}
        ).encode()
        self.send_response(203)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_DELETE = do_PATCH = do_HEAD = answer  # noqa: N815

    def log_message(self, *_):
        """Keep quiet."""


@pytest.fixture(scope="module")
def url():
    server = HTTPServer(("127.0.0.1", 0), Echo)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_call_has_its_path_key_and_headers(url):
    answer = Api(f"{url}/below", "secret").get("/v1/jobs?limit=1", If_None_Match='"a"')
    said = answer.json()
    assert answer.status == 203
    assert (said["method"], said["path"]) == ("GET", "/below/v1/jobs?limit=1")
    assert (said["Authorization"], said["If-None-Match"]) == ("Bearer secret", '"a"')


def test_a_link_of_the_service_has_its_path_already(url):
    assert Api(f"{url}/below").get("/below/v1/jobs").json()["path"] == "/below/v1/jobs"
    assert Api(url).get("/below/v1/jobs").json()["path"] == "/below/v1/jobs"


def test_without_a_key_none_is_sent(url):
    assert "Authorization" not in Api(url).delete("/").json()


def test_a_body_is_sent_as_json_or_as_a_form(url):
    said = Api(url).post_json("/", {"a": 1}).json()
    assert (said["Content-Type"], json.loads(said["body"])) == ("application/json", {"a": 1})
    said = Api(url).post_form("/", {"video": b"\x00\xff", "request": b"{}"}).json()
    boundary = said["Content-Type"].partition("boundary=")[2]
    parts = said["body"].split(f"--{boundary}")
    assert 'name="video"; filename="video.mp4"' in parts[1]
    assert "\x00\xff" in parts[1]
    assert 'name="request"\r\n\r\n{}' in parts[2]
    assert parts[3] == "--\r\n"


def test_any_method_can_be_called_and_an_answer_read_in_pieces(url):
    assert Api(url).call("HEAD", "/").body == b""
    with Api(url).opened("PATCH", "/x", b"body") as response:
        assert response.read(1) == b"{"
