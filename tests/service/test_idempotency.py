import asyncio
from datetime import timedelta

import pytest

from rollout_core.contract import JobOptions
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.redis_records import redis_now
from service.errors import IdempotencyInProgress, IdempotencyKeyReused, QueueFull
from service.idempotency import Idempotency, body_digest
from service.jobs import Jobs
from service.routes.artifacts import artifact_url
from service.submissions import Rules, Submissions
from service.upload_store import Received

BODY = body_digest(JobOptions(), "a" * 64)


@pytest.fixture
def keys(redis, store):
    return Idempotency(redis, store)


@pytest.fixture
def create(client, announce, mp4):
    """Create a job over HTTP; return the answer."""
    announce()

    def one(key, *, video=mp4, request="{}"):
        files = {"video": ("clip.mp4", video), "request": (None, request, "application/json")}
        return client.post("/v1/jobs", files=files, headers={"Idempotency-Key": key})

    return one


def test_the_same_request_gives_the_same_job(create, client, worker):
    first = create("k")
    second = create("k", request='{"method": "rollout"}')

    assert (first.status_code, second.status_code) == (202, 200)
    assert second.json() == first.json()
    assert second.headers["location"] == first.headers["location"]
    worker.succeed(first.json()["id"])
    assert create("k").json()["state"] == "succeeded"
    assert len(client.get("/v1/jobs").json()["jobs"]) == 1


@pytest.mark.parametrize("change", [{"request": '{"tag": "b"}'}, {"video": "longer"}])
def test_another_body_is_refused(create, client, mp4, change):
    create("k")
    if "video" in change:
        change = {"video": mp4 + b"more"}

    response = create("k", **change)

    assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")
    assert len(client.get("/v1/jobs").json()["jobs"]) == 1


@pytest.mark.parametrize("key", ["", "a" * 256, "two words", "é".encode()])
def test_a_key_that_is_not_visible_text_is_refused(create, key):
    response = create(key)

    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


def test_two_keys_are_refused(client, announce, mp4):
    announce()
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]

    response = client.post("/v1/jobs", files={"video": mp4}, headers=headers)

    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    fault = {"field": "header.idempotency-key", "message": "given more than once"}
    assert response.json()["errors"] == [fault]


def test_a_key_counts_for_json_too(client, announce, mp4):
    announce()
    upload = client.post("/v1/uploads", content=mp4).json()["id"]

    def create(**request):
        body = {"upload": upload, **request}
        return client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"})

    first, second = create(), create()

    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["id"] == second.json()["id"]
    assert create(tag="other").status_code == 422


def test_a_repeated_call_needs_no_place(create, monkeypatch):
    def full(*_):
        raise QueueFull("full", retry_after_seconds=1)

    first = create("k")
    monkeypatch.setattr(Submissions, "require_place", full)

    assert create("k").json()["id"] == first.json()["id"]
    assert create("other").status_code == 429


def test_the_loss_of_redis_does_not_lose_a_key(create, redis, announce, reconciler):
    first = create("k").json()["id"]
    redis.flushall()
    announce()
    reconciler.reconcile()

    assert create("k").json()["id"] == first


def test_a_key_of_a_deleted_job_makes_a_new_one(create, client):
    client.delete(create("k").headers["location"])

    assert create("k").status_code == 202


def test_a_refused_call_does_not_use_up_its_key(create):
    assert create("k", request='{"start_layer": 99}').status_code == 422
    assert create("k").status_code == 202


async def _claim(keys, key="k", owner=None):
    async with keys.claiming(key, owner) as claim:
        return claim


def test_a_call_under_way_is_told_to_wait(keys, redis, store):
    async def both():
        async with keys.claiming("k", None):
            other = await _claim(keys, owner="ann")
            with pytest.raises(IdempotencyInProgress):
                await _claim(Idempotency(redis, store))
        return other, await _claim(keys)

    other, after = asyncio.run(both())

    assert other.job_id != after.job_id


