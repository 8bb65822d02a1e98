import asyncio
import json
import logging
import socket
import uuid
from contextlib import ExitStack

import pytest
from starlette.testclient import TestClient

from rollout_core import logs
from rollout_core.errors import StoreUnavailable
from rollout_core.jobs.redis_records import JobRecords
from rollout_core.logs import JsonFormatter, TextFormatter
from service import job_watcher
from service.access_log import AccessLog, is_quiet
from service.app import create_app
from service.jobs import Jobs
from service.problems import ProblemResponse
from service.proxies import TrustedProxies
from service.server import _ShutdownResponder
from tests.service.owners import headers, write_keys
from tests.service.test_server import connect, start  # noqa: F401
from tests.system.waiting import wait_until

ID = {"X-Request-ID": "abc.1"}


class Lines(logging.Handler):
    """Keeps each record as the object that is written."""

    def __init__(self):
        super().__init__()
        self.found = []

    def emit(self, record):
        self.found.append(json.loads(JsonFormatter().format(record)))
        text = TextFormatter().format(record)
        assert "key-of" not in text
        assert "key-of" not in json.dumps(self.found[-1])

    def answers(self):
        """Return the records of answers, without their time."""
        return [line for line in self.found if line["logger"] == "service.access_log"]


@pytest.fixture
def lines():
    handler, root = Lines(), logging.getLogger()
    root.addHandler(handler)
    logging.getLogger("service").setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    logging.getLogger("service").setLevel(logging.NOTSET)


@pytest.fixture
def logged(settings, lines, announce):
    """Open a client of a new app behind an access log."""
    announce()
    with ExitStack() as stack:

        def open_one(**changes):
            app = create_app(settings.model_copy(update=changes))
            wrapped = AccessLog(app, TrustedProxies(changes.get("trusted_proxies")))
            client = TestClient(wrapped, "http://localhost", raise_server_exceptions=False)
            stack.enter_context(client)
            lines.found.clear()
            return client

        yield open_one


def last(lines):
    """Return the latest answer's record, without what every line has and what differs."""
    varying = ("time", "seconds", "logger", "message")
    return {name: value for name, value in lines.answers()[-1].items() if name not in varying}


def test_a_line_names_route_path_status_and_client(logged, lines):
    job_id = uuid.uuid4().hex
    response = logged().get(f"/v1/jobs/{job_id}?wait=0", headers=ID)
    assert last(lines) == {
        "level": "INFO",
        "request_id": "abc.1",
        "method": "GET",
        "route": "/v1/jobs/{job_id}",
        "path": f"/v1/jobs/{job_id}",
        "status": 404,
        "bytes": len(response.content),
        "client": "unix",
    }
    assert lines.answers()[-1]["seconds"] >= 0


def test_there_is_one_line_for_each_request(logged, lines):
    client = logged()
    for _ in range(3):
        client.get("/v1/models")
    assert len(lines.answers()) == 3


@pytest.mark.parametrize(
    "given", ["a", "A-z0.9_:/=+@", "x" * 128, "Root=1-67891233-abcdef012345678912345678"]
)
def test_a_well_formed_id_is_given_back(logged, given):
    assert logged().get("/livez", headers={"X-Request-ID": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", " ", "a b", "x" * 129, 'a"', "a\tb", "é".encode(), "a,b;c"])
def test_another_id_is_replaced(logged, given):
    response = logged().get("/livez", headers={"X-Request-ID": given})
    assert uuid.UUID(response.headers["x-request-id"]).version == 4


def test_of_two_ids_none_counts_and_two_requests_have_two(logged):
    client = logged()
    twice = [("X-Request-ID", "a"), ("X-Request-ID", "b")]
    found = [client.get("/livez", headers=twice).headers["x-request-id"] for _ in range(2)]
    assert len({*found, "a", "b"}) == 4


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("PUT", "/livez", 405),
        ("GET", "/v1/jobs", 401),
        ("GET", "/livez", 200),
        ("GET", "/", 200),
        ("GET", "/page/app.js", 404),
        ("HEAD", "/livez", 200),
        ("OPTIONS", "/v1/uploads", 401),
    ],
)
def test_every_answer_has_the_id(logged, lines, keys_file, method, path, status):
    response = logged(api_keys_file=keys_file).request(method, path, headers=ID)
    assert response.status_code == status
    assert response.headers.get_list("x-request-id") == ["abc.1"]
    assert last(lines)["status"] == status


def test_a_preflight_has_the_id_and_pages_may_send_and_read_it(logged):
    client = logged(cors_origins="https://a.example")
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
    response = client.options(
        "/v1/jobs", headers=ID | asked | {"Access-Control-Request-Headers": "x-request-id"}
    )
    assert (response.status_code, response.headers["x-request-id"]) == (200, "abc.1")
    got = client.get("/v1/models", headers={"Origin": "https://a.example"})
    assert "X-Request-ID" in got.headers["access-control-expose-headers"]


