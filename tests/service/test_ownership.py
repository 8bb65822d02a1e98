"""Ownership over HTTP: other owners get 404 for a job."""

from hashlib import sha256

import pytest

from rollout_core.jobs.records import JobError
from tests.service.owners import headers


@pytest.fixture
def submit(keyed, mp4):
    def one(name, video=mp4):
        return keyed.post("/v1/jobs", files={"video": ("v.mp4", video)}, headers=headers(name))

    return one


def listed(client, name, **query):
    jobs = client.get("/v1/jobs", headers=headers(name), params=query).json()["jobs"]
    return [job["id"] for job in jobs]


class TestOwnership:
    def test_the_owner_sees_it(self, keyed, submit, store):
        job = submit("ann").json()

        assert keyed.get(f"/v1/jobs/{job['id']}", headers=headers("ann")).json() == job
        assert store.ticket(job["id"]).owner == "ann"

    @pytest.mark.parametrize(
        ("method", "tail"),
        [
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/cancel"),
            ("GET", "/artifacts/sheet.png"),
            ("GET", "/deliveries"),
        ],
    )
    @pytest.mark.parametrize("state", ["queued", "running", "failed", "succeeded"])
    def test_other_owners_get_404(self, keyed, submit, worker, leftovers, method, tail, state):
        job_id = submit("ann").json()["id"]
        if state in ("running", "failed"):
            worker.claim(job_id)
        if state == "failed":
            worker.fail(job_id, JobError(code="video_invalid", title="", detail=""))
        if state == "succeeded":
            worker.succeed(job_id)
        before = sorted(leftovers())

        def ask(some_id):
            return keyed.request(method, f"/v1/jobs/{some_id}{tail}", headers=headers("ben"))

        anothers, unknown = ask(job_id), ask("0" * 32)
        assert (anothers.status_code, unknown.status_code) == (404, 404)
        assert anothers.text.replace(job_id, "0" * 32) == unknown.text
        assert anothers.headers == unknown.headers
        assert sorted(leftovers()) == before
        assert listed(keyed, "ann") == [job_id]

    def test_everyone_lists_his_own(self, keyed, submit):
        anns = [submit("ann").json()["id"] for _ in range(2)]
        bens = [submit("ben").json()["id"]]

        assert listed(keyed, "ann") == anns[::-1]
        assert listed(keyed, "ben") == bens
        assert listed(keyed, "ben", state="queued", limit=1) == bens

    def test_anothers_cursor_leads_nowhere_else(self, keyed, submit):
        for _ in range(2):
            submit("ann")
        first = keyed.get("/v1/jobs", headers=headers("ann"), params={"limit": 1}).json()

        assert listed(keyed, "ben", cursor=first["next_cursor"]) == []

    def test_the_owner_fetches_cancels_and_deletes(self, keyed, submit, worker, leftovers):
        done, waiting = (submit("ann").json()["id"] for _ in range(2))
        worker.succeed(done)

        def ask(method, path):
            return keyed.request(method, f"/v1/jobs/{path}", headers=headers("ann")).status_code

        assert ask("GET", f"{done}/artifacts/sheet.png") == 200
        assert ask("POST", f"{waiting}/cancel") == 202
        assert [ask("DELETE", job_id) for job_id in (done, waiting)] == [204, 204]
        assert listed(keyed, "ann") == []
        assert leftovers() == []

    def test_jobs_created_without_keys_have_no_owner(self, open_client, keyed, new_job):
        job_id = new_job()

        assert keyed.get(f"/v1/jobs/{job_id}", headers=headers("ann")).status_code == 404
        assert open_client().get(f"/v1/jobs/{job_id}").status_code == 200
        assert listed(keyed, "ann") == []

    def test_a_service_without_keys_shows_no_owners_job(self, open_client, submit):
        job_id = submit("ann").json()["id"]

        assert open_client().get(f"/v1/jobs/{job_id}").status_code == 404
        assert open_client().get("/v1/jobs").json()["jobs"] == []

    def test_a_new_key_of_the_same_name_keeps_the_jobs(self, open_client, submit, keys_file):
        job_id = submit("ann").json()["id"]
        keys_file.write_text(f'[ann]\nsha256 = "{sha256(b"new").hexdigest()}"\n')

        response = open_client(api_keys_file=keys_file).get(
            f"/v1/jobs/{job_id}", headers={"Authorization": "Bearer new"}
        )

        assert response.status_code == 200


class TestQuota:
    def test_of_jobs(self, keyed, submit, worker, announce, leftovers):
        announce(seconds_per_job=7)
        first, _ = (submit("ann").json()["id"] for _ in range(2))
        before = sorted(leftovers())

        response = submit("ann")

        assert (response.status_code, response.json()["code"]) == (429, "quota_exceeded")
        assert response.headers["retry-after"] == "7"
        assert sorted(leftovers()) == before
        assert submit("ben").status_code == 202
        worker.succeed(first)
        assert submit("ann").status_code == 202
        assert submit("ann").status_code == 429

    @pytest.mark.parametrize(("method", "tail"), [("DELETE", ""), ("POST", "/cancel")])
    def test_an_ended_job_no_longer_counts(self, keyed, submit, method, tail):
        first, _ = (submit("ann").json()["id"] for _ in range(2))

        keyed.request(method, f"/v1/jobs/{first}{tail}", headers=headers("ann"))

        assert submit("ann").status_code == 202

    def test_a_job_that_was_not_accepted_takes_no_place(self, keyed, submit, mp4):
        for _ in range(5):
            files = {"video": ("v.mp4", mp4), "request": (None, '{"start_layer": 99}')}
            assert keyed.post("/v1/jobs", files=files, headers=headers("ann")).status_code == 422

        assert [submit("ann").status_code for _ in range(2)] == [202, 202]

    def test_a_job_that_could_not_be_stored_takes_no_place(self, submit, store, monkeypatch):
        def fail(*_, **__):
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as broken:
            broken.setattr(type(store), "accept", fail)
            assert [submit("ann").status_code for _ in range(3)] == [503] * 3

        assert [submit("ann").status_code for _ in range(2)] == [202, 202]

    def test_a_redis_that_comes_back_empty_learns_the_places_again(self, keyed, submit, redis):
        announcements = redis.hgetall("rollout:workers")
        for _ in range(2):
            submit("ann")
        redis.flushdb()
        redis.hset("rollout:workers", mapping=announcements)

        keyed.app_state["services"].reconciler.reconcile()

        assert submit("ann").status_code == 429

    def test_of_bytes(self, submit, mp4, leftovers):
        response = submit("ann", mp4 + bytes(100_000))

        assert (response.status_code, response.json()["code"]) == (507, "storage_quota_exceeded")
        assert leftovers() == []
        assert submit("ben", mp4 + bytes(100_000)).status_code == 202

    def test_of_bytes_that_are_kept(self, submit, mp4):
        statuses = [submit("ann", mp4 + bytes(60_000)).status_code for _ in range(2)]

        assert statuses == [202, 507]

    def test_of_bytes_that_were_not_announced(self, keyed, mp4, leftovers):
        form = b'--cut\r\nContent-Disposition: form-data; name="video"\r\n\r\n'
        pieces = [form, mp4, bytes(100_000), b"\r\n--cut--\r\n"]
        kind = {"Content-Type": "multipart/form-data; boundary=cut"}

        response = keyed.post("/v1/jobs", content=iter(pieces), headers=headers("ann") | kind)

        assert (response.status_code, response.json()["code"]) == (507, "storage_quota_exceeded")
        assert leftovers() == []
