"""Uploads in flight, over HTTP: what they hold never exceeds a limit."""

import asyncio
import json
import shutil
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from rollout_core.errors import StoreFull
from service import reservations as module
from service.errors import NotCounted, StorageQuotaExceeded
from service.ledger import (
    ACCEPTED_SECONDS,
    ENTRIES_KEY,
    LEASE_SECONDS,
    LEASES_KEY,
    MIN_RESULT_BYTES,
    SUMS_KEY,
    Entry,
    Ledger,
)
from service.maintenance import RECONCILE_SECONDS
from service.receiving import FLUSH_BYTES
from service.reservations import REPORT_BYTES, RESERVED_BYTES, Reservations
from service.usage import Owner
from tests.system.valkey import redis_that_is_away
from tests.system.waiting import wait_until

KIB = 1024
MIB = 1024**2
KEYED = {"Authorization": "Bearer key-of-ann"}
HEAD = (
    b"--cut\r\nContent-Disposition: form-data; name=video; filename=v\r\n\r\n"
    b"\0\0\0\x18ftypisom" + bytes(500)
)
TAIL = b"\r\n--cut--\r\n"


@pytest.fixture
def keys_file(tmp_path):
    """Keys of ann, who may store 1 MiB, and of ben."""
    path = tmp_path / "keys.toml"
    digests = [sha256(f"key-of-{name}".encode()).hexdigest() for name in ("ann", "ben")]
    ann = f'[ann]\nsha256 = "{digests[0]}"\nmax_stored_bytes = {MIB}\n'
    path.write_text(f'{ann}[ben]\nsha256 = "{digests[1]}"\n')
    return path


@pytest.fixture
def apps(open_client, announce, keys_file):
    """Two API processes, as far as Redis and the store can tell."""
    announce()
    return [open_client(api_keys_file=keys_file) for _ in range(2)]


@pytest.fixture
def sums(redis):
    def read() -> dict[str, int]:
        return {field.decode(): int(total) for field, total in redis.hgetall(SUMS_KEY).items()}

    return read


def body(size, filling=0):
    """Videos with the same filling are stored once, as soon as they are counted."""
    return HEAD + bytes([filling]) * (size - len(HEAD) - len(TAIL)) + TAIL


def send(client, content, headers=KEYED):
    kind = {"Content-Type": "multipart/form-data; boundary=cut"}
    return client.post("/v1/jobs", content=content, headers=kind | headers)


