"""Delivery of webhooks by the real app, to a real server."""

import json
import logging
import time
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from redis.exceptions import RedisError
from standardwebhooks import WebhookVerificationError

from rollout_core import logs, tracing
from rollout_core.jobs.records import JobError, Origin
from rollout_core.jobs.redis_records import WORKERS_KEY
from rollout_core.jobs.schemas import DeliveryAttempt
from service import deliveries as deliveries_module
from service.deliveries import RETRY_SECONDS, Deliverer, _Item, _seconds, after
from service.delivery_store import DeliveryStore, StoredDelivery
from service.webhook_secrets import make_secret
from tests.system.waiting import wait_until
from tests.system.webhook_receiver import running_receiver

PROMPT_SECONDS = 5.0
"""For a busy machine; an attempt that hangs lasts three times as long."""

SECRETS = [make_secret(), make_secret()]


@pytest.fixture
def receiver():
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture
def hooked(open_client, tmp_path, announce):
    """Open an app that delivers webhooks to this machine."""
    announce()
    (tmp_path / "secrets").write_text("\n".join(SECRETS))

    def open_one(**changes):
        return open_client(
            **{
                "private_hosts": "127.0.0.1, .test",
                "webhook_secret_file": tmp_path / "secrets",
                **changes,
            }
        )

    return open_one


@pytest.fixture
def fast_retries(monkeypatch):
    monkeypatch.setattr(deliveries_module, "RETRY_SECONDS", (0.1, 0.1))


def post(client, mp4, url, **webhook):
    request = json.dumps({"model": "fake", "webhook": {"url": url, **webhook}})
    files = {"video": ("clip.mp4", mp4), "request": (None, request, "application/json")}
    return client.post("/v1/jobs", files=files)


def submit(client, mp4, url, **webhook):
    response = post(client, mp4, url, **webhook)
    assert response.status_code == 202, response.text
    return response.json()["id"]


def deliveries(client, job_id):
    response = client.get(f"/v1/jobs/{job_id}/deliveries")
    assert response.status_code == 200, response.text
    return response.json()["deliveries"]


def counted(client):
    """Return how many attempts had each outcome, and check that nothing is pending."""
    registry = client.app_state["services"].metrics.registry
    assert wait_until(lambda: registry.get_sample_value("rollout_webhooks_pending") == 0)
    (family,) = (each for each in registry.collect() if each.name == "rollout_webhook_attempts")
    return {sample.labels["outcome"]: sample.value for sample in family.samples if sample.value}


def wait_for_state(client, job_id, state):
    return wait_until(
        lambda: [item for item in deliveries(client, job_id) if item["state"] == state],
        what=f"the delivery to be {state}",
    )[0]


def test_success_is_delivered_at_once_and_verifies(hooked, mp4, receiver, worker):
    client = hooked()
    job_id = submit(client, mp4, receiver.url)
    worker.succeed(job_id)
    ended = time.monotonic()

    wait_until(lambda: receiver.delivered)

    assert time.monotonic() - ended < PROMPT_SECONDS
    delivered = receiver.delivered[0]
    for secret in SECRETS:
        event = delivered.verify(secret)
        assert event["type"] == "job.succeeded"
        assert event["data"] == client.get(f"/v1/jobs/{job_id}").json()
        assert event["timestamp"] == event["data"]["ended_at"]
    with pytest.raises(WebhookVerificationError):
        delivered.verify(make_secret())
    found = wait_for_state(client, job_id, "delivered")
    assert found["webhook_id"] == delivered.id
    assert found["event"] == "job.succeeded"
    assert found["url"] == receiver.url
    assert found["next_attempt_at"] is None
    assert [attempt["status"] for attempt in found["attempts"]] == [204]
    time.sleep(1.2)
    assert len(receiver.delivered) == 1


def test_failure_and_cancellation_are_delivered(hooked, mp4, receiver, worker):
    client = hooked()
    failed, canceled = (submit(client, mp4, receiver.url) for _ in range(2))
    worker.claim(failed)
    worker.fail(failed, JobError(code="x", title="X", detail="x"))
    client.post(f"/v1/jobs/{canceled}/cancel")

    wait_until(lambda: len(receiver.delivered) == 2)

    types = {
        json.loads(item.body)["data"]["id"]: json.loads(item.body)["type"]
        for item in receiver.delivered
    }
    assert types == {failed: "job.failed", canceled: "job.canceled"}


