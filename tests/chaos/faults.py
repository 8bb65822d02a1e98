"""Faults, each at one exact moment of a job, and the end that the job must have.

Each function gets an empty system, brings a job to the moment, injects its fault, waits for the
job's end, checks it, and returns what a client has seen. Breakpoints stop a process at moments
that no client can see.
"""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import httpx

from tests.chaos.staging import (
    MOMENT_SECONDS,
    SLOW,
    files,
    half_sent,
    interrupt_running_job,
    interrupt_valkey,
    is_ready,
    kill_api_at,
    kill_supervisor_at,
    require,
    running,
    serve,
    signal_child,
    submit_with_fault,
    video,
)
from tests.chaos.watch import Watch
from tests.system.processes import Process
from tests.system.system import System
from tests.system.waiting import wait_until

UNREACHABLE_SECONDS = 30.0
REFUSAL_SECONDS = 10.0
FULL_SECONDS = 8.0


@dataclass(frozen=True)
class Fault:
    """One row of the crash table."""

    window: str
    play: Callable[[System], Watch]

    @property
    def name(self) -> str:
        """Name of its function."""
        return self.play.__name__


FAULTS: list[Fault] = []


def fault(window: str) -> Callable[[Callable[[System], Watch]], Callable[[System], Watch]]:
    """Add a function to `FAULTS`."""

    def add(play: Callable[[System], Watch]) -> Callable[[System], Watch]:
        FAULTS.append(Fault(window, play))
        return play

    return add


# The API.


@fault("API killed while it receives the upload")
def api_killed_while_receiving(system: System) -> Watch:
    api = system.api()
    serve(system, "fake")
    watch = Watch(system)
    with half_sent(system) as connection:
        wait_until(lambda: files(system, "incoming/*/video"), MOMENT_SECONDS, "half an upload")
        watch.mark_fault()
        api.kill()
        with suppress(ConnectionResetError):
            assert not connection.recv(1000)
    watch.note("connection closed, no job")
    wait_until(lambda: is_ready(system.client), MOMENT_SECONDS, "the API to come back")
    assert system.client.get("/v1/jobs").json()["jobs"] == []
    watch.follow(system.accepted(video()))
    require(watch, "succeeded", attempt=1)
    return watch


@fault("API killed after storing, before queueing")
def api_killed_after_storing(system: System) -> Watch:
    return kill_api_at(system, "after", "rollout_core.jobs.folder_store:FolderStore.accept")


@fault("API killed after queueing, before it answers")
def api_killed_after_queueing(system: System) -> Watch:
    return kill_api_at(system, "after", "service.jobs:Jobs.submit")


@fault("API killed while the job runs")
def api_killed_while_running(system: System) -> Watch:
    return interrupt_running_job(system, lambda api, worker: api.kill(), attempt=1)


@fault("API killed while it cancels a waiting job")
def api_killed_while_canceling(system: System) -> Watch:
    mark, point = system.mark("reached"), "rollout_core.jobs.folder_store:FolderStore.end"
    api = system.api(under=("tests.system.breakpoints", "before", point, str(mark)))
    ahead = running(system, system.worker(model="fake-slow"))
    watch = Watch(system, system.accepted(video(), **SLOW))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(system.client.post, f"/v1/jobs/{watch.job_id}/cancel")
        wait_until(mark.exists, MOMENT_SECONDS, point)
        watch.mark_fault()
        api.kill()
        assert isinstance(answer.exception(), httpx.TransportError)
    require(ahead, "succeeded", attempt=1)
    require(watch, "canceled", attempt=0)
    return watch


# The supervisor.


@fault("supervisor killed after it took the job off the queue")
def supervisor_killed_with_delivery_in_hand(system: System) -> Watch:
    return kill_supervisor_at(system, "before", "rq:SimpleWorker.prepare_execution", attempt=1)


@fault("supervisor killed after delivery, before it claimed the job")
def supervisor_killed_before_claim(system: System) -> Watch:
    return kill_supervisor_at(
        system, "before", "worker.redis_jobs:RetryingRecords.claim", attempt=1
    )


@fault("supervisor killed while the job runs")
def supervisor_killed_while_running(system: System) -> Watch:
    return interrupt_running_job(system, lambda api, worker: worker.kill(), attempt=2)


@fault("supervisor killed after the artifacts, before `result.json`")
def supervisor_killed_before_result(system: System) -> Watch:
    point = "rollout_core.jobs.folder_store:FolderStore.publish"
    return kill_supervisor_at(system, "before", point, attempt=2)


@fault("supervisor killed after `result.json` was written, before it is published")
def supervisor_killed_with_result_in_hand(system: System) -> Watch:
    return kill_supervisor_at(
        system, "before", "rollout_core.jobs.folder_store:FolderStore._end", attempt=2
    )


@fault("supervisor killed after `result.json`, before RQ's acknowledgement")
def supervisor_killed_after_result(system: System) -> Watch:
    point = "rollout_core.jobs.folder_store:FolderStore.publish"
    return kill_supervisor_at(system, "after", point, attempt=1)


@fault("supervisor killed after the failure was stored, before RQ's acknowledgement")
def supervisor_killed_after_failure(system: System) -> Watch:
    point = "rollout_core.jobs.folder_store:FolderStore.end"
    return kill_supervisor_at(system, "after", point, attempt=1, model="fake-fail", state="failed")


