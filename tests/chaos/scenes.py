"""Disasters, each at one exact moment of a job's life, and what must become of the job.

Each scene gets an empty house, brings a job to its moment, strikes, and returns the watch over
the job once it has ended as it must. Moments that no client can see are held by breakpoints.
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
    is_ready,
    kill_api_at,
    kill_supervisor_at,
    require,
    running,
    serve,
    strike_child,
    strike_valkey,
    video,
)
from tests.chaos.watch import Watch
from tests.house.house import House, wait_until

UNREACHABLE_SECONDS = 30.0
REFUSAL_SECONDS = 10.0


@dataclass(frozen=True)
class Scene:
    """One row of the crash table."""

    window: str
    play: Callable[[House], Watch]

    @property
    def name(self) -> str:
        """Name of its function."""
        return self.play.__name__


SCENES: list[Scene] = []


def scene(window: str) -> Callable[[Callable[[House], Watch]], Callable[[House], Watch]]:
    """Put a function on the list of scenes."""

    def add(play: Callable[[House], Watch]) -> Callable[[House], Watch]:
        SCENES.append(Scene(window, play))
        return play

    return add


# The API.


@scene("API killed while it receives the upload")
def api_killed_while_receiving(house: House) -> Watch:
    api = house.api()
    serve(house, "fake")
    watch = Watch(house)
    with half_sent(house) as connection:
        wait_until(lambda: files(house, "incoming/*/video"), MOMENT_SECONDS, "half an upload")
        watch.strike()
        api.kill()
        with suppress(ConnectionResetError):
            assert not connection.recv(1000)
    watch.note("connection closed, no job")
    wait_until(lambda: is_ready(house.client), MOMENT_SECONDS, "the API to come back")
    assert house.client.get("/v1/jobs").json()["jobs"] == []
    watch.follow(house.accepted(video()))
    require(watch, "succeeded", attempt=1)
    return watch


@scene("API killed after storing, before queueing")
def api_killed_after_storing(house: House) -> Watch:
    return kill_api_at(house, "after", "rollout_core.jobs.store:ArtifactStore.accept")


@scene("API killed after queueing, before it answers")
def api_killed_after_queueing(house: House) -> Watch:
    return kill_api_at(house, "after", "service.jobs:JobQueue.submit")


@scene("API killed while the job runs")
def api_killed_while_running(house: House) -> Watch:
    api = house.api()
    watch = running(house, house.worker(model="fake-slow"))
    watch.strike()
    api.kill()
    require(watch, "succeeded", attempt=1)
    return watch


@scene("API killed while it cancels a waiting job")
def api_killed_while_canceling(house: House) -> Watch:
    mark, point = house.mark("reached"), "rollout_core.jobs.store:ArtifactStore.end"
    api = house.api(under=("tests.house.breakpoints", "before", point, str(mark)))
    ahead = running(house, house.worker(model="fake-slow"))
    watch = Watch(house, house.accepted(video(), **SLOW))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(house.client.post, f"/v1/jobs/{watch.job_id}/cancel")
        wait_until(mark.exists, MOMENT_SECONDS, point)
        watch.strike()
        api.kill()
        assert isinstance(answer.exception(), httpx.TransportError)
    require(ahead, "succeeded", attempt=1)
    require(watch, "canceled", attempt=0)
    return watch


# The supervisor.


@scene("supervisor killed after it took the job off the queue")
def supervisor_killed_with_delivery_in_hand(house: House) -> Watch:
    return kill_supervisor_at(house, "before", "rq:SimpleWorker.prepare_execution", attempt=1)


@scene("supervisor killed after delivery, before it claimed the job")
def supervisor_killed_before_claim(house: House) -> Watch:
    return kill_supervisor_at(house, "before", "worker.redis_jobs:Ledger.claim", attempt=1)


@scene("supervisor killed while the job runs")
def supervisor_killed_while_running(house: House) -> Watch:
    house.api()
    worker = house.worker(model="fake-slow")
    watch = running(house, worker)
    watch.strike()
    worker.kill()
    require(watch, "succeeded", attempt=2)
    return watch


@scene("supervisor killed after the artifacts, before `result.json`")
def supervisor_killed_before_result(house: House) -> Watch:
    point = "rollout_core.jobs.store:ArtifactStore.publish"
    return kill_supervisor_at(house, "before", point, attempt=2)


@scene("supervisor killed after `result.json` was written, before it is published")
def supervisor_killed_with_result_in_hand(house: House) -> Watch:
    return kill_supervisor_at(
        house, "before", "rollout_core.jobs.store:ArtifactStore._end", attempt=2
    )


@scene("supervisor killed after `result.json`, before RQ's acknowledgement")
def supervisor_killed_after_result(house: House) -> Watch:
    point = "rollout_core.jobs.store:ArtifactStore.publish"
    return kill_supervisor_at(house, "after", point, attempt=1)


@scene("supervisor killed after the failure was stored, before RQ's acknowledgement")
def supervisor_killed_after_failure(house: House) -> Watch:
    point = "rollout_core.jobs.store:ArtifactStore.end"
    return kill_supervisor_at(house, "after", point, attempt=1, model="fake-fail", state="failed")


@scene("two attempts alive at once: supervisor halted, then let go")
def two_attempts_at_once(house: House) -> Watch:
    house.api()
    first = house.worker(model="fake-slow")
    watch = running(house, first)
    house.worker(model="fake-slow")
    watch.strike()
    first.halt()
    watch.await_sight("running (2)")
    first.resume()
    job = require(watch, "succeeded", attempt=2)
    time.sleep(1)
    assert house.job(job["id"]) == job
    return watch


# The engine.


@scene("engine killed")
def engine_killed(house: House) -> Watch:
    return strike_child(house, "fake", signal.SIGKILL)


@scene("engine hung in a call that never returns")
def engine_hung(house: House) -> Watch:
    return strike_child(house, "fake", signal.SIGSTOP)


@scene("engine dies of every attempt")
def engine_always_dies(house: House) -> Watch:
    house.api()
    serve(house, "fake-crash")
    watch = Watch(house)
    watch.strike()
    watch.follow(house.accepted(video(), "fake-crash"))
    following = house.accepted(video(), "fake-crash")
    require(watch, "failed", attempt=3, code="worker_crashed")
    house.wait(following, "running", "failed", seconds=15)
    return watch


@scene("engine out of memory")
def engine_out_of_memory(house: House) -> Watch:
    house.api()
    worker = serve(house, "fake-fail")
    engine = worker.children_of_kind("fake")
    watch = Watch(house)
    watch.strike()
    watch.follow(house.accepted(video(), "fake-fail"))
    require(watch, "failed", attempt=1, code="out_of_memory")
    assert worker.children_of_kind("fake") == engine
    return watch


# Media.


@scene("media killed")
def media_killed(house: House) -> Watch:
    return strike_child(house, "media", signal.SIGKILL)


@scene("media hung in a call that never returns")
def media_hung(house: House) -> Watch:
    return strike_child(house, "media", signal.SIGSTOP)


@scene("a video that cannot be decoded")
def bad_video(house: House) -> Watch:
    house.api()
    serve(house, "fake")
    watch = Watch(house)
    watch.strike()
    watch.follow(house.accepted(video()[: len(video()) // 3] + bytes(2000)))
    job = require(watch, "failed", attempt=1)
    assert job["error"]["code"].startswith("video_"), job
    return watch


# Valkey.


@scene("Valkey killed and restarted, its data kept")
def valkey_killed(house: House) -> Watch:
    return strike_valkey(house, house.valkey.kill)


@scene("Valkey restarted empty")
def valkey_emptied(house: House) -> Watch:
    return strike_valkey(house, house.forget_everything)


@scene("Valkey unreachable for 30 s: connections refused")
def valkey_refuses(house: House) -> Watch:
    def outage() -> None:
        house.valkey.take_down()
        time.sleep(UNREACHABLE_SECONDS)
        house.valkey.bring_up()

    return strike_valkey(house, outage)


@scene("Valkey unreachable for 30 s: connections hang")
def valkey_hangs(house: House) -> Watch:
    def outage() -> None:
        house.valkey.halt()
        time.sleep(UNREACHABLE_SECONDS)
        house.valkey.resume()

    return strike_valkey(house, outage)


@scene("Valkey refuses writes for 10 s: its memory is full")
def valkey_out_of_memory(house: House) -> Watch:
    def outage() -> None:
        with house.redis as redis:
            redis.config_set("maxmemory", 1)
            time.sleep(REFUSAL_SECONDS)
            redis.config_set("maxmemory", 0)

    return strike_valkey(house, outage)


@scene("Valkey refuses writes for 10 s: it is read-only")
def valkey_read_only(house: House) -> Watch:
    def outage() -> None:
        with house.redis as redis:
            redis.execute_command("REPLICAOF", "127.0.0.1", "1")
            time.sleep(REFUSAL_SECONDS)
            redis.execute_command("REPLICAOF", "NO", "ONE")

    return strike_valkey(house, outage)


# The disk, and everything.


@scene("disk full while the API receives")
def disk_full_for_the_api(house: House) -> Watch:
    full = house.mark("full")
    house.api(under=("tests.house.full_disk", str(house.data_dir), str(full)))
    serve(house, "fake")
    watch = Watch(house)
    watch.strike()
    full.touch()
    response = house.submit(video())
    assert (response.status_code, response.json()["code"]) == (507, "store_full")
    assert not files(house, "jobs/*") + files(house, "incoming/*")
    watch.note("507 store_full, no job")
    full.unlink()
    watch.relieve()
    watch.follow(house.accepted(video()))
    require(watch, "succeeded", attempt=1)
    return watch


@scene("disk full while the worker writes the result, for 8 s")
def disk_full_for_the_worker(house: House) -> Watch:
    full = house.mark("full")
    house.api()
    under = ("tests.house.full_disk", str(house.data_dir), str(full))
    watch = running(house, house.worker(model="fake-slow", under=under))
    watch.strike()
    full.touch()
    time.sleep(8)
    full.unlink()
    watch.relieve()
    require(watch, "failed", attempt=1, code="store_full")
    return watch


@scene("everything killed at once")
def everything_killed(house: House) -> Watch:
    house.api()
    watch = running(house, house.worker(model="fake-slow"))
    watch.strike()
    for process in house.processes:
        process.kill()
    require(watch, "succeeded", attempt=2)
    return watch