def test_a_bug_has_the_id_in_answer_and_traceback(logged, lines, monkeypatch):
    monkeypatch.setattr(Jobs, "models", lambda self: 1 / 0)
    response = logged().get("/v1/models", headers=ID)
    assert (response.status_code, response.headers["x-request-id"]) == (500, "abc.1")
    assert response.json()["request_id"] == "abc.1"
    assert last(lines)["status"] == 500


def test_only_an_error_of_the_service_repeats_the_id_in_its_body(logged):
    assert "request_id" not in logged().get("/nowhere").json()


def test_a_stream_of_events_has_the_id_and_one_line_with_its_bytes(logged, lines, mp4):
    client = logged()
    job = client.post("/v1/jobs", files={"video": ("v.mp4", mp4)}).json()
    client.post(f"/v1/jobs/{job['id']}/cancel")
    lines.found.clear()
    response = client.get(f"/v1/jobs/{job['id']}/events", headers=ID)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-request-id"] == "abc.1"
    assert last(lines)["route"] == "/v1/jobs/{job_id}/events"
    assert last(lines)["bytes"] == len(response.content) > 0


def test_what_serves_all_callers_is_about_none_of_them(logged, lines, mp4, monkeypatch):
    """The first call that follows a job starts the task that reads for all."""
    client = logged()
    job = client.post("/v1/jobs", files={"video": ("v.mp4", mp4)}).json()

    def fail(*_):
        raise StoreUnavailable("it is ill")

    monkeypatch.setattr(job_watcher, "READ_SECONDS", 0.1)
    monkeypatch.setattr(Jobs, "refresh", fail)
    lines.found.clear()
    client.get(f"/v1/jobs/{job['id']}?wait=1", headers=ID)
    warned = [line for line in lines.found if line["logger"] == "service.job_watcher"]
    assert len(warned) == 1
    assert "request_id" not in warned[0]


class TestKeys:
    def test_the_owner_is_named(self, logged, lines, keys_file):
        client = logged(api_keys_file=keys_file)
        client.get("/v1/models", headers=headers("ben"))
        assert last(lines)["owner"] == "ben"
        assert "key" not in last(lines)

    @pytest.mark.parametrize(
        "sent",
        [
            {"Authorization": "Bearer key-of-nobody"},
            {"Authorization": "Basic key-of-ann"},
            {"Cookie": "rollout_session=key-of-ann"},
        ],
    )
    def test_a_refused_key_is_said_and_never_shown(self, logged, lines, keys_file, sent):
        response = logged(api_keys_file=keys_file).get("/v1/models?key=key-of-ann", headers=sent)
        assert response.status_code == 401
        assert last(lines)["key"] == "refused"
        assert last(lines)["route"] == "/v1/models"
        assert "owner" not in last(lines)

    def test_a_missing_key_is_said(self, logged, lines, keys_file):
        logged(api_keys_file=keys_file).get("/v1/models")
        assert (last(lines)["status"], last(lines)["key"]) == (401, "missing")

    def test_lines_within_the_request_name_the_owner(self, logged, lines, keys_file, mp4):
        client = logged(api_keys_file=keys_file)
        files = {"video": ("v.mp4", mp4)}
        job = client.post("/v1/jobs", files=files, headers=headers("ben") | ID).json()
        (line,) = [line for line in lines.found if line["logger"] == "service.submissions"]
        assert line["message"] == "accepted for fake"
        known = ("job_id", "owner", "request_id", "model")
        assert [line[name] for name in known] == [job["id"], "ben", "abc.1", "fake"]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/", "/page/nothing.js", "/docs"])
def test_what_would_drown_the_others_is_a_detail(logged, lines, path):
    logged().get(path)
    assert last(lines)["level"] == "DEBUG"


def test_below_a_root_path_the_same_is_a_detail(logged, lines):
    client = logged(root_path="/explain")
    for path, level in (("/explain/livez", "DEBUG"), ("/explain/v1/models", "INFO")):
        client.get(path)
        assert last(lines)["level"] == level
        assert last(lines)["route"] == path.removeprefix("/explain")


def test_only_whole_paths_say_little():
    assert not is_quiet("/v1/livez")
    assert not is_quiet("/livez/x")


def test_path_is_escaped_and_bounded(logged, lines):
    logged().get("/" + "%0a2026-11-27T12:00:00.000Z%1b[2J" + "x" * 1000)
    path = last(lines)["path"]
    assert len(path) < 250
    assert path.endswith(" more)")


def test_client_is_whom_a_trusted_proxy_names(logged, lines):
    scope = {"X-Forwarded-For": "203.0.113.7"}
    logged(trusted_proxies="unix").get("/nowhere", headers=scope)
    assert last(lines)["client"] == "203.0.113.7"
    logged().get("/nowhere", headers=scope)
    assert last(lines)["client"] != "203.0.113.7"


