"""Videos that the service fetches by URL."""

import socket
import ssl
import subprocess
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest

from service import fetch
from service.folder_uploads import FolderUploads
from service.receiving import STEP_BYTES
from tests.service.conftest import MP4

VIDEO = MP4 + bytes(STEP_BYTES * 2)


class Handler(BaseHTTPRequestHandler):
    """Answers as the last step of the path says."""

    protocol_version = "HTTP/1.1"
    requests: list[tuple[str, dict[str, str]]]
    released: Event

    def do_GET(self):
        self.requests.append((self.path, dict(self.headers)))
        getattr(self, self.path.strip("/").partition(".")[0].partition("/")[0])()

    def answer(self, body, status=200, *, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def video(self):
        self.answer(VIDEO)

    def chunked(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(VIDEO), 50_000):
            part = VIDEO[start : start + 50_000]
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def text(self):
        self.answer(b"<html>" * 1000)

    def empty(self):
        self.answer(b"")

    def missing(self):
        self.answer(b"", 404)

    def partial(self):
        self.answer(VIDEO, 206)

    def redirect(self):
        self.answer(b"", 302, Location="/video.mp4")

    def encoded(self):
        self.answer(VIDEO, Content_Encoding="gzip")

    def large(self):
        self.answer(b"", length=10**9)

    def short(self):
        self.answer(VIDEO, length=len(VIDEO) + 1)
        self.close_connection = True

    def slow(self):
        self.answer(VIDEO[:1000], length=len(VIDEO))
        self.released.wait(20)

    def silent(self):
        self.released.wait(20)

    def log_message(self, *_):
        pass


@contextmanager
def serving(context=None):
    """Serve videos on a free port; yield the server."""
    handler = type("Handler", (Handler,), {"requests": [], "released": Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        handler.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def host(server):
    return f"127.0.0.1:{server.server_port}"


@pytest.fixture
def uploads(store):
    return FolderUploads(store)


@pytest.fixture
def client(open_client, announce, host):
    announce()
    return open_client(
        video_url_hosts=host, private_hosts=host, max_upload_bytes=10**6, upload_idle_seconds=0.5
    )


def post(client, url, **request):
    return client.post("/v1/jobs", json={"video_url": url, **request})


def check(response, status, code):
    assert (response.status_code, response.json()["code"]) == (status, code), response.text


def is_empty(store, uploads):
    return not uploads.names() and not store.names() and not list(store.root.glob("incoming/*"))


@pytest.mark.parametrize("name", ["video", "chunked"])
def test_the_job_has_the_video_and_the_request(client, host, store, uploads, name):
    response = post(client, f"http://{host}/{name}/a%20b.mp4?x=1#y", method="attention", layer=1)

    job = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["filename"], job["request"]["method"]) == ("a b.mp4", "attention")
    assert store.upload_path(job["id"]).read_bytes() == VIDEO
    assert uploads.record(job["upload"]).is_complete


def test_the_host_is_told_neither_who_asks_nor_with_which_key(client, server, host):
    client.post(
        "/v1/jobs",
        json={"video_url": f"http://{host}/video?x=1"},
        headers={"Cookie": "a=b", "Authorization": "Bearer secret"},
    )

    ((path, headers),) = server.RequestHandlerClass.requests
    assert path == "/video?x=1"
    assert headers["Host"] == host
    assert headers["Accept-Encoding"] == "identity"
    assert headers.keys().isdisjoint({"Cookie", "Authorization", "Referer"})


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("text", 415, "video_container_unsupported"),
        ("empty", 415, "video_container_unsupported"),
        ("missing", 502, "video_url_failed"),
        ("partial", 502, "video_url_failed"),
        ("redirect", 502, "video_url_failed"),
        ("encoded", 502, "video_url_failed"),
        ("large", 413, "upload_too_large"),
        ("short", 502, "video_url_failed"),
        ("slow", 502, "video_url_failed"),
        ("silent", 502, "video_url_failed"),
    ],
)
def test_an_answer_that_is_no_video_leaves_nothing(
    client, server, host, store, uploads, name, status, code
):
    response = post(client, f"http://{host}/{name}")

    check(response, status, code)
    assert is_empty(store, uploads)
    assert len(server.RequestHandlerClass.requests) == 1