def test_events_that_the_client_does_not_want_are_not_sent(hooked, mp4, receiver, worker, store):
    client = hooked()
    unwanted = submit(client, mp4, receiver.url, events=["job.failed"])
    wanted = submit(client, mp4, receiver.url, events=["job.succeeded"])
    worker.succeed(unwanted)
    worker.succeed(wanted)

    wait_for_state(client, wanted, "delivered")
    wait_until(lambda: not list((store.root / "webhooks" / "pending").iterdir()))

    assert [json.loads(item.body)["data"]["id"] for item in receiver.delivered] == [wanted]
    assert deliveries(client, unwanted) == []


def test_failed_attempt_is_repeated_with_the_same_id(hooked, mp4, receiver, worker, fast_retries):
    receiver.statuses = [500, 302, 200]
    client = hooked()
    job_id = submit(client, mp4, receiver.url)
    worker.succeed(job_id)

    found = wait_for_state(client, job_id, "delivered")

    assert [attempt["status"] for attempt in found["attempts"]] == [500, 302, 200]
    assert counted(client) == {"to_retry": 2, "delivered": 1}
    assert {item.id for item in receiver.delivered} == {found["webhook_id"]}


def test_delivery_belongs_to_the_request_and_the_trace_of_its_job(
    hooked, mp4, receiver, worker, store, caplog
):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    client = hooked()
    job_id = submit(client, mp4, receiver.url)
    origin = Origin(request_id="abc.1", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
    (store.root / "jobs" / job_id / "origin.json").write_text(origin.to_json())
    tracing.use(provider)
    about = []
    handler = logging.Handler()
    handler.emit = lambda _: about.append(logs.present())
    logging.getLogger("service.deliveries").addHandler(handler)
    try:
        with caplog.at_level(logging.INFO):
            worker.succeed(job_id)
            wait_for_state(client, job_id, "delivered")
            wait_until(exporter.get_finished_spans)
    finally:
        tracing.shut_down()
        logging.getLogger("service.deliveries").removeHandler(handler)

    assert "The webhook was delivered at attempt 1" in caplog.messages
    assert [(item.job_id, item.request_id) for item in about] == [(job_id, "abc.1")]
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.parent.span_id) == ("webhook", int("b" * 16, 16))
    assert span.attributes == {"rollout.job_id": job_id, "rollout.state": "delivered"}


def test_delivery_is_given_up_after_the_last_retry(
    hooked, mp4, receiver, worker, fast_retries, caplog
):
    receiver.statuses = [500]
    client = hooked()
    job_id = submit(client, mp4, f"{receiver.url}?token=tell-nobody")
    with caplog.at_level(logging.INFO):
        worker.succeed(job_id)
        found = wait_for_state(client, job_id, "failed")

    assert len(found["attempts"]) == len(receiver.delivered) == 3
    assert counted(client) == {"to_retry": 2, "given_up": 1}
    assert f"The webhook of job {job_id} is given up: status 500" in caplog.text
    assert "tell-nobody" not in caplog.text
    assert not any(secret in caplog.text for secret in SECRETS)


def test_gone_ends_the_delivery(hooked, mp4, receiver, worker):
    receiver.statuses = [410]
    client = hooked()
    job_id = submit(client, mp4, receiver.url)
    worker.succeed(job_id)

    assert len(wait_for_state(client, job_id, "failed")["attempts"]) == 1


def test_dead_and_hanging_endpoints_delay_no_other_delivery_nor_the_end(
    hooked, mp4, receiver, worker, monkeypatch
):
    client = hooked()
    with running_receiver() as hanging:
        hanging.open.clear()
        hung = [submit(client, mp4, hanging.url) for _ in range(10)]
        monkeypatch.setattr(deliveries_module, "AT_ONCE_PER_HOST", 12)  # all are this machine
        for job_id in hung:
            worker.succeed(job_id)
        wait_until(lambda: len(hanging.delivered) == 10)
        job_id = submit(client, mp4, receiver.url)
        worker.succeed(job_id)
        ended = time.monotonic()
        wait_until(lambda: receiver.delivered)
        assert time.monotonic() - ended < PROMPT_SECONDS
        assert client.get("/livez").status_code == 200
        began = time.monotonic()
        client.__exit__(None, None, None)
        assert time.monotonic() - began < PROMPT_SECONDS


