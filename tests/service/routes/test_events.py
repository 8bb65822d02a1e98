"""A job's events, read by a strict parser, and waiting for its end."""

import json
import signal
import threading
import time

import httpx
import pytest

from rollout_core.jobs.records import JobError, Progress
from service import job_watcher
from tests.service.event_stream import EventStream
from tests.service.test_main import running
from tests.system.waiting import wait_until

ERROR = JobError(code="video_undecodable", title="The video cannot be decoded", detail="x")


@pytest.fixture(autouse=True)
def read_often(monkeypatch):
    monkeypatch.setattr(job_watcher, "READ_SECONDS", 0.02)


@pytest.fixture
def server(settings, redis, announce):
    """A service as a process of its own; returns its URL and the process."""
    announce()
    flags = ("--redis-url", settings.redis_url, "--data-dir", str(settings.data_dir))
    with running(*flags, "--drain-seconds", "20", cwd=settings.data_dir.parent) as process:
        url = process.stdout.readline().split()[-1]
        yield url, process


def create(url, mp4, **params):
    response = httpx.post(f"{url}/v1/jobs", files={"video": ("v.mp4", mp4)}, params=params)
    assert response.status_code == 202, response.text
    return response.json()["id"]


def read(response):
    return list(EventStream().events(response.text.splitlines()))


class Follower:
    """Reads a job's events in a thread, as a browser does."""

    def __init__(self, url, job_id, last_event_id=None):
        self.events = []
        self.stream = EventStream()
        self.headers = None
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        self._request = ("GET", f"{url}/v1/jobs/{job_id}/events"), headers
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        (method, url), headers = self._request
        with httpx.stream(method, url, headers=headers, timeout=30) as response:
            self.headers = response.headers
            for event in self.stream.events(response.iter_lines()):
                self.events.append(event)

    def types(self):
        return [event.type for event in self.events]

    def join(self):
        self._thread.join(20)
        assert not self._thread.is_alive()


def test_a_job_is_followed_from_the_queue_to_its_end(server, mp4, worker):
    url, _ = server
    job_id = create(url, mp4)
    follower = Follower(url, job_id)
    wait_until(lambda: follower.types() == ["state"])
    worker.claim(job_id)
    wait_until(lambda: follower.types() == ["state", "state"])
    worker.beat(job_id, Progress(stage="explain", done=1, total=4))
    wait_until(lambda: follower.types() == ["state", "state", "progress"])

    worker.fail(job_id, ERROR)
    follower.join()

    assert follower.types() == ["state", "state", "progress", "end"]
    queued, began, progress, ended = (json.loads(event.data) for event in follower.events)
    assert (queued["state"], queued["queue_position"]) == ("queued", 1)
    assert began["state"] == "running"
    assert progress == {"stage": "explain", "done": 1, "total": 4}
    assert ended == httpx.get(f"{url}/v1/jobs/{job_id}").json()
    assert ended["error"]["code"] == "video_undecodable"
    assert len({event.last_event_id for event in follower.events}) == 4
    assert follower.headers["content-type"].startswith("text/event-stream")
    assert follower.headers["x-accel-buffering"] == "no"
    assert follower.headers["cache-control"] == "no-cache"
    assert follower.stream.retry_milliseconds == 1000


def test_a_client_that_comes_back_gets_nothing_twice(client, new_job, worker):
    job_id = new_job()
    worker.claim(job_id)
    worker.beat(job_id, Progress(stage="explain", done=1, total=4))
    path = f"/v1/jobs/{job_id}/events"
    timer = threading.Timer(0.5, worker.fail, (job_id, ERROR))
    timer.start()
    first = read(client.get(path))
    timer.join()
    assert [event.type for event in first] == ["state", "progress", "end"]

    for position, seen in enumerate(first[:2], start=1):
        again = read(client.get(path, headers={"Last-Event-ID": seen.last_event_id}))
        assert [event.type for event in again] == ["end"], position


def test_after_the_last_event_204_stops_a_browser_from_connecting_again(client, new_job, worker):
    job_id = new_job()
    worker.succeed(job_id)
    path = f"/v1/jobs/{job_id}/events"
    (end,) = read(client.get(path))
    assert (end.type, json.loads(end.data)["state"]) == ("end", "succeeded")

    again = client.get(path, headers={"Last-Event-ID": end.last_event_id})

    assert (again.status_code, again.content) == (204, b"")


def test_an_unknown_last_event_id_gets_everything(client, new_job, worker):
    job_id = new_job()
    worker.succeed(job_id)
    response = client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "nonsense"})
    assert [event.type for event in read(response)] == ["end"]


def test_a_deleted_job_ends_the_stream(server, mp4):
    url, _ = server
    job_id = create(url, mp4)
    follower = Follower(url, job_id)
    wait_until(lambda: follower.types() == ["state"])
    httpx.delete(f"{url}/v1/jobs/{job_id}")
    follower.join()
    assert follower.types() == ["state", "deleted"]
    assert json.loads(follower.events[-1].data) == {"id": job_id}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_errors_come_before_the_stream(client, method):
    response = client.request(method, f"/v1/jobs/{'0' * 32}/events")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_no_key_is_401_before_the_stream(open_client, announce, tmp_path):
    announce()
    (tmp_path / "keys.toml").write_text(f'[ann]\nsha256 = "{"0" * 64}"\n')
    client = open_client(api_keys_file=tmp_path / "keys.toml")
    assert client.get(f"/v1/jobs/{'0' * 32}/events").status_code == 401