def test_bytes_beyond_the_limit_are_not_stored(open_client, announce, host, store, uploads):
    announce()
    client = open_client(video_url_hosts=host, private_hosts=host, max_upload_bytes=100_000)

    check(post(client, f"http://{host}/chunked"), 413, "upload_too_large")
    assert is_empty(store, uploads)


def test_a_fetch_ends_after_some_time(client, host, monkeypatch):
    monkeypatch.setattr(fetch, "FETCH_SECONDS", 0.2)

    began = time.monotonic()
    check(post(client, f"http://{host}/silent"), 502, "video_url_failed")
    assert time.monotonic() - began < 5  # much less than the time that a silent host has


def test_a_host_that_does_not_answer_is_told(open_client, announce):
    announce()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
        client = open_client(video_url_hosts=host, private_hosts=host)

        check(post(client, f"http://{host}/video"), 502, "video_url_failed")


class TestRefused:
    def test_nothing_is_fetched_by_default(self, open_client, announce, server, host):
        announce()

        check(post(open_client(), f"http://{host}/video"), 422, "video_url_refused")
        assert server.RequestHandlerClass.requests == []

    @pytest.mark.parametrize(
        "url", ["http://user:pw@{host}/video", "http://other.example/", "http://127.0.0.1/video"]
    )
    def test_other_urls_are_not_fetched(self, client, server, host, url):
        check(post(client, url.format(host=host)), 422, "video_url_refused")
        assert server.RequestHandlerClass.requests == []

    def test_a_private_address_needs_to_be_allowed(self, open_client, announce, server, host):
        announce()
        client = open_client(video_url_hosts=host)

        check(post(client, f"http://{host}/video"), 422, "video_url_refused")
        assert server.RequestHandlerClass.requests == []

    @pytest.mark.parametrize("url", ["ftp://a.example/", "file:///etc/passwd", "x"])
    def test_other_schemes_are_invalid(self, client, url):
        check(post(client, url), 422, "invalid_request")


def test_the_name_is_looked_up_once(open_client, announce, server, monkeypatch):
    """The second answer to the same question may be another: DNS rebinding."""
    announce()
    port, asked, look_up = server.server_port, [], socket.getaddrinfo

    def answer(host, *rest, **options):
        if host != "media.example":
            return look_up(host, *rest, **options)
        asked.append(host)
        return look_up("127.0.0.1" if len(asked) == 1 else "127.0.0.9", *rest, **options)

    host = f"media.example:{port}"
    client = open_client(video_url_hosts=host, private_hosts=host)
    monkeypatch.setattr(socket, "getaddrinfo", answer)

    assert post(client, f"http://{host}/video").status_code == 202
    assert asked == ["media.example"]


class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path):
        path = tmp_path / "certificate.pem"
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
            f"-subj /CN=media.example -addext subjectAltName=DNS:media.example "
            f"-keyout {path} -out {tmp_path / 'public.pem'}"
        )
        subprocess.run(command.split(), check=True, capture_output=True)
        path.write_bytes(path.read_bytes() + (tmp_path / "public.pem").read_bytes())
        return path

    @pytest.fixture
    def secure(self, certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with serving(context) as server:
            yield server

    @pytest.fixture
    def fetched(self, open_client, announce, secure, monkeypatch, certificate):
        announce()
        look_up = socket.getaddrinfo
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda _, *rest, **options: look_up("127.0.0.1", *rest, **options),
        )

        def fetch_from(name, *, trusted):
            host = f"{name}:{secure.server_port}"
            client = open_client(video_url_hosts=host, private_hosts=host)
            if trusted:
                context = ssl.create_default_context(cafile=certificate)
                outbound = client.app_state["services"].fetcher._outbound
                monkeypatch.setattr(outbound, "_tls", context)
            return post(client, f"https://{host}/video")

        return fetch_from

    def test_the_certificate_is_that_of_the_host_name(self, fetched):
        assert fetched("media.example", trusted=True).status_code == 202

    def test_a_certificate_of_another_name_is_refused(self, fetched):
        check(fetched("other.example", trusted=True), 502, "video_url_failed")

    def test_an_unknown_certificate_is_refused(self, fetched):
        check(fetched("media.example", trusted=False), 502, "video_url_failed")


def test_a_full_store_takes_no_video(open_client, announce, host, store, uploads):
    announce()
    client = open_client(video_url_hosts=host, private_hosts=host, max_store_bytes=1000)

    check(post(client, f"http://{host}/video"), 507, "store_full")
    assert is_empty(store, uploads)
