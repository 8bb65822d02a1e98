"""A small server that speaks the contract of the API, and fails as a test tells it to.

It runs nothing: a job goes through its states as it is asked about. What clients must do about
broken connections is easier to provoke here than in the real service.
"""

import json
import re
import socket
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

NOW = "2026-11-25T17:10:39.896577Z"
FILES = {
    "result.json": b'{"not": "read here"}',
    "sheet.png": b"\x89PNG" + bytes(range(256)) * 4000,
}


@dataclass
class Seen:
    """One request that arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Fault:
    """What happens to the next requests for a path.

    Attributes:
        status: answered, with `headers` and `code`; None breaks the connection.
        after_bytes: of the request's body that are read (and kept) before the connection breaks.
        when_done: whether the request is carried out before the connection breaks.
    """

    method: str
    path: str
    times: int = 1
    status: int | None = None
    code: str = "service_busy"
    headers: dict[str, str] = field(default_factory=dict)
    after_bytes: int | None = None
    when_done: bool = False


class ContractServer(ThreadingHTTPServer):
    """The server and its state.

    Attributes:
        events: what the stream of a job sends, one list for each connection; None: there are no
            streams.
        prefers: whether `Prefer: wait` is honoured.
        has_uploads: whether /v1/uploads exists.
        cut_downloads: after how many bytes each of the next downloads breaks.
        links: the URL, without a slash at its end, to which downloads are redirected, if they are.
    """

    daemon_threads = True
    block_on_close = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self.uploads: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {}
        self.steps: list[dict[str, Any]] = [{"state": "running"}, {"state": "succeeded"}]
        self.events: list[list[str]] | None = None
        self.prefers = False
        self.has_uploads = True
        self.cut_downloads: list[int] = []
        self.links: str | None = None
        self.files = dict(FILES)

    @property
    def url(self) -> str:
        """Its address, below a path, as behind a proxy."""
        return f"http://127.0.0.1:{self.server_address[1]}/rollout"

    def count(self, method: str, path: str) -> int:
        """Return how many requests for a path have arrived."""
        return len(self.find(method, path))

    def find(self, method: str, path: str) -> list[Seen]:
        """Return the requests whose path matches."""
        return [s for s in self.seen if s.method == method and re.fullmatch(path, s.path)]

    def job(self, number: int = 0, **fields: Any) -> dict[str, Any]:
        """Return the JSON of a job, with more fields than the client knows."""
        return {
            "id": f"{number:032x}",
            "state": "queued",
            "model": "fake",
            "tag": None,
            "upload": None,
            "filename": None,
            "reused_from": None,
            "created_at": NOW,
            "expires_at": NOW,
            "started_at": None,
            "ended_at": None,
            "attempt": 0,
            "queue_position": None,
            "waiting_for": None,
            "progress": None,
            "request": {"model": "fake", "an_option_of_later": 3},
            "result": None,
            "error": None,
            "a_field_of_later": {"deep": [1, 2]},
        } | fields

    def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return the job as succeeded, with its files."""
        files = [
            {
                "name": name,
                "bytes": len(data),
                "sha256": sha256(data).hexdigest(),
                "url": f"/elsewhere/{name}",
            }
            for name, data in self.files.items()
        ]
        result = {
            "predictions": [{"label": "left", "index": 0, "probability": 0.75}],
            "clips": 1,
            "frames": 8,
            "artifacts": files,
            "timings_seconds": {"total": 0.5},
            "source": None,
            "warnings": [],
        }
        return job | {"state": "succeeded", "ended_at": NOW, "attempt": 1, "result": result}

    def step(self, job_id: str) -> dict[str, Any]:
        """Return the job after its next step; it stays at the last one."""
        job = self.jobs[job_id]
        taken = job.pop("_step", 0)
        state = self.steps[min(taken, len(self.steps) - 1)]
        self.jobs[job_id] = job | {"_step": taken + 1}
        now = job | state
        return self.ended(now) if state["state"] == "succeeded" else now

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients of these tests leave early; that is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ContractServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._take()

    do_POST = do_PATCH = do_HEAD = do_DELETE = do_GET  # noqa: N815

    def _take(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        path = url.path.removeprefix("/rollout")
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, path, query, headers)
        self.server.seen.append(seen)
        fault = self._fault(path)
        if fault is not None and fault.status is None and not fault.when_done:
            if fault.after_bytes is not None:
                part = self.rfile.read(fault.after_bytes)
                self._append(path.rpartition("/")[2], part)
            return self._break()
        seen.body = self.rfile.read(int(headers.get("content-length", 0)))
        if fault is not None and fault.status is not None:
            return self._problem(fault.status, fault.code, headers=fault.headers)
        if fault is not None:
            self._answer = lambda *_, **__: self._break()  # type: ignore[method-assign]
        self._route(seen)
        return None

    def _fault(self, path: str) -> Fault | None:
        for fault in self.server.faults:
            if fault.times and fault.method == self.command and re.fullmatch(fault.path, path):
                fault.times -= 1
                return fault
        return None

    def _route(self, seen: Seen) -> None:
        routes: list[tuple[str, str, Callable[..., None]]] = [
            ("POST", "/v1/jobs", self._create_job),
            ("GET", "/v1/jobs", self._list_jobs),
            ("GET", r"/v1/jobs/(\w+)", self._get_job),
            ("DELETE", r"/v1/jobs/(\w+)", self._delete_job),
            ("POST", r"/v1/jobs/(\w+)/cancel", self._cancel),
            ("GET", r"/v1/jobs/(\w+)/events", self._events),
            ("GET", r"/v1/jobs/(\w+)/artifacts/(.+)", self._artifact),
            ("GET", r"/bucket/(.+)", self._object),
        ]
        if self.server.has_uploads:
            routes += [
                ("POST", "/v1/uploads", self._create_upload),
                ("HEAD", r"/v1/uploads/(\w+)", self._head_upload),
                ("PATCH", r"/v1/uploads/(\w+)", self._patch_upload),
                ("GET", r"/v1/uploads/(\w+)", self._get_upload),
            ]
        for method, pattern, handler in routes:
            match = re.fullmatch(pattern, seen.path)
            if match and method == seen.method:
                return handler(seen, *match.groups())
        return self._problem(404, "not_found")

    # Jobs.

    def _create_job(self, seen: Seen) -> None:
        key = seen.headers.get("idempotency-key", "")
        if key in self.server.keys:
            return self._answer(200, self._shown(self.server.keys[key]))
        if seen.headers["content-type"].startswith("multipart/form-data"):
            self.server.uploads["f" * 32] = {"data": bytearray(seen.body), "length": None}
            fields = {"upload": "f" * 32}
        else:
            fields = {"upload": json.loads(seen.body).get("upload")}
        job = self.server.job(len(self.server.jobs) + 1, **fields)
        self.server.jobs[job["id"]] = job
        if key:
            self.server.keys[key] = job["id"]
        return self._answer(202, job)

    def _list_jobs(self, seen: Seen) -> None:
        jobs = list(self.server.jobs)[::-1]
        begin = int(seen.query.get("cursor", 0))
        cursor = str(begin + 2) if begin + 2 < len(jobs) else None
        page = [self._shown(job) for job in jobs[begin : begin + 2]]
        self._answer(200, {"jobs": page, "next_cursor": cursor, "total": len(jobs)})

    def _get_job(self, seen: Seen, job_id: str) -> None:
        if job_id not in self.server.jobs:
            return self._problem(404, "job_not_found")
        prefers = self.server.prefers and "prefer" in seen.headers
        applied = {"Preference-Applied": "wait"} if prefers else {}
        if prefers:
            self.server.jobs[job_id]["_step"] = len(self.server.steps)
        self.server.step(job_id)
        return self._answer(200, self._shown(job_id), headers=applied)

    def _shown(self, job_id: str) -> dict[str, Any]:
        job = self.server.jobs[job_id]
        taken = job.get("_step", 0)
        shown = {name: value for name, value in job.items() if name != "_step"}
        if not taken:
            return shown
        state = self.server.steps[min(taken, len(self.server.steps)) - 1]
        return self.server.ended(shown) if state["state"] == "succeeded" else shown | state

    def _delete_job(self, _: Seen, job_id: str) -> None:
        self.server.jobs.pop(job_id, None)
        self._answer(204, None)

    def _cancel(self, _: Seen, job_id: str) -> None:
        self._answer(202, self.server.jobs[job_id] | {"state": "canceled", "ended_at": NOW})

    def _events(self, _: Seen, job_id: str) -> None:
        if self.server.events is None:
            return self._problem(404, "not_found")
        if job_id not in self.server.jobs:
            return self._problem(404, "job_not_found")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        for text in self.server.events.pop(0) if self.server.events else []:
            self.wfile.write(text.encode())
            self.wfile.flush()
        self.close_connection = True
        return None

    def _artifact(self, seen: Seen, _: str, name: str) -> None:
        if self.server.links:
            self.send_response(302)
            self.send_header("Location", f"{self.server.links}/{name}?X-Amz-Signature=a%2Fb")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        data = self.server.files[name]
        tag = f'"{sha256(data).hexdigest()}"'
        begin = 0
        if seen.headers.get("if-range") == tag:
            begin = int(seen.headers["range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        if self.server.cut_downloads:
            self.wfile.write(data[begin : begin + self.server.cut_downloads.pop(0)])
            return self._break()
        self.wfile.write(data[begin:])
        return None

    def _object(self, seen: Seen, name: str) -> None:
        """Answer as a bucket does: it knows no SHA-256, and refuses a key beside its signature."""
        if "authorization" in seen.headers or seen.query != {"X-Amz-Signature": "a/b"}:
            return self._problem(400, "invalid_request")
        data, begin = self.server.files[name], 0
        if "range" in seen.headers and "if-range" not in seen.headers:
            begin = int(seen.headers["range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        if self.server.cut_downloads:
            self.wfile.write(data[begin : begin + self.server.cut_downloads.pop(0)])
            return self._break()
        self.wfile.write(data[begin:])
        return None

    # Uploads.

    def _create_upload(self, seen: Seen) -> None:
        upload_id = f"{len(self.server.uploads) + 1:032x}"
        if seen.headers.get("tus-resumable") != "1.0.0":
            record = {"data": bytearray(seen.body), "length": len(seen.body)}
            self.server.uploads[upload_id] = record | {"filename": seen.query.get("filename")}
            return self._answer(201, self._upload(upload_id))
        _, _, name = seen.headers["upload-metadata"].partition(" ")
        self.server.uploads[upload_id] = {
            "data": bytearray(),
            "length": int(seen.headers["upload-length"]),
            "filename": b64decode(name).decode(),
        }
        location = f"http://internal.example/v1/uploads/{upload_id}"
        return self._answer(201, None, headers={"Location": location})

    def _head_upload(self, _: Seen, upload_id: str) -> None:
        if upload_id not in self.server.uploads:
            return self._problem(404, "upload_not_found")
        offset = len(self.server.uploads[upload_id]["data"])
        return self._answer(200, None, headers={"Upload-Offset": str(offset)})

    def _patch_upload(self, seen: Seen, upload_id: str) -> None:
        data = self.server.uploads[upload_id]["data"]
        if int(seen.headers["upload-offset"]) != len(data):
            return self._problem(409, "upload_offset_differs")
        data += seen.body
        return self._answer(204, None, headers={"Upload-Offset": str(len(data))})

    def _get_upload(self, _: Seen, upload_id: str) -> None:
        self._answer(200, self._upload(upload_id))

    def _append(self, upload_id: str, part: bytes) -> None:
        if upload_id in self.server.uploads:
            self.server.uploads[upload_id]["data"] += part

    def _upload(self, upload_id: str) -> dict[str, Any]:
        upload = self.server.uploads[upload_id]
        return {
            "id": upload_id,
            "state": "complete",
            "filename": upload["filename"],
            "bytes": upload["length"],
            "received_bytes": len(upload["data"]),
            "sha256": sha256(upload["data"]).hexdigest(),
            "created_at": NOW,
            "expires_at": NOW,
            "a_field_of_later": 1,
        }

    # Answers.

    def _answer(self, status: int, content: Any, *, headers: dict[str, str] | None = None) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _problem(self, status: int, code: str, *, headers: dict[str, str] | None = None) -> None:
        problem = {"type": "about:blank", "title": "It failed", "detail": "as the test wants"}
        problem |= {"status": status, "code": code}
        _Handler._answer(self, status, None if self.command == "HEAD" else problem, headers=headers)

    def _break(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def contract_server() -> Iterator[ContractServer]:
    """Run a server while the context lasts."""
    with ContractServer() as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def sse(event: str, data: Any, event_id: str = "") -> str:
    """Return one Server-Sent Event."""
    prefix = f"id: {event_id}\n" if event_id else ""
    return f"{prefix}event: {event}\ndata: {json.dumps(data)}\n\n"
