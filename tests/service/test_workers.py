from threading import Event, Thread

import pytest

from rollout_core.errors import UnknownModel
from rollout_core.jobs.counters import WorkerCounters
from rollout_core.jobs.redis_records import KNOWN_SECONDS, LIVE_SECONDS, WORKERS_KEY
from service import workers as workers_module
from service.errors import CheckpointsDiffer, ModelUnavailable
from service.workers import Workers
from tests.system.waiting import wait_until


@pytest.fixture
def workers(redis):
    return Workers(redis)


def test_models_of_live_workers_are_served(workers, announce):
    announce("b", worker="w1", device="cuda:0", seconds_per_job=2)
    announce("b", worker="w2", device="cpu", seconds_per_job=4, ready=False)
    announce("a", worker="w3")
    announce("gone", worker="w4", age_seconds=LIVE_SECONDS + 1)

    first, second = workers.served()

    assert (first.name, second.name) == ("a", "b")
    assert first.seconds_per_job is None
    assert (second.workers, second.ready, second.seconds_per_job) == (2, 1, 3)
    assert second.devices == ("cpu", "cuda:0")
    assert second.engines == ("fake",)
    assert second.spec.height == 32


def test_without_announcements_no_model_is_served(workers):
    assert workers.served() == ()


def test_a_named_model_is_chosen_while_it_is_known(workers, announce):
    announce("old", worker="w1", age_seconds=KNOWN_SECONDS - 60)
    announce("new", worker="w2")

    assert workers.choose("old").name == "old"
    assert workers.choose("old", default="new").name == "old"


def test_a_model_is_unknown_a_day_after_its_last_heartbeat(workers, announce):
    announce("old", age_seconds=KNOWN_SECONDS + 60)

    with pytest.raises(ModelUnavailable, match="no worker"):
        workers.choose("old")


def test_without_a_name_the_default_is_chosen(workers, announce):
    announce("a", worker="w1")
    announce("b", worker="w2")

    assert workers.choose(None, default="b").name == "b"


def test_without_a_name_or_default_the_only_one_is_chosen(workers, announce):
    announce("a", worker="w1")
    announce("a", worker="w2")

    assert workers.choose(None).name == "a"


def test_of_several_models_one_must_be_named(workers, announce):
    announce("a", worker="w1")
    announce("b", worker="w2")

    with pytest.raises(UnknownModel, match="a, b"):
        workers.choose(None)


@pytest.mark.parametrize("default", [None, "a"])
def test_a_model_that_was_not_announced_is_unknown(workers, announce, default):
    announce("a")

    with pytest.raises(UnknownModel, match="'c' is not known; known: a"):
        workers.choose("c", default=default)


def test_before_the_first_announcement_every_model_is_only_unavailable(workers):
    for name in ("a", None):
        with pytest.raises(ModelUnavailable, match="no worker has announced a model yet"):
            workers.choose(name)


def test_the_default_model_is_unavailable_until_it_is_announced(workers, announce):
    """The client did not name it, so the client cannot mend it."""
    announce("a")

    with pytest.raises(ModelUnavailable, match="'c' is not known"):
        workers.choose(None, default="c")


def test_a_model_that_redis_has_lost_is_unavailable_for_as_long_as_it_would_be_known(
    redis, announce
):
    seconds = [1000.0]
    workers = Workers(redis, clock=lambda: seconds[0])
    announce("a", worker="w1")
    announce("b", worker="w2", age_seconds=100)
    workers.ready()
    redis.flushall()
    announce("a", worker="w1")

    seconds[0] += KNOWN_SECONDS - 101
    with pytest.raises(ModelUnavailable, match="'b' is not known"):
        workers.choose("b")
    seconds[0] += 2
    with pytest.raises(UnknownModel):
        workers.choose("b")


def test_a_model_whose_jobs_wait_is_unavailable(workers, announce):
    announce("a")

    with pytest.raises(ModelUnavailable):
        workers.choose("b", is_expected=lambda name: name == "b")


def test_without_a_name_the_only_live_one_is_chosen(workers, announce):
    """A model that is served no more stays known for a day."""
    announce("dead", worker="w1", age_seconds=60)
    announce("alive", worker="w2")

    assert workers.choose(None).name == "alive"


def test_without_a_name_the_only_dead_one_is_chosen_if_none_is_alive(workers, announce):
    announce("dead", age_seconds=60)

    assert workers.choose(None).name == "dead"


def test_the_latest_heartbeat_describes_the_model(workers, announce):
    announce("a", worker="w1", depth=3)
    announce("a", worker="w2", depth=5, age_seconds=60)

    assert workers.choose("a").depth == 3


