"""What a scrape reads, with a real Valkey and a real store."""

import time

import pytest

from rollout_core.jobs.records import JobError
from service.inventory import Inventory
from service.ledger import Entry, Ledger
from service.maintenance import Reconciler
from service.metric_readings import Readings
from service.metric_table import READ_AT_SCRAPE
from tests.system.valkey import redis_that_is_away

QUEUE = "rq:queue:rollout-fake"
FAILED = JobError(code="x", title="X", detail="x")


@pytest.fixture
def inventory(store):
    return Inventory(store)


@pytest.fixture
def readings(redis, inventory):
    return Readings(redis, inventory, Ledger(redis))


@pytest.fixture
def value(readings):
    """Return the value of a sample now."""

    def value(name, **labels):
        found = [
            sample.value
            for family in readings.collect()
            for sample in family.samples
            if (sample.name, sample.labels) == (name, labels)
        ]
        assert len(found) < 2
        return found[0] if found else None

    return value


def test_jobs_are_told_by_model_and_state(value, submit, announce, inventory, redis, worker):
    announce("other", worker="w2")
    first, second, third, ended = (submit(model="fake") for _ in range(4))
    submit(model="other")
    worker.succeed(ended)
    redis.rpush(QUEUE, first, second, third)  # `succeed` has emptied the queue
    redis.lrem(QUEUE, 1, second)
    redis.zadd("rq:wip:rollout-fake", {f"{second}:execution": time.time() + 60})
    inventory.refresh()

    assert value("rollout_jobs", model="fake", state="queued") == 2
    assert value("rollout_jobs", model="fake", state="running") == 1
    assert value("rollout_jobs", model="fake", state="succeeded") == 1
    assert value("rollout_jobs", model="other", state="queued") == 1
    assert value("rollout_jobs", model="other", state="succeeded") is None


def test_a_job_that_a_worker_has_just_taken_runs(value, submit, redis):
    job_id = submit(model="fake")
    redis.lmove(QUEUE, f"{QUEUE}:intermediate")

    assert value("rollout_jobs", model="fake", state="queued") == 0
    assert value("rollout_jobs", model="fake", state="running") == 1
    assert job_id


def test_ended_jobs_are_those_of_the_store(value, submit, inventory, worker, jobs):
    failed, canceled = submit(model="fake"), submit(model="fake")
    inventory.refresh()
    jobs.cancel(canceled)
    worker.claim(failed)
    worker.fail(failed, FAILED)
    inventory.look([failed, canceled])

    assert value("rollout_jobs", model="fake", state="failed") == 1
    assert value("rollout_jobs", model="fake", state="canceled") == 1
    jobs.delete(failed)
    inventory.look([failed])
    assert value("rollout_jobs", model="fake", state="failed") == 0


def test_the_age_is_that_of_the_oldest_waiting_job_wherever_it_stands(
    value, submit, inventory, redis, shift_redis_clock
):
    assert value("rollout_queue_oldest_seconds", model="fake") == 0
    old = submit(model="fake")
    shift_redis_clock(50)
    submit(model="fake")
    inventory.refresh()
    redis.lrem(QUEUE, 1, old)
    redis.rpush(QUEUE, old)
    shift_redis_clock(80)

    assert value("rollout_queue_oldest_seconds", model="fake") == pytest.approx(80, abs=5)
    redis.lrem(QUEUE, 1, old)
    assert value("rollout_queue_oldest_seconds", model="fake") == pytest.approx(30, abs=5)


def test_a_job_that_was_not_counted_yet_is_new(value, submit):
    submit(model="fake")

    assert value("rollout_jobs", model="fake", state="queued") == 1
    assert value("rollout_queue_oldest_seconds", model="fake") == 0


def test_a_clock_that_was_set_back_gives_no_negative_age(
    value, submit, inventory, shift_redis_clock
):
    submit(model="fake")
    inventory.refresh()
    shift_redis_clock(-100)

    assert value("rollout_queue_oldest_seconds", model="fake") == 0


def test_jobs_of_a_model_without_any_announcement_are_told(value, submit, inventory, redis):
    submit(model="fake")
    inventory.refresh()
    redis.delete("rollout:workers")

    assert value("rollout_jobs", model="fake", state="queued") == 1
    assert value("rollout_workers", model="fake", state="ready") is None


def test_bytes_are_those_of_the_ledger(value, redis):
    assert (value("rollout_store_bytes"), value("rollout_store_reserved_bytes")) == (0, 0)
    Ledger(redis).update({"a": Entry(100, 300, 200, "ann"), "b": Entry(50, 50, 0, None)})

    assert value("rollout_store_bytes") == 150
    assert value("rollout_store_reserved_bytes") == 200


def test_two_processes_tell_the_same(redis, store, submit, announce):
    announce()
    submit(model="fake")
    found = []
    for _ in range(2):
        inventory = Inventory(store)
        Reconciler(store, inventory, redis).reconcile()
        families = Readings(redis, inventory, Ledger(redis)).collect()
        found.append(
            {
                (sample.name, *sample.labels.items()): sample.value
                for family in families
                for sample in family.samples
                if sample.name != "rollout_queue_oldest_seconds"
            }
        )

    assert found[0] == found[1]
    assert found[0]["rollout_jobs", ("model", "fake"), ("state", "queued")] == 1


def test_while_redis_is_away_the_rest_is_told(inventory, submit, worker):
    worker.succeed(submit(model="fake"))
    inventory.refresh()
    redis = redis_that_is_away()

    families = list(Readings(redis, inventory, Ledger(redis)).collect())

    assert [family.name for family in families] == [
        name.removesuffix("_total") for name in READ_AT_SCRAPE
    ]
    told = [sample for family in families for sample in family.samples]
    assert [(sample.labels["state"], sample.value) for sample in told] == [("succeeded", 1)]


def test_a_scrape_costs_a_few_calls_however_many_jobs_wait(readings, submit, redis, inventory):
    def commands():
        return redis.info("stats")["total_commands_processed"]

    def cost():
        list(readings.collect())
        before = commands()
        list(readings.collect())
        return commands() - before

    submit(model="fake")
    inventory.refresh()
    one = cost()
    for _ in range(30):
        submit(model="fake")
    inventory.refresh()

    assert cost() == one < 20