class Upload:
    """An upload of unknown length whose chunks arrive when the test says so."""

    def __init__(self, client):
        self.status = None
        self.code = None
        self._chunks = asyncio.Queue()
        self._read = asyncio.Event()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/v1/jobs",
            "raw_path": b"/v1/jobs",
            "query_string": b"",
            "headers": [
                (b"host", b"testserver"),
                (b"content-type", b"multipart/form-data; boundary=cut"),
                (b"authorization", b"Bearer key-of-ann"),
            ],
            "server": ("testserver", 80),
            "client": ("127.0.0.1", 1),
            "state": dict(client.app_state),
        }
        self.task = asyncio.create_task(client.app(scope, self._receive, self._send))

    async def feed(self, chunk, *, last=False):
        """Send a chunk, and wait until the service asks for the next one, or has answered."""
        self._read.clear()
        self._chunks.put_nowait({"type": "http.request", "body": chunk, "more_body": not last})
        read = asyncio.create_task(self._read.wait())
        await asyncio.wait({read, self.task}, return_when=asyncio.FIRST_COMPLETED)
        read.cancel()

    async def _receive(self):
        if self._chunks.empty():
            self._read.set()
        return await self._chunks.get()

    async def _send(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["body"]:
            self.code = json.loads(message["body"]).get("code")


class TestQuota:
    def test_uploads_that_arrive_together_stop_exactly_at_the_quota(self, apps, sums, settings):
        content = body(300 * KIB)

        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(lambda i: send(apps[i % 2], content), range(40)))

        codes = [answer.status_code for answer in answers]
        assert (codes.count(202), codes.count(507)) == (3, 37)
        refused = {answer.json()["code"] for answer in answers if answer.status_code == 507}
        assert refused == {"storage_quota_exceeded"}
        assert sums()["owner:ann"] <= MIB
        assert list((settings.data_dir / "incoming").iterdir()) == []

    @pytest.mark.parametrize("count", [1, 40])
    def test_bodies_without_a_length_that_end_together_keep_the_quota(self, apps, sums, count):
        def chunks():
            yield body(300 * KIB)

        with ThreadPoolExecutor(count) as pool:
            answers = list(pool.map(lambda i: send(apps[i % 2], chunks()), range(count)))

        codes = [answer.status_code for answer in answers]
        assert codes.count(202) == min(count, 3)
        assert codes.count(202) + codes.count(507) == count

    def test_open_uploads_never_hold_more_than_the_quota(self, apps, settings, sums):
        """Each has a length that is not known, and would be far too large."""
        held = []

        async def run():
            uploads = [Upload(apps[number % 2]) for number in range(25)]
            for upload in uploads:
                await upload.feed(HEAD)
            for _ in range(6):
                for upload in uploads:
                    await upload.feed(bytes(256 * KIB))
                    files = settings.data_dir.glob("incoming/*/video")
                    held.append(sum(path.stat().st_size for path in files))
                    assert sums().get("owner:ann", 0) <= MIB
            assert {upload.status for upload in uploads} == {507}

        asyncio.run(run())

        assert max(held) <= MIB
        assert sums() == {}

    def test_what_an_upload_reserved_is_given_back_however_it_ends(self, apps, sums):
        app = apps[0]

        async def disconnect():
            upload = Upload(app)
            await upload.feed(HEAD)
            assert sums()["shared"] >= MIN_RESULT_BYTES
            upload._chunks.put_nowait({"type": "http.disconnect"})
            await upload.task

        assert send(app, b"no form").status_code == 400
        assert send(app, body(2 * MIB)).status_code == 507
        assert send(app, HEAD.replace(b"ftyp", b"nope") + TAIL).status_code == 415
        asyncio.run(disconnect())

        assert sums() == {}

    def test_an_accepted_job_is_held_until_it_is_counted(self, apps, redis):
        content = body(300 * KIB)

        job_id = send(apps[0], content).json()["id"]

        own = int(redis.hget(ENTRIES_KEY, job_id).split()[0])
        assert 0 < len(content) - own < 200  # what surrounds the file in the form
        lease = redis.zscore(LEASES_KEY, job_id)
        assert lease is None or lease > redis.time()[0] + 10 * RECONCILE_SECONDS

    def test_the_app_renews_the_leases_of_its_uploads(
        self, open_client, announce, keys_file, redis, monkeypatch
    ):
        announce()
        monkeypatch.setattr("service.app.RENEW_SECONDS", 0.05)
        app = open_client(api_keys_file=keys_file)

        async def run():
            upload = Upload(app)
            await upload.feed(HEAD)
            redis.delete(ENTRIES_KEY, SUMS_KEY, LEASES_KEY)
            await asyncio.to_thread(wait_until, lambda: redis.zcard(LEASES_KEY))
            upload._chunks.put_nowait({"type": "http.disconnect"})
            await upload.task

        asyncio.run(run())

    def test_deleted_jobs_give_their_bytes_back_at_once(self, apps, sums):
        content = body(600 * KIB)
        for _ in range(3):
            job = send(apps[0], content)
            assert job.status_code == 202
            assert send(apps[1], content).status_code == 507
            apps[1].delete(job.headers["location"], headers=KEYED)

        assert sums() == {}

    def test_another_owner_is_not_affected(self, apps):
        assert send(apps[0], body(900 * KIB)).status_code == 202
        other = {"Authorization": "Bearer key-of-ben"}

        assert send(apps[0], body(900 * KIB)).status_code == 507
        assert send(apps[0], body(900 * KIB), other).status_code == 202


