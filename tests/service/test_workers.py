import pytest

from rollout_core.errors import UnknownModel
from rollout_core.jobs.redis_records import KNOWN_SECONDS, LIVE_SECONDS, WORKERS_KEY
from service.workers import Workers


@pytest.fixture
def fleet(redis):
    return Workers(redis)


def test_models_of_live_workers_are_served(fleet, announce):
    announce("b", worker="w1", device="cuda:0", seconds_per_job=2)
    announce("b", worker="w2", device="cpu", seconds_per_job=4, ready=False)
    announce("a", worker="w3")
    announce("gone", worker="w4", age_seconds=LIVE_SECONDS + 1)

    first, second = fleet.served()

    assert (first.name, second.name) == ("a", "b")
    assert first.seconds_per_job is None
    assert (second.workers, second.ready, second.seconds_per_job) == (2, 1, 3)
    assert second.devices == ("cpu", "cuda:0")
    assert second.engines == ("fake",)
    assert second.spec.height == 32


def test_nothing_is_served_where_nobody_spoke(fleet):
    assert fleet.served() == ()


def test_a_named_model_is_chosen_while_it_is_known(fleet, announce):
    announce("old", worker="w1", age_seconds=KNOWN_SECONDS - 60)
    announce("new", worker="w2")

    assert fleet.choose("old").name == "old"
    assert fleet.choose("old", default="new").name == "old"


def test_a_model_is_forgotten_a_day_after_its_last_worker(fleet, announce):
    announce("old", age_seconds=KNOWN_SECONDS + 60)

    with pytest.raises(UnknownModel, match="no worker"):
        fleet.choose("old")


def test_without_a_name_the_default_is_chosen(fleet, announce):
    announce("a", worker="w1")
    announce("b", worker="w2")

    assert fleet.choose(None, default="b").name == "b"


def test_without_a_name_or_default_the_only_one_is_chosen(fleet, announce):
    announce("a", worker="w1")
    announce("a", worker="w2")

    assert fleet.choose(None).name == "a"


def test_among_several_the_client_must_choose(fleet, announce):
    announce("a", worker="w1")
    announce("b", worker="w2")

    with pytest.raises(UnknownModel, match="a, b"):
        fleet.choose(None)


@pytest.mark.parametrize(("name", "default"), [("c", None), ("c", "a"), (None, "c")])
def test_what_nobody_announced_is_unknown(fleet, announce, name, default):
    announce("a")

    with pytest.raises(UnknownModel, match="'c' is not known; known: a"):
        fleet.choose(name, default=default)


def test_where_announcements_differ_the_latest_describes_the_model(fleet, announce):
    announce("a", worker="w1", depth=3)
    announce("a", worker="w2", depth=5, age_seconds=60)

    assert fleet.choose("a").depth == 3


def test_waiting_time_is_shared_by_live_workers(fleet, announce):
    announce("a", worker="w1", seconds_per_job=9)
    announce("a", worker="w2", seconds_per_job=11)
    announce("a", worker="w3", seconds_per_job=1000, age_seconds=LIVE_SECONDS + 1)

    assert fleet.wait_seconds("a", 7) == 35
    assert fleet.wait_seconds("a", 0) == 1


def test_waiting_time_is_a_guess_where_nothing_was_measured(fleet, announce):
    announce("a")

    assert fleet.wait_seconds("a", 3) == 3
    assert fleet.wait_seconds("nobody", 3) == 3


def test_stale_announcements_are_removed(fleet, announce, redis):
    announce("a", worker="old", age_seconds=KNOWN_SECONDS + 60)
    announce("a", worker="young", age_seconds=KNOWN_SECONDS - 60)
    redis.hset(WORKERS_KEY, "strange", "{}")

    fleet.forget_stale()

    assert redis.hkeys(WORKERS_KEY) == [b"young"]


def test_of_dead_workers_only_the_latest_makes_a_model_known(fleet, announce, redis):
    """One that cannot live is restarted thousands of times a day, each time by a new name."""
    for age_seconds in range(100, 110):
        announce("a", worker=f"died-{age_seconds}", age_seconds=age_seconds)
    announce("b", worker="lives", age_seconds=LIVE_SECONDS - 5)
    announce("b", worker="lives-too")

    fleet.forget_stale()

    assert sorted(redis.hkeys(WORKERS_KEY)) == [b"died-100", b"lives", b"lives-too"]
    assert fleet.choose("a").name == "a"


def test_an_announcement_of_another_version_is_passed_over(fleet, announce, redis):
    announce("a")
    redis.hset(WORKERS_KEY, "strange", '{"model": 1}')

    assert fleet.choose(None).name == "a"