def run_alone(app, lines):
    """Send a request to an app that is no FastAPI; return what it sent."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": "GET", "path": "/x", "headers": [], "scheme": "http"}
    asyncio.run(AccessLog(app, TrustedProxies(None))(scope, receive, send))
    return sent


def test_an_answer_of_a_service_that_stops_has_an_id(lines):
    async def cancelled(scope, receive, send):
        raise asyncio.CancelledError

    head, *_ = run_alone(_ShutdownResponder(cancelled), lines)
    assert head["status"] == 503
    assert b"x-request-id" in dict(head["headers"])
    assert last(lines)["status"] == 503


def test_a_request_without_an_answer_has_a_line_without_a_status(lines):
    async def silent(scope, receive, send):
        pass

    run_alone(silent, lines)
    assert "status" not in last(lines)
    assert lines.answers()[-1]["message"] == "GET - -"


def test_ids_of_a_request_end_with_it(lines):
    run_alone(ProblemResponse(404, "not_found", "x", "y"), lines)
    assert logs.present().request_id is None


@pytest.mark.parametrize("style", ["text", "json"])
def test_what_is_no_http_has_an_id_and_a_line(start, style):  # noqa: F811
    with start("--log-format", style) as process:
        with connect(process) as client:
            client.sendall(b"\x16\x03\x01\r\n\r\n")
            answer = client.makefile("rb").read().lower()
        process.terminate()
        _, errors = process.communicate(timeout=15)
    (given,) = [line for line in answer.split(b"\r\n") if line.startswith(b"x-request-id: ")]
    request_id = given.partition(b": ")[2].decode()
    (line,) = [line for line in errors.splitlines() if request_id in line]
    assert "400" in line
    assert "127.0.0.1" in line


def log_at_end(process):
    """Stop a service that logs in JSON; return its records."""
    process.terminate()
    _, errors = process.communicate(timeout=15)
    return [json.loads(line) for line in errors.splitlines()]


def test_a_request_has_nothing_of_the_one_before_it_on_its_connection(start, tmp_path):  # noqa: F811
    """A body that uvicorn must pause for is read on within the task of its request."""
    write_keys(tmp_path / "keys.toml")
    flags = ("--log-format", "json", "--api-keys-file", str(tmp_path / "keys.toml"))
    with start(*flags) as process:
        with connect(process) as client:
            key = b"Authorization: Bearer key-of-ann\r\n"
            head = b"POST /v1/nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
            client.sendall(head + key + b"\r\n" + bytes(1_000_000))
            assert b" 404 " in client.recv(100_000).partition(b"\r\n")[0]
            client.sendall(
                b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            client.makefile("rb").read()
        found = log_at_end(process)
    first, second = (line for line in found if line["logger"] == "service.access_log")
    assert (first["status"], first["owner"]) == (404, "ann")
    assert (second["status"], second["key"]) == (401, "missing")
    assert "owner" not in second
    assert second["request_id"] != first["request_id"]


def test_a_long_method_is_shortened(logged, lines):
    logged().request("M" * 500, "/nowhere")
    assert len(last(lines)["method"]) < 50


def test_too_many_connections_are_answered_with_an_id(start):  # noqa: F811
    with start("--max-connections", "1") as process, connect(process) as first:
        first.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        address = first.getpeername()

        def refused():
            with socket.create_connection(address, timeout=10) as other:
                other.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answer = other.makefile("rb").read().lower()
                return answer if b" 503 " in answer.partition(b"\r\n")[0] else None

        head, _, body = wait_until(refused).partition(b"\r\n\r\n")
        request_id = json.loads(body)["request_id"]
        assert b"\r\nx-request-id: " + request_id.encode() in head


def test_the_whole_log_of_a_service_is_json(start, monkeypatch):  # noqa: F811
    monkeypatch.setenv("ROLLOUT_NOTHING", "1")
    with start("--log-format", "json") as process:
        with connect(process) as client:
            client.sendall(
                b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            client.makefile("rb").read()
        found = log_at_end(process)
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, found))
    routes = [line["route"] for line in found if "route" in line]
    assert routes == ["/v1/models"]
    assert any("ROLLOUT_NOTHING" in line["message"] for line in found)
    assert any("no API keys" in line["message"] for line in found)


def test_the_request_of_a_job_is_stored_with_it(logged, store, mp4, redis):
    response = logged().post("/v1/jobs", files={"video": ("v.mp4", mp4)}, headers=ID)
    job_id = response.json()["id"]
    assert store.origin(job_id).request_id == "abc.1"
    assert store.origin(job_id).traceparent is None
    assert JobRecords(redis).get_many_raw([job_id])[job_id] is not None