def test_one_host_gets_few_requests_at_a_time(hooked, mp4, receiver, worker):
    client = hooked()
    receiver.open.clear()
    for _ in range(6):
        worker.succeed(submit(client, mp4, receiver.url))
    wait_until(lambda: len(receiver.delivered) == 4)
    time.sleep(1.2)
    assert len(receiver.delivered) == 4
    receiver.open.set()
    wait_until(lambda: len(receiver.delivered) == 6)


def test_deleted_job_is_not_delivered(hooked, mp4, receiver, worker, leftovers, store):
    client = hooked()
    job_id = submit(client, mp4, receiver.url)
    assert deliveries(client, job_id) == []
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert not list((store.root / "webhooks").rglob("*.json"))
    time.sleep(1.2)
    assert receiver.delivered == []
    assert client.get(f"/v1/jobs/{job_id}/deliveries").status_code == 404


def test_a_slow_attempt_does_not_bring_a_deleted_job_back(hooked, mp4, receiver, worker, store):
    client = hooked()
    receiver.open.clear()
    job_id = submit(client, mp4, receiver.url)
    worker.succeed(job_id)
    wait_until(lambda: receiver.delivered)
    client.delete(f"/v1/jobs/{job_id}")
    receiver.open.set()
    time.sleep(1)
    assert not list((store.root / "webhooks").rglob("*.json"))


def test_expired_files_do_not_stop_the_delivery(hooked, mp4, receiver, worker, store):
    receiver.statuses = [204]
    client = hooked()
    job_id = submit(client, mp4, receiver.url)
    worker.succeed(job_id)
    store.expire(job_id)

    wait_for_state(client, job_id, "delivered")


def test_end_that_redis_has_lost_is_delivered(hooked, mp4, receiver, worker, redis):
    client = hooked()
    job_id = submit(client, mp4, receiver.url)
    redis.flushall()
    client.post(f"/v1/jobs/{job_id}/cancel")

    wait_until(lambda: receiver.delivered)


def test_two_processes_deliver_once(hooked, mp4, receiver, worker):
    first, second = hooked(), hooked()
    ids = [submit(client, mp4, receiver.url) for client in (first, second) for _ in range(5)]
    for job_id in ids:
        worker.succeed(job_id)
    for job_id in ids:
        wait_for_state(first, job_id, "delivered")
    time.sleep(1.5)
    assert sorted(json.loads(item.body)["data"]["id"] for item in receiver.delivered) == sorted(ids)


def test_a_slower_call_with_the_same_key_changes_no_webhook(hooked, mp4, receiver, worker, store):
    client = hooked()
    job_id = submit(client, mp4, receiver.url)
    DeliveryStore(store).expect(job_id)
    worker.succeed(job_id)
    wait_for_state(client, job_id, "delivered")

    DeliveryStore(store).expect(job_id)

    wait_until(lambda: not list((store.root / "webhooks" / "pending").iterdir()))
    time.sleep(1.2)
    assert len(receiver.delivered) == 1


def test_a_job_whose_call_named_no_webhook_gets_none(hooked, mp4, receiver, worker, store):
    client = hooked()
    files = {"video": ("clip.mp4", mp4), "request": (None, '{"model": "fake"}', "application/json")}
    job_id = client.post("/v1/jobs", files=files).json()["id"]
    DeliveryStore(store).expect(job_id)  # as a slower call with the same key and a webhook does
    worker.succeed(job_id)

    wait_until(lambda: not list((store.root / "webhooks" / "pending").iterdir()))

    assert deliveries(client, job_id) == receiver.delivered == []


def test_changed_secret_signs_the_next_attempt(hooked, mp4, receiver, worker, tmp_path):
    client, new = hooked(), make_secret()
    (tmp_path / "secrets").write_text(new)
    job_id = submit(client, mp4, receiver.url)
    worker.succeed(job_id)
    wait_until(lambda: receiver.delivered)
    assert receiver.delivered[0].verify(new)["data"]["id"] == job_id