def test_a_model_is_fake_if_all_its_workers_are(workers, announce):
    announce("a", worker="w1", engine="fake")
    announce("b", worker="w2", engine="torch")
    assert workers.runs_fake("a")
    assert not workers.runs_fake("b")
    announce("a", worker="w3", engine="torch")
    assert not workers.runs_fake("a")


def test_waiting_time_is_divided_by_live_workers(workers, announce):
    announce("a", worker="w1", seconds_per_job=9)
    announce("a", worker="w2", seconds_per_job=11)
    announce("a", worker="w3", seconds_per_job=1000, age_seconds=LIVE_SECONDS + 1)

    assert workers.wait_seconds("a", 7) == 35
    assert workers.wait_seconds("a", 0) == 1


@pytest.mark.parametrize(
    ("position", "running", "workers_", "seconds"),
    [
        (1, 0, 1, 10),
        (3, 0, 1, 30),
        (1, 1, 1, 15),
        (3, 1, 1, 35),
        (1, 1, 2, 10),
        (1, 2, 2, 12.5),
        (4, 2, 2, 27.5),
        (8, 4, 4, 28.75),
    ],
)
def test_the_end_of_a_waiting_job_is_told(workers, announce, position, running, workers_, seconds):
    for number in range(workers_):
        announce("a", worker=f"w{number}", seconds_per_job=10)
    announce("a", worker="loading", seconds_per_job=10, ready=False)

    assert workers.seconds_until_end("a", position, running) == seconds


def test_a_worker_that_has_run_no_job_does_not_count_beside_one_that_has(workers, announce):
    """It announces what a clip took at its warm-up."""
    announce("a", worker="w1", seconds_per_job=60, counters=WorkerCounters(attempts=3))
    announce("a", worker="w2", seconds_per_job=2, counters=WorkerCounters())
    assert workers.pace("a") == (60, 2)
    announce("b", worker="w3", seconds_per_job=2, counters=WorkerCounters())
    assert workers.pace("b") == (2, 1)
    announce("c", worker="of the release before", seconds_per_job=8)
    assert workers.pace("c") == (8, 1)


def test_without_measurements_a_job_counts_as_one_second(workers, announce):
    announce("a")

    assert workers.wait_seconds("a", 3) == 3
    assert workers.wait_seconds("nobody", 3) == 3


def test_stale_announcements_are_removed(workers, announce, redis):
    announce("a", worker="old", age_seconds=KNOWN_SECONDS + 60)
    announce("a", worker="young", age_seconds=KNOWN_SECONDS - 60)
    redis.hset(WORKERS_KEY, "strange", "{}")

    workers.forget_stale()

    assert redis.hkeys(WORKERS_KEY) == [b"young"]


def test_only_the_latest_dead_worker_of_a_model_is_kept(workers, announce, redis):
    """A worker that crashes at every start is restarted thousands of times a day."""
    for age_seconds in range(100, 110):
        announce("a", worker=f"died-{age_seconds}", age_seconds=age_seconds)
    announce("b", worker="lives", age_seconds=LIVE_SECONDS - 5)
    announce("b", worker="lives-too")

    workers.forget_stale()

    assert sorted(redis.hkeys(WORKERS_KEY)) == [b"died-100", b"lives", b"lives-too"]
    assert workers.choose("a").name == "a"


def test_an_announcement_of_another_version_is_ignored(workers, announce, redis):
    announce("a")
    redis.hset(WORKERS_KEY, "strange", '{"model": 1}')

    assert workers.choose(None).name == "a"


@pytest.mark.parametrize("seconds", [-8 * 86400, -60, 60, 8 * 86400])
def test_the_clock_of_this_host_does_not_decide_who_is_alive(
    workers, announce, shift_redis_clock, seconds
):
    shift_redis_clock(seconds)
    announce("a", worker="lives", age_seconds=-seconds)
    announce("a", worker="died", age_seconds=LIVE_SECONDS + 1 - seconds)

    workers.forget_stale()

    assert workers.ready() == {"a": 1}
    assert [model.name for model in workers.served()] == ["a"]
    assert workers.choose(None).name == "a"


def test_a_heartbeat_from_before_redis_clock_was_set_back_is_not_alive(workers, announce):
    announce("a", worker="dead", age_seconds=-3600, depth=3)

    assert workers.ready() == {"a": 0}
    assert workers.served() == ()
    announce("a", worker="lives", depth=5)
    assert workers.choose("a").depth == 5