class TestStore:
    @pytest.fixture
    def small(self, open_client, announce, monkeypatch):
        announce()
        monkeypatch.setattr("service.app.RECONCILE_SECONDS", 0.2)
        return open_client(max_store_bytes=10 * MIB)

    def test_accepted_jobs_have_room_for_their_results(self, small, worker, sums):
        """100 KiB, and 2,000 KiB for the result."""
        jobs = [send(small, body(100 * KIB, number), {}) for number in range(6)]

        assert [job.status_code for job in jobs] == [202] * 4 + [507] * 2
        assert jobs[4].json()["code"] == "store_full"
        assert "10485760 bytes allowed" in jobs[4].json()["detail"]

    def test_a_job_that_ended_counts_what_it_takes(self, small, worker, store, sums):
        jobs = [send(small, body(100 * KIB, n), {}).json()["id"] for n in range(4)]
        worker.succeed(jobs[0])

        wait_until(lambda: sums()["shared"] < 7 * MIB)

        assert send(small, body(100 * KIB), {}).status_code == 202

    def test_a_nearly_full_disk_refuses_uploads(self, open_client, announce, monkeypatch):
        """Room for two results, but not for the second upload."""
        announce()
        client = open_client()
        free = RESERVED_BYTES + 2 * MIN_RESULT_BYTES + 2000 - 1
        monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(free))

        answers = [send(client, body(2000), {}) for _ in range(2)]

        assert [answer.status_code for answer in answers] == [202, 507]
        assert answers[1].json()["detail"] == "the disk is nearly full"


class TestCount:
    def test_an_upload_waits_for_the_first_count(self, open_client, announce, monkeypatch):
        announce()
        counted = []
        update = Ledger.update

        def late(self, *entries):
            if counted.append(1) or len(counted) > 1:
                update(self, *entries)

        monkeypatch.setattr(Ledger, "update", late)
        monkeypatch.setattr("service.app.RECONCILE_SECONDS", 0.2)

        assert send(open_client(), body(2000), {}).status_code == 202

    def test_without_a_count_uploads_are_refused_for_now(
        self, open_client, announce, monkeypatch, leftovers
    ):
        announce()
        monkeypatch.setattr(Ledger, "update", lambda *_: None)
        monkeypatch.setattr(module, "COUNT_SECONDS", 0.1)

        answer = send(open_client(), body(2000), {})

        assert (answer.status_code, answer.json()["code"]) == (503, "store_not_counted")
        assert int(answer.headers["retry-after"]) > 0
        assert leftovers() == []

    def test_without_a_count_the_service_is_not_ready(self, open_client, monkeypatch):
        monkeypatch.setattr(Ledger, "update", lambda *_: None)
        monkeypatch.setattr("service.jobs.READY_SECONDS", 0.1)

        answer = open_client().get("/readyz")

        assert (answer.status_code, answer.json()["code"]) == (503, "store_not_counted")

    def test_after_a_restart_all_that_is_stored_counts(self, apps, open_client, keys_file, redis):
        assert send(apps[0], body(900 * KIB)).status_code == 202
        redis.flushall()

        assert send(open_client(api_keys_file=keys_file), body(900 * KIB)).status_code == 507