def test_a_call_under_way_is_a_409_over_http(create, redis, store):
    async def during():
        async with Idempotency(redis, store).claiming("k", None):
            return await asyncio.to_thread(create, "k")

    response = asyncio.run(during())

    assert (response.status_code, response.json()["code"]) == (409, "idempotency_in_progress")
    assert int(response.headers["retry-after"]) >= 1


def test_the_key_of_a_killed_process_is_free_after_its_lease(keys, redis, store, monkeypatch):
    monkeypatch.setattr("service.idempotency.LEASE_SECONDS", 0.2)

    async def killed():
        assert keys._lease("k", None).acquire(blocking=False)
        await asyncio.sleep(0.4)
        return await _claim(keys)

    assert not asyncio.run(killed()).exists


def test_a_long_call_keeps_its_key(keys, monkeypatch):
    monkeypatch.setattr("service.idempotency.LEASE_SECONDS", 1.0)
    monkeypatch.setattr("service.idempotency.RENEW_SECONDS", 0.1)

    async def long():
        async with keys.claiming("k", None):
            await asyncio.sleep(1.5)
            with pytest.raises(IdempotencyInProgress):
                await _claim(keys)

    asyncio.run(long())


@pytest.mark.parametrize(("hours", "same"), [(0, True), (23.9, True), (24.1, False), (47, False)])
def test_a_key_counts_for_24_hours(keys, redis, store, accept, monkeypatch, hours, same):
    now = redis_now(redis)
    ticket = accept(1)
    made = keys.find("k", None).job_id
    (store.root / "jobs" / ticket.id).rename(store.root / "jobs" / made)
    later = now + timedelta(hours=hours)
    monkeypatch.setattr("service.idempotency.redis_now", lambda _: later)

    found = keys.find("k", None)

    assert (found.exists, found.job_id == made) == (same, same)


def test_of_two_calls_that_do_not_see_each_other_one_makes_the_job(redis, store, announce, mp4):
    announce()
    jobs = Jobs(redis, store, artifact_url=artifact_url)

    async def submit(body):
        job_id = jobs.idempotency.find("k", None).job_id if body == BODY else first.id
        async with jobs.reserving(0, job_id=job_id) as reservation:
            return jobs.submit(JobOptions(), upload, reservation=reservation, body_sha256=body)

    with store.receiving() as path:
        path.write_bytes(mp4)
        with jobs.submissions.adding_upload(path, Received.of(path)) as upload:
            jobs._ledger.update({})
            first = asyncio.run(submit(BODY))
            with pytest.raises(IdempotencyKeyReused):
                asyncio.run(submit("0" * 64))

    assert jobs.get(first.id).state == "queued"
    assert jobs.uploads.jobs(upload.id) == [first.id]
    assert redis.zcard("rollout:jobs") == 1


def test_a_call_that_fails_leaves_what_a_faster_one_has_begun(redis, store, announce, mp4):
    announce()
    jobs = Jobs(redis, store, artifact_url=artifact_url, rules=Rules(max_queued=0))
    job_id = jobs.idempotency.find("k", None).job_id
    jobs.deliveries.expect(job_id)

    async def submit():
        async with jobs.reserving(0, job_id=job_id) as reservation:
            return jobs.submit(JobOptions(), upload, reservation=reservation, body_sha256=BODY)

    with store.receiving() as path:
        path.write_bytes(mp4)
        with jobs.submissions.adding_upload(path, Received.of(path)) as upload:
            jobs._ledger.update({})
            with pytest.raises(QueueFull):
                asyncio.run(submit())

    assert jobs.deliveries.pending(job_id)


def test_the_id_cannot_be_worked_out_from_the_key(redis, tmp_path):
    stores = [FolderStore(tmp_path / name) for name in "ab"]
    ids = {Idempotency(redis, store).find("k", None).job_id for store in stores}

    assert len(ids) == 2