def test_name_that_leads_to_a_private_address_is_not_called(hooked, mp4, receiver, worker, caplog):
    client = hooked(private_hosts=None)
    job_id = submit(client, mp4, f"https://localhost:{receiver.port}/hook")
    worker.succeed(job_id)

    found = wait_until(lambda: [d for d in deliveries(client, job_id) if d["attempts"]])[0]

    assert found["state"] == "pending"
    assert "not on the public internet" in found["attempts"][0]["error"]
    assert found["attempts"][0]["status"] is None
    assert receiver.delivered == []


def test_damaged_file_delays_no_other_delivery(hooked, mp4, receiver, worker, store, caplog):
    client = hooked()
    DeliveryStore(store).expect("a" * 32)
    (store.root / "webhooks" / "pending" / f"{'a' * 32}.json").write_text("{")
    job_id = submit(client, mp4, receiver.url)
    worker.succeed(job_id)
    wait_for_state(client, job_id, "delivered")
    assert caplog.text.count("has a webhook that cannot be read") == 1


@pytest.mark.parametrize(
    ("webhook", "words"),
    [
        ({"url": "http://example.org/"}, "must begin with https://"),
        ({"url": "https://10.0.0.1/"}, "not on the public internet"),
        ({"url": "https://2130706433/"}, "not on the public internet"),
        ({"url": "https://[::ffff:10.0.0.1]/"}, "not on the public internet"),
        ({"url": "https://user:pass@example.org/"}, "user name"),
    ],
)
def test_urls_that_are_not_allowed_are_refused_at_submit(hooked, mp4, leftovers, webhook, words):
    client = hooked(private_hosts=None)
    response = post(client, mp4, **webhook)
    assert response.status_code == 422
    assert response.json()["code"] == "webhook_refused"
    assert words in response.json()["detail"]
    assert leftovers() == []


def test_hosts_can_be_restricted(hooked, mp4):
    client = hooked(webhook_hosts="hooks.example.org")
    response = post(client, mp4, "https://example.org/")
    assert response.status_code == 422
    assert "does not allow example.org" in response.json()["detail"]
    submit(client, mp4, "https://hooks.example.org/")


def test_without_a_secret_a_webhook_is_refused_with_what_to_set(hooked, mp4):
    client = hooked(webhook_secret_file=None)
    response = post(client, mp4, "https://example.org/")
    assert (response.status_code, response.json()["code"]) == (422, "webhook_refused")
    assert "ROLLOUT_WEBHOOK_SECRET_FILE" in response.json()["detail"]


def test_job_that_no_worker_took_is_reported(hooked, mp4, receiver, redis, jobs):
    client = hooked()
    job_id = submit(client, mp4, receiver.url)
    redis.delete(WORKERS_KEY)
    jobs.expire(job_id, datetime.now(UTC) + timedelta(days=1), 0)

    wait_until(lambda: receiver.delivered)

    event = receiver.delivered[0].verify(SECRETS[0])
    assert (event["type"], event["data"]["error"]["code"]) == ("job.failed", "no_worker")


def test_each_owners_events_are_signed_with_their_own_secrets(
    hooked, mp4, receiver, worker, tmp_path
):
    old, new = SECRETS
    path = tmp_path / "keys.toml"
    digests = [sha256(key.encode()).hexdigest() for key in ("a", "b")]
    path.write_text(
        f"[ann]\nsha256 = '{digests[0]}'\nwebhook_secrets = ['{new}', '{old}']\n"
        f"[ben]\nsha256 = '{digests[1]}'\n"
    )
    client = hooked(api_keys_file=path)
    client.headers["Authorization"] = "Bearer a"
    job_id = submit(client, mp4, receiver.url)
    worker.succeed(job_id)
    wait_until(lambda: receiver.delivered)
    assert len(receiver.delivered[0].headers["webhook-signature"].split(" ")) == 2
    for secret in (old, new):
        assert receiver.delivered[0].verify(secret)["data"]["id"] == job_id

    client.headers["Authorization"] = "Bearer b"
    response = post(client, mp4, receiver.url)
    assert response.status_code == 422
    assert "webhook_secrets in the table of your key" in response.json()["detail"]


def test_redis_that_is_away_only_delays(hooked, mp4, receiver, worker, monkeypatch, caplog):
    client = hooked()
    job_id = submit(client, mp4, receiver.url)
    worker.succeed(job_id)
    with monkeypatch.context() as patch:
        patch.setattr(Deliverer, "_take_lease", _raise_redis_error)
        time.sleep(2.5)
        assert receiver.delivered == []
    wait_for_state(client, job_id, "delivered")
    assert caplog.text.count("has a webhook that waits") == 1