class TestReservation:
    """Against the ledger itself."""

    @pytest.fixture
    def ledger(self, redis):
        ledger = Ledger(redis)
        ledger.update({})
        return ledger

    @pytest.fixture
    def reservations(self, ledger, tmp_path):
        return Reservations(ledger, tmp_path)

    @pytest.fixture
    def entry(self, redis):
        """Return the numbers of the only entry."""

        def read() -> list[int]:
            (text,) = redis.hvals(ENTRIES_KEY)
            return [int(number) for number in text.split()[:3]]

        return read

    def test_a_body_of_known_length_reports_what_is_on_the_disk(self, reservations, entry):
        async def run():
            async with reservations.reserving(100 * MIB, None) as reservation:
                pending = []
                for received in range(0, 100 * MIB, FLUSH_BYTES):
                    await reservation.arrive(received)
                    own, _, rest = entry()
                    assert own == 100 * MIB
                    pending.append(rest)
                    assert rest >= 200 * MIB - received
                assert pending[-1] < 100 * MIB + REPORT_BYTES + 3 * FLUSH_BYTES
                assert len(set(pending)) < 15

        asyncio.run(run())

    def test_a_body_of_unknown_length_is_reserved_as_it_arrives(self, reservations, entry):
        async def run():
            async with reservations.reserving(0, None) as reservation:
                for received in (10, 2 * MIB, 3 * MIB):
                    await reservation.arrive(received)
                    assert entry()[0] == received

        asyncio.run(run())

    def test_a_kept_reservation_is_left_to_the_job(self, reservations, entry):
        async def run():
            async with reservations.reserving(1000, None) as reservation:
                await reservation.settle(900)
                reservation.keep()

        asyncio.run(run())

        assert entry() == list(Entry.of_upload(None, 900, 900)[:3])

    def test_a_promised_reservation_is_held_until_a_count_sees_the_upload(
        self, reservations, entry, redis
    ):
        async def run():
            async with reservations.reserving(1000, None, Entry.of_video) as reservation:
                await reservation.promise()
                reservation.keep()

        asyncio.run(run())

        assert entry() == [1000, 1000, 1000]
        ((_, until),) = redis.zrange(LEASES_KEY, 0, -1, withscores=True)
        assert until - redis.time()[0] > ACCEPTED_SECONDS - 5

    def test_what_a_process_reserves_expires_when_it_dies(self, reservations, redis):
        async def run():
            async with reservations.reserving(1000, None):
                ((_, until),) = redis.zrange(LEASES_KEY, 0, -1, withscores=True)
                assert 0 < until - redis.time()[0] <= LEASE_SECONDS

        asyncio.run(run())

    def test_uploads_in_flight_are_renewed_and_survive_a_lost_redis(
        self, reservations, redis, entry
    ):
        async def run():
            async with reservations.reserving(1000, None):
                redis.flushall()
                reservations.renew()
                assert entry()[0] == 1000
            assert redis.keys("rollout:bytes*") == []
            reservations.renew()
            assert redis.keys("rollout:bytes*") == []

        asyncio.run(run())

    def test_a_redis_that_fails_later_stops_only_bytes_that_are_not_reserved(
        self, reservations, ledger, monkeypatch
    ):
        def fail(*_, **__):
            raise RedisConnectionError

        async def run():
            async with reservations.reserving(50 * MIB, None) as reservation:
                await reservation.arrive(MIB)
                with monkeypatch.context() as patch:
                    for name in ("_reserve", "_write"):
                        patch.setattr(ledger, name, fail)
                    await reservation.arrive(20 * MIB)
                    await reservation.arrive(40 * MIB)
                    with pytest.raises(RedisConnectionError):
                        await reservation.arrive(60 * MIB)

        asyncio.run(run())

    def test_a_lost_reservation_must_find_room_again(self, reservations, ledger, redis):
        owner = Owner(name="ann", max_stored_bytes=1000)

        async def run():
            async with reservations.reserving(900, owner) as reservation:
                ledger.remove(reservation.id)
                other = Entry.of_upload("ann", 500, 0)
                reservations.reserve("other", other, owner, LEASE_SECONDS)
                with pytest.raises(StorageQuotaExceeded, match="500 of the 1000 bytes"):
                    await reservation.settle(900)

        asyncio.run(run())

    def test_limits_name_what_is_full(self, ledger, tmp_path):
        reservations = Reservations(ledger, tmp_path, max_bytes=3 * MIB)

        async def run():
            async with reservations.reserving(1000, None):
                with pytest.raises(StoreFull, match=f"of the {3 * MIB} bytes"):
                    async with reservations.reserving(3 * MIB, None):
                        pass

        asyncio.run(run())

    def test_beside_a_bucket_the_disk_limits_what_arrives(self, ledger, tmp_path, monkeypatch):
        """Neither results nor what has arrived already needs room there."""
        free = module.RESERVED_BYTES + 10 * MIB
        monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(free))
        reservations = Reservations(ledger, tmp_path, is_whole_store=False)

        async def run():
            async with reservations.reserving(6 * MIB, None) as first:
                with pytest.raises(StoreFull, match="the disk is nearly full"):
                    async with reservations.reserving(5 * MIB, None):
                        pass
                await first.arrive(2 * MIB)
                async with reservations.reserving(5 * MIB, None):
                    with pytest.raises(StoreFull):
                        await first.grow(8 * MIB)
                    await first.settle(6 * MIB)
            entry_of = module.room_for_result
            async with reservations.reserving(900 * MIB, None, entry_of):
                pass

        asyncio.run(run())

    def test_a_ledger_that_is_not_complete_refuses_after_a_wait(self, redis, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "COUNT_SECONDS", 0.1)

        async def run():
            with pytest.raises(NotCounted):
                async with Reservations(Ledger(redis), tmp_path).reserving(1000, None):
                    pass

        asyncio.run(run())

    def test_a_redis_that_is_away_is_named_at_once(self, tmp_path):
        redis = redis_that_is_away()
        away = Ledger(redis)

        async def run():
            with pytest.raises(RedisConnectionError):
                async with Reservations(away, tmp_path).reserving(1000, None):
                    pass

        asyncio.run(run())