class TestCheckpoints:
    @pytest.mark.parametrize("other", [{"sha256": "2" * 64}, {"sha256": "1" * 64, "depth": 3}])
    def test_a_model_with_two_checkpoints_is_shown_and_refused(self, workers, announce, other):
        announce("a", worker="w1", sha256="1" * 64)
        announce("a", worker="w2", **other)
        announce("b", worker="w3", sha256="1" * 64)

        assert {model.name: model.checkpoints_differ for model in workers.served()} == {
            "a": True,
            "b": False,
        }
        with pytest.raises(CheckpointsDiffer, match="'a'"):
            workers.choose("a")
        assert workers.choose("b").name == "b"

    @pytest.mark.parametrize(
        "other",
        [
            {"sha256": "1" * 64},
            {"sha256": "2" * 64, "stopping": True, "ready": False},
            {"sha256": "2" * 64, "age_seconds": LIVE_SECONDS + 1},
            {"sha256": None, "ready": False},  # its engine is loading
        ],
    )
    def test_a_worker_that_takes_no_jobs_does_not_count(self, workers, announce, other):
        announce("a", worker="w1", sha256="1" * 64)
        announce("a", worker="w2", **other)

        assert not workers.served()[0].checkpoints_differ
        assert workers.choose("a").name == "a"

    def test_the_spec_is_that_of_a_worker_that_takes_jobs(self, workers, announce):
        announce("a", worker="w1", sha256="1" * 64, depth=3, age_seconds=2)
        announce("a", worker="w2", sha256=None, ready=False, depth=5)

        assert workers.choose("a").depth == 3


class TestAbsence:
    def test_a_model_is_absent_after_the_last_heartbeat_of_any_worker(self, workers, announce):
        announce("a", worker="w1", age_seconds=100)
        announce("a", worker="w2", age_seconds=50)
        wait_until(lambda: workers.are_absent("c", 0.5), 3)  # Valkey has just started
        announce("b", worker="w3")

        assert not workers.are_absent("a", 60)
        assert not workers.are_absent("b", 0.5)

    def test_no_model_is_absent_for_longer_than_redis_runs(self, workers):
        assert not workers.are_absent("a", 100_000)


def test_an_unknown_model_may_still_be_announced_to_a_young_redis(workers, announce, monkeypatch):
    announce("known")
    with pytest.raises(UnknownModel):
        workers.choose("missing")
    monkeypatch.setattr(workers_module, "YOUNG_SECONDS", 1e9)

    with pytest.raises(ModelUnavailable, match="not again"):
        workers.choose("missing")
    assert workers.choose("known").name == "known"


@pytest.fixture
def hgetalls(redis):
    """Return how many readings Redis has answered until now."""
    return lambda: redis.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"]


def test_calls_share_a_reading_that_costs_much(workers, announce, hgetalls, monkeypatch):
    monkeypatch.setattr(workers_module, "READ_SHARE", 1e-9)
    announce("a")
    assert workers.names() == ("a",)
    before = hgetalls()

    announce("b", worker="w2")

    assert [model.name for model in workers.served()] == ["a"]
    assert workers.choose("a").name == "a"
    assert hgetalls() == before


def test_a_shared_reading_grows_old(workers, announce, monkeypatch):
    monkeypatch.setattr(workers_module, "READ_SHARE", 1e-9)
    monkeypatch.setattr(workers_module, "MAX_KEPT_SECONDS", 0.05)
    announce("a")
    assert workers.names() == ("a",)

    announce("b", worker="w2")

    wait_until(lambda: workers.names() == ("a", "b"), 5)


def test_a_reading_that_costs_little_is_not_shared_for_long(workers, announce, monkeypatch):
    monkeypatch.setattr(workers_module, "READ_SHARE", 0.1)
    announce("a")
    workers.names()

    assert 0 < workers._kept.keep_seconds < 0.1


def test_calls_use_the_last_reading_while_another_thread_reads(
    workers, announce, redis, monkeypatch
):
    monkeypatch.setattr(workers_module, "READ_SHARE", 1e-9)
    monkeypatch.setattr(workers_module, "MAX_KEPT_SECONDS", 0.5)
    announce("a")
    workers.names()
    workers._kept.read_at -= 0.6  # older than it may be, not twice as old
    reads, began, may_end = [], Event(), Event()
    read_now = workers._read_now

    def slowly():
        reads.append(None)
        began.set()
        may_end.wait(10)
        return read_now()

    monkeypatch.setattr(workers, "_read_now", slowly)
    announce("b", worker="w2")
    thread = Thread(target=workers.names)
    thread.start()
    assert began.wait(10)
    try:
        assert workers.names() == ("a",)
        assert len(reads) == 1
    finally:
        may_end.set()
        thread.join()
    assert workers.names() == ("a", "b")