def _raise_redis_error(*_):
    raise RedisError("away")


class TestRoom:
    """How many attempts are under way at a time, in all and of a kind."""

    @pytest.fixture
    def deliverer(self, redis, store, jobs):
        return Deliverer(redis, store, jobs, webhooks=None)

    def send(self, deliverer, count, **item):
        for _ in range(count):
            job_id = f"{len(deliverer._sending)}"
            deliverer._items[job_id] = self.item(job_id=job_id, **{"host": job_id, **item})
            deliverer._sending[job_id] = None

    def item(self, *, job_id="new", host="new", owner=None, is_retry=False):
        return _Item(job_id=job_id, host=host, owner=owner, is_retry=is_retry, due_at=0)

    def test_all(self, deliverer):
        self.send(deliverer, 63)
        assert deliverer._has_room(self.item())
        self.send(deliverer, 1)
        assert not deliverer._has_room(self.item())

    def test_retries_leave_room_for_first_attempts(self, deliverer):
        self.send(deliverer, 31, is_retry=True)
        assert deliverer._has_room(self.item(is_retry=True))
        self.send(deliverer, 1, is_retry=True)
        assert not deliverer._has_room(self.item(is_retry=True))
        assert deliverer._has_room(self.item())

    def test_one_host(self, deliverer):
        self.send(deliverer, 4, host="slow")
        assert not deliverer._has_room(self.item(host="slow"))
        assert deliverer._has_room(self.item(host="other"))

    def test_one_owner(self, deliverer):
        self.send(deliverer, 16, owner="ann")
        self.send(deliverer, 17, owner=None)
        assert not deliverer._has_room(self.item(owner="ann"))
        assert deliverer._has_room(self.item(owner="ben"))
        assert deliverer._has_room(self.item(owner=None))


class TestAfter:
    NOW = datetime(2026, 1, 1, tzinfo=UTC)

    def attempt(self, status=None):
        return DeliveryAttempt(at=self.NOW, status=status, error=None, duration_seconds=1.0)

    def delivery(self, attempts=0):
        return StoredDelivery(job="a" * 32, attempts=(self.attempt(500),) * attempts)

    def wait(self, delivery, status=None, **options):
        noted = after(delivery, self.attempt(status), **options)
        assert noted.state == "pending"
        return (noted.next_attempt_at - self.NOW).total_seconds() - 1

    @pytest.mark.parametrize(("number", "seconds"), list(enumerate(RETRY_SECONDS)))
    def test_waits_grow_and_have_jitter(self, number, seconds):
        waits = {self.wait(self.delivery(number), 500) for _ in range(20)}
        assert all(seconds <= wait <= 1.2 * seconds for wait in waits)
        assert len(waits) > 1

    def test_retries_last_for_a_day(self):
        assert 20 * 3600 < sum(RETRY_SECONDS) < 24 * 3600

    @pytest.mark.parametrize("status", [200, 202, 204, 299])
    def test_any_2xx_is_success(self, status):
        assert after(self.delivery(), self.attempt(status)).state == "delivered"

    @pytest.mark.parametrize("status", [None, 301, 400, 404, 429, 503])
    def test_anything_else_is_tried_again(self, status):
        assert after(self.delivery(), self.attempt(status)).state == "pending"

    def test_retry_after_is_respected_within_reason(self):
        assert 60 <= self.wait(self.delivery(), 429, retry_after_seconds=60) <= 72
        assert self.wait(self.delivery(), 503, retry_after_seconds=1e9) <= 1.2 * 6 * 3600
        assert self.wait(self.delivery(), 503, retry_after_seconds=-5) >= 5

    def test_retry_after_is_seconds_or_a_date(self):
        date = (datetime.now(UTC) + timedelta(seconds=100)).strftime("%a, %d %b %Y %H:%M:%S GMT")
        assert _seconds("120") == 120
        assert 95 < _seconds(date) < 101
        assert (
            _seconds("Mon, 01 Jan 2024 00:00:00 -0000")
            == _seconds("soon")
            == _seconds("")
            == _seconds("-1")
            == 0
        )