def test_open_streams_and_waits_do_not_delay_shutdown(server, mp4):
    url, process = server
    job_id = create(url, mp4)
    followers = [Follower(url, job_id) for _ in range(5)]
    wait_until(lambda: all(one.types() == ["state"] for one in followers))
    waits = []
    waiting = threading.Thread(
        target=lambda: waits.append(httpx.get(f"{url}/v1/jobs/{job_id}?wait=60", timeout=30))
    )
    waiting.start()
    time.sleep(0.3)

    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(10)

    assert time.monotonic() - began < 3
    waiting.join(10)
    assert (waits[0].status_code, waits[0].json()["state"]) == (200, "queued")
    for follower in followers:
        follower.join()
        assert follower.types() == ["state"]


def test_many_followers_cost_redis_few_commands(server, mp4, redis):
    url, _ = server
    job_id = create(url, mp4)
    followers = [Follower(url, job_id) for _ in range(40)]
    try:
        wait_until(lambda: all(one.types() == ["state"] for one in followers))
        time.sleep(0.6)
        before = redis.info("commandstats").get("cmdstat_mget", {}).get("calls", 0)
        time.sleep(2)
        after = redis.info("commandstats")["cmdstat_mget"]["calls"]
    finally:
        httpx.delete(f"{url}/v1/jobs/{job_id}")
        for follower in followers:
            follower.join()
    assert 1 <= after - before <= 6  # two a second, and the `Reconciler`


class TestWait:
    """`Prefer: wait` and `?wait`."""

    @pytest.fixture
    def ends_soon(self, new_job, worker):
        """Return a job that ends after half a second."""
        job_id = new_job()
        worker.claim(job_id)
        timer = threading.Timer(0.5, worker.fail, (job_id, ERROR))
        timer.start()
        yield job_id
        timer.join()

    @pytest.mark.parametrize(
        ("headers", "params", "applied"),
        [
            ({"Prefer": "wait=10"}, {}, "wait=10"),
            ({"Prefer": 'respond-async, wait = "10"; x=1'}, {}, "wait=10"),
            ({"Prefer": "wait=999"}, {}, "wait=60"),
            ({}, {"wait": 10}, None),
        ],
    )
    def test_the_answer_comes_at_the_end(self, client, ends_soon, headers, params, applied):
        began = time.monotonic()
        response = client.get(f"/v1/jobs/{ends_soon}", headers=headers, params=params)
        assert response.json()["state"] == "failed"
        assert 0.3 < time.monotonic() - began < 5
        assert response.headers.get("preference-applied") == applied

    @pytest.mark.parametrize("prefer", ["wait", "wait=", "wait=x", "wait=-1", "return=minimal", ""])
    def test_a_preference_that_is_not_understood_is_ignored(self, client, new_job, prefer):
        response = client.get(f"/v1/jobs/{new_job()}", headers={"Prefer": prefer})
        assert response.json()["state"] == "queued"
        assert "preference-applied" not in response.headers

    @pytest.mark.parametrize("wait", ["-1", "61", "x", ""])
    def test_another_number_is_refused(self, client, new_job, wait):
        response = client.get(f"/v1/jobs/{new_job()}", params={"wait": wait})
        assert response.status_code == 422

    def test_a_job_that_does_not_end_in_time_is_told_as_it_is(self, client, new_job):
        began = time.monotonic()
        response = client.get(f"/v1/jobs/{new_job()}", headers={"Prefer": "wait=1"})
        assert 0.9 < time.monotonic() - began < 5
        assert (response.status_code, response.json()["state"]) == (200, "queued")

    def test_a_job_that_is_deleted_meanwhile_is_not_found(self, client, new_job):
        job_id = new_job()
        timer = threading.Timer(0.3, client.delete, (f"/v1/jobs/{job_id}",))
        timer.start()
        response = client.get(f"/v1/jobs/{job_id}", params={"wait": 20})
        timer.join()
        assert (response.status_code, response.json()["code"]) == (404, "job_not_found")

    def test_a_created_job_that_ends_in_time_is_200(self, server, mp4, worker, redis):
        url, _ = server

        def fail_the_job():
            wait_until(lambda: redis.lrange("rq:queue:rollout-fake", 0, -1))
            (job_id,) = redis.lrange("rq:queue:rollout-fake", 0, -1)
            worker.claim(job_id.decode())
            worker.fail(job_id.decode(), ERROR)

        thread = threading.Thread(target=fail_the_job)
        thread.start()
        response = httpx.post(
            f"{url}/v1/jobs",
            files={"video": ("v.mp4", mp4)},
            headers={"Prefer": "wait=20"},
            timeout=30,
        )
        thread.join()
        assert (response.status_code, response.json()["state"]) == (200, "failed")
        assert response.headers["preference-applied"] == "wait=20"
        assert response.headers["location"] == f"/v1/jobs/{response.json()['id']}"
        assert "retry-after" not in response.headers

    def test_a_created_job_that_does_not_end_is_202(self, server, mp4):
        url, _ = server
        began = time.monotonic()
        create(url, mp4, wait=1)
        assert 0.9 < time.monotonic() - began < 5
