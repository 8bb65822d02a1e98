import pytest

from rollout_core.errors import UnknownModel
from rollout_core.jobs.redis_records import KNOWN_SECONDS, LIVE_SECONDS, WORKERS_KEY
from service.workers import Workers


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

    with pytest.raises(UnknownModel, match="no worker"):
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


@pytest.mark.parametrize(("name", "default"), [("c", None), ("c", "a"), (None, "c")])
def test_a_model_that_was_not_announced_is_unknown(workers, announce, name, default):
    announce("a")

    with pytest.raises(UnknownModel, match="'c' is not known; known: a"):
        workers.choose(name, default=default)


def test_the_latest_heartbeat_describes_the_model(workers, announce):
    announce("a", worker="w1", depth=3)
    announce("a", worker="w2", depth=5, age_seconds=60)

    assert workers.choose("a").depth == 3


def test_waiting_time_is_divided_by_live_workers(workers, announce):
    announce("a", worker="w1", seconds_per_job=9)
    announce("a", worker="w2", seconds_per_job=11)
    announce("a", worker="w3", seconds_per_job=1000, age_seconds=LIVE_SECONDS + 1)

    assert workers.wait_seconds("a", 7) == 35
    assert workers.wait_seconds("a", 0) == 1


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
