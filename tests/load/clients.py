"""A client of the load test, run by Locust: upload, poll until the end, fetch the result.

429 does not count as a failure: the client waits as long as the answer says, and tries again.
"""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

POLL_SECONDS = 2.0
TIMEOUT_SECONDS = 60.0
UNDER_WAY = ("queued", "running")
BOUNDARY = "load"

jobs: Counter[str] = Counter()
"""State → number of jobs that ended in it."""


@events.init_command_line_parser.add_listener
def _add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--film", help="The video that every client uploads.")
    parser.add_argument("--report", help="File for the measurements, as JSON.")


@events.quitting.add_listener
def _report(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    assert options is not None
    calls = {
        entry.name: {
            "count": entry.num_requests,
            "failures": entry.num_failures,
            "milliseconds": {p: entry.get_response_time_percentile(p / 100) for p in (50, 95, 99)},
        }
        for entry in environment.stats.entries.values()
    }
    failures = [f"{e.occurrences} × {e.name}: {e.error}" for e in environment.stats.errors.values()]
    seconds = environment.stats.total.last_request_timestamp - environment.stats.total.start_time
    measured = {"calls": calls, "failures": failures, "jobs": jobs, "seconds": seconds}
    Path(options.report).write_text(json.dumps(measured))


class Client(FastHttpUser):
    """One client, which submits its next job when the last one has ended."""

    wait_time = constant(0)
    connection_timeout = network_timeout = TIMEOUT_SECONDS

    def on_start(self) -> None:
        """Make the form that is sent with every upload."""
        options = self.environment.parsed_options
        assert options is not None
        self._form = _form(Path(options.film).read_bytes())

    @task
    def explain(self) -> None:
        """Upload one video, wait for its job and fetch the result."""
        job = self._submit()
        while job and job["state"] in UNDER_WAY:
            gevent.sleep(random.uniform(0.5, 1.5) * POLL_SECONDS)
            job = self._get("poll", f"/v1/jobs/{job['id']}") or job
        if job:
            jobs[job["state"]] += 1
            self._get("fetch result", f"/v1/jobs/{job['id']}/artifacts/result.json")

    def _submit(self) -> dict[str, Any] | None:
        """Upload; return the new job, or None after a refusal and the wait that it asks for."""
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        with self.client.post(
            "/v1/jobs", name="submit", data=self._form, headers=headers, catch_response=True
        ) as response:
            if response.status_code == 202:
                job: dict[str, Any] = response.json()
                return job
            if response.status_code == 429:
                response.request_meta["name"] = "submit, refused with 429"
                response.success()
            else:
                response.failure(f"{response.status_code} {response.text}")
        gevent.sleep(float((response.headers or {}).get("Retry-After", POLL_SECONDS)))
        return None

    def _get(self, name: str, path: str) -> dict[str, Any] | None:
        with self.client.get(path, name=name, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code} {response.text}")
                return None
            answer: dict[str, Any] = response.json()
            return answer


def _form(film: bytes) -> bytes:
    """Return a form for a job that is computed, however often the film is sent."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="request"\r\n\r\n'
        f'{{"reuse": false}}\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; '
        'name="video"; filename="video.mp4"\r\nContent-Type: video/mp4\r\n\r\n'
    )
    return head.encode() + film + f"\r\n--{BOUNDARY}--\r\n".encode()