@fault("two attempts alive at once: supervisor halted, then let go")
def two_attempts_at_once(system: System) -> Watch:
    system.api()
    first = system.worker(model="fake-slow")
    watch = running(system, first)
    system.worker(model="fake-slow")
    watch.mark_fault()
    first.halt()
    watch.await_state("running (2)")
    first.resume()
    job = require(watch, "succeeded", attempt=2)
    time.sleep(1)
    assert system.job(job["id"]) == job
    return watch


# The engine.


@fault("engine killed")
def engine_killed(system: System) -> Watch:
    return signal_child(system, "fake", signal.SIGKILL)


@fault("engine hung in a call that never returns")
def engine_hung(system: System) -> Watch:
    return signal_child(system, "fake", signal.SIGSTOP)


@fault("engine dies in every attempt")
def engine_always_dies(system: System) -> Watch:
    system.api()
    serve(system, "fake-crash")
    watch = submit_with_fault(system, "fake-crash")
    following = system.accepted(video(), "fake-crash")
    require(watch, "failed", attempt=3, code="worker_crashed")
    system.wait(following, "running", "failed")
    return watch


@fault("engine out of memory")
def engine_out_of_memory(system: System) -> Watch:
    system.api()
    worker = serve(system, "fake-fail")
    engine = worker.children_of_kind("fake")
    watch = submit_with_fault(system, "fake-fail")
    require(watch, "failed", attempt=1, code="out_of_memory")
    assert worker.children_of_kind("fake") == engine
    return watch


# Media.


@fault("media killed")
def media_killed(system: System) -> Watch:
    return signal_child(system, "media", signal.SIGKILL)


@fault("media hung in a call that never returns")
def media_hung(system: System) -> Watch:
    return signal_child(system, "media", signal.SIGSTOP)


@fault("template of media processes killed")
def template_killed(system: System) -> Watch:
    return signal_child(system, "media-template", signal.SIGKILL)


@fault("a video that cannot be decoded")
def bad_video(system: System) -> Watch:
    system.api()
    serve(system, "fake")
    watch = submit_with_fault(system, "fake", video()[: len(video()) // 3] + bytes(2000))
    job = require(watch, "failed", attempt=1)
    assert job["error"]["code"].startswith("video_"), job
    return watch


# Valkey.


@fault("Valkey killed and restarted, its data kept")
def valkey_killed(system: System) -> Watch:
    return interrupt_valkey(system, system.valkey.kill)


@fault("Valkey restarted empty")
def valkey_emptied(system: System) -> Watch:
    return interrupt_valkey(system, system.forget_everything)


@fault("Valkey unreachable for 30 s: connections refused")
def valkey_refuses(system: System) -> Watch:
    valkey = system.valkey
    return interrupt_valkey(system, valkey.take_down, valkey.bring_up, UNREACHABLE_SECONDS)


@fault("Valkey unreachable for 30 s: connections hang")
def valkey_hangs(system: System) -> Watch:
    valkey = system.valkey
    return interrupt_valkey(system, valkey.halt, valkey.resume, UNREACHABLE_SECONDS)


@fault("Valkey refuses writes for 10 s: its memory is full")
def valkey_out_of_memory(system: System) -> Watch:
    limit = ("CONFIG SET", "maxmemory")
    return refuse_writes(system, (*limit, 1), (*limit, 0))


@fault("Valkey refuses writes for 10 s: it is read-only")
def valkey_read_only(system: System) -> Watch:
    return refuse_writes(system, ("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE"))


def refuse_writes(
    system: System, begin: tuple[str | int, ...], end: tuple[str | int, ...]
) -> Watch:
    """Bring Valkey into a state with one command, and out of it with another."""
    with system.redis as redis:
        return interrupt_valkey(
            system,
            lambda: redis.execute_command(*begin),
            lambda: redis.execute_command(*end),
            REFUSAL_SECONDS,
        )


# The disk, and all processes.


@fault("disk full while the API receives")
def disk_full_for_the_api(system: System) -> Watch:
    full = system.mark("full")
    system.api(under=("tests.system.full_disk", str(system.data_dir), str(full)))
    serve(system, "fake")
    watch = Watch(system)
    watch.mark_fault()
    full.touch()
    response = system.submit(video())
    assert (response.status_code, response.json()["code"]) == (507, "store_full")
    assert not files(system, "jobs/*") + files(system, "incoming/*")
    watch.note("507 store_full, no job")
    full.unlink()
    watch.mark_recovery()
    watch.follow(system.accepted(video()))
    require(watch, "succeeded", attempt=1)
    return watch


@fault("disk full while the worker writes the result, for 8 s")
def disk_full_for_the_worker(system: System) -> Watch:
    full = system.mark("full")
    system.api()
    under = ("tests.system.full_disk", str(system.data_dir), str(full))
    watch = running(system, system.worker(model="fake-slow", under=under))
    watch.mark_fault()
    full.touch()
    time.sleep(FULL_SECONDS)
    full.unlink()
    watch.mark_recovery()
    require(watch, "succeeded", attempt=1)
    return watch


@fault("everything killed at once")
def everything_killed(system: System) -> Watch:
    def kill_all(api: Process, worker: Process) -> None:
        for process in system.processes:
            process.kill()

    return interrupt_running_job(system, kill_all, attempt=2)
