"""A whole system whose Redis has an access list and a password: that of the documents."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.lock import Lock

from rollout_core.jobs.redis_url import RedisUrl
from tests.chaos.staging import video
from tests.system.processes import ROOT
from tests.system.system import System, free_port, open_system, upload
from tests.system.waiting import wait_until

PASSWORD, OTHER = "pa-s3cret-word", "an0ther-secret"
DATABASE = 3


def documented_user() -> list[str]:
    """Return the words of the access list in the documents, with our password."""
    text = (ROOT / "docs" / "operations.md").read_text()
    found = re.search(r"^    (ACL SETUSER .*\n(?:        \+.*\n)+)", text, re.MULTILINE)
    return found[1].replace(">PASSWORD", f">{PASSWORD}").split()


@pytest.fixture(scope="module")
def secret(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("secret") / "password"
    path.write_text(f"{PASSWORD}\n")
    return path


@pytest.fixture(scope="module")
def system(secret) -> Iterator[System]:
    """A system with an API and a worker that log in as the documented user, by TCP."""
    with pytest.MonkeyPatch.context() as patch, open_system(forked=True) as system:
        admin, port = system.redis, free_port()
        admin.execute_command(*documented_user())
        admin.config_set("port", port)
        system.admin = admin
        system.redis_url = f"redis://rollout@127.0.0.1:{port}/{DATABASE}"
        patch.setenv("ROLLOUT_REDIS_PASSWORD_FILE", str(secret))
        system.api()
        system.worker(model="fake-slow")
        system.await_models("fake-slow")
        yield system
        admin.close()


def shown_by(system: System) -> str:
    """Return what other users of the machine and readers of the log can see."""
    logs = [process.log.read_text() for process in system.processes]
    pids = [pid for process in system.processes for pid in (process.pid, *process.children)]
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids]
    return "\n".join(logs + commands)


def test_the_documented_user_may_do_all_that_jobs_need(system):
    film = video()
    done = system.accepted(film, "fake-slow", priority="low")
    canceled = system.accepted(film, "fake-slow")
    waiting = system.accepted(film, "fake-slow")
    system.client.post(f"/v1/jobs/{canceled}/cancel")
    assert system.client.delete(f"/v1/jobs/{waiting}").status_code in (204, 409)
    assert system.wait(done)["state"] == "succeeded"
    assert system.wait(canceled)["state"] == "canceled"
    assert system.client.get("/v1/jobs").is_success
    assert system.client.get("/readyz").is_success
    assert system.admin.acl_log() == []
    with Redis(port=system.admin.config_get("port")["port"], db=DATABASE) as own:
        assert own.exists("rollout:store")
    assert system.admin.dbsize() == 0


def test_the_documented_user_may_hold_the_lease_of_a_repeated_call(system, secret):
    film, headers = video(), {"Idempotency-Key": "once"}
    form = upload(film, "fake-slow")
    answers = [system.client.post("/v1/jobs", files=form, headers=headers) for _ in range(2)]
    assert len({answer.json()["id"] for answer in answers}) == 1
    with RedisUrl.parse(system.redis_url, secret).open() as redis:
        lease = Lock(redis, "rollout:receiving:test", timeout=15)
        assert lease.acquire(blocking=False)
        assert lease.reacquire()
        lease.release()
    assert system.admin.acl_log() == []


def test_another_worker_continues_for_a_dead_one(system):
    worker = system.processes[-1]
    job_id = system.accepted(video(4.0), "fake-slow", clips="tile", overlay=None)
    system.wait(job_id, "running")
    worker.kill()
    assert system.wait(job_id, seconds=60)["attempt"] == 2
    assert system.admin.acl_log() == []


def test_a_wrong_password_is_told_nowhere(system, secret):
    assert PASSWORD not in shown_by(system)
    system.admin.execute_command("ACL", "SETUSER", "rollout", "resetpass", f">{OTHER}")
    system.admin.client_kill_filter(user="rollout")
    wait_until(lambda: not system.client.get("/readyz").is_success, what="the API to notice")
    answer = system.submit(video(), "fake-slow")
    assert answer.status_code == 503
    texts = [answer.text, *(system.client.get(path).text for path in ("/readyz", "/v1/models"))]
    worker = system.processes[-1]
    wait_until(lambda: "Redis cannot be" in worker.log.read_text(), what="the worker to notice")
    assert not any(word in "\n".join([*texts, shown_by(system)]) for word in (PASSWORD, OTHER))
    secret.write_text(OTHER)
    wait_until(lambda: system.client.get("/readyz").is_success, what="the API to log in again")
    assert system.wait(system.accepted(video(), "fake-slow"), seconds=60)["state"] == "succeeded"
