"""The master of Redis dies under load, and with it what its replica had not heard yet.

`python -m tests.chaos.failover --minutes 5` is the long one.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import httpx

from tests.chaos.crash_table import require_clean_redis, require_one_end
from tests.chaos.failover import FailoverSystem, open_failover_system, unheard_of
from tests.chaos.job_log import JobLog
from tests.chaos.staging import video
from tests.system.waiting import wait_until

CLIENTS = 2
PAUSE_SECONDS = 0.3
JOBS = 4
"""Jobs accepted before the replica is cut off, meanwhile, and after the failover, each."""

END_SECONDS = 60.0


@contextmanager
def submitting(system: FailoverSystem) -> Iterator[JobLog]:
    """Submit jobs until the context ends; yield the log of those that were accepted."""
    log, over, film = JobLog(), Event(), video()

    def submit() -> None:
        while not over.wait(PAUSE_SECONDS):
            try:
                response = system.submit(film, overlay=None)
            except httpx.TransportError:
                continue
            if response.status_code == 202:
                log.accept(response.json()["id"], "fake")
            else:
                assert response.status_code == 503, response.text

    clients = [Thread(target=submit, name="client") for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield log
    finally:
        over.set()
        for client in clients:
            client.join()


def await_more(log: JobLog, since: int) -> list[str]:
    """Wait until some jobs have been accepted after the first `since`; return these."""
    wait_until(lambda: len(log.accepted) >= since + JOBS, END_SECONDS, "further jobs")
    return log.accepted[since:]


def all_ended(system: FailoverSystem, log: JobLog) -> bool:
    for job_id in log.open:
        log.record(system.job(job_id), time.monotonic())
    return not log.open


def test_no_accepted_job_is_lost_with_the_master():
    with open_failover_system(forked=True) as system:
        system.api()
        system.worker(model="fake")
        system.await_models("fake")
        group = system.group
        heir = group.replica
        with submitting(system) as log:
            await_more(log, 0)
            group.cut()
            lost = await_more(log, len(log.accepted))
            dead = group.kill_master()
            assert unheard_of(group, heir, lost) == lost  # Redis has lost them
            group.await_master(heir)
            await_more(log, len(log.accepted))
        group.servers[dead].bring_up()
        wait_until(lambda: all_ended(system, log), END_SECONDS, f"all jobs to end: {log}")
        assert all_ended(system, log)
        assert str(log) == (
            f"accepted={len(log.accepted)} succeeded={len(log.accepted)} failed=0 canceled=0 "
            "lost=0 double=0 stuck=0"
        )
        for job_id in log.accepted:
            require_one_end(system, job_id)
        require_clean_redis(system)
        group.await_ready()
        assert group.master == heir
