"""Webhooks of real processes: an API that is killed, and a Redis that loses its data."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.webhook_secrets import make_secret
from tests.system.processes import Process
from tests.system.system import System, open_system
from tests.system.waiting import wait_until
from tests.system.webhook_receiver import Receiver, running_receiver

SECRET = make_secret()
SHORT_LEASE = ("tests.system.constants", "service.deliveries:LEASE_SECONDS=3")
"""Runs an API that, when killed, lets others send its event after three seconds."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture
def flags(tmp_path: Path) -> tuple[str, ...]:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    return ("--private-hosts", "127.0.0.1", "--webhook-secret-file", str(path))


@pytest.fixture
def own_system() -> Iterator[System]:
    """A system of this test alone, whose worker is ready once an API is started."""
    with open_system(forked=True) as system:
        system.worker(model="fake")
        yield system


def halting(system: System, flags: tuple[str, ...], when: str, point: str) -> Process:
    breakpoint_ = ("tests.system.breakpoints", when, point, str(system.mark("reached")))
    under = (*SHORT_LEASE, *breakpoint_)
    return system.api(*flags, under=under)


def submit(system: System, video: bytes, receiver: Receiver) -> str:
    system.await_models("fake")
    return system.accepted(video, webhook={"url": receiver.url})


def delivery(system: System, job_id: str) -> dict:
    def delivered() -> list:
        found = system.client.get(f"/v1/jobs/{job_id}/deliveries").json()["deliveries"]
        return [item for item in found if item["state"] == "delivered"]

    return wait_until(delivered, 60, "the delivery")[0]


@pytest.mark.parametrize("redis_is_lost", [False, True])
def test_api_killed_between_sending_and_noting_sends_again_with_the_same_id(
    own_system, flags, video, receiver, redis_is_lost
):
    point = "service.delivery_store:DeliveryStore.update"
    api = halting(own_system, flags, "before", point)
    job_id = submit(own_system, video, receiver)
    wait_until(own_system.mark("reached").exists)
    assert len(receiver.delivered) == 1
    api.take_down()
    if redis_is_lost:
        own_system.forget_everything()
    api.bring_up()
    wait_until(lambda: len(receiver.delivered) == 2, 60, "the second delivery")

    assert receiver.delivered[0].id == receiver.delivered[1].id
    events = [item.verify(SECRET) for item in receiver.delivered]
    assert events[0] == events[1]
    assert (events[0]["type"], events[0]["data"]["id"]) == ("job.succeeded", job_id)
    assert delivery(own_system, job_id)["webhook_id"] == receiver.delivered[0].id
    time.sleep(1.5)
    assert len(receiver.delivered) == 2


@pytest.mark.parametrize("redis_is_lost", [False, True])
def test_api_killed_between_the_end_and_the_first_attempt_delivers_once(
    own_system, flags, video, receiver, redis_is_lost
):
    api = halting(own_system, flags, "before", "service.deliveries:Deliverer._take_lease")
    job_id = submit(own_system, video, receiver)
    wait_until(own_system.mark("reached").exists)
    api.take_down()
    assert receiver.delivered == []
    if redis_is_lost:
        own_system.forget_everything()
    api.bring_up()
    wait_until(lambda: receiver.delivered, 60, "the delivery")

    assert receiver.delivered[0].verify(SECRET)["data"]["id"] == job_id
    assert delivery(own_system, job_id)["state"] == "delivered"
    time.sleep(1.5)
    assert len(receiver.delivered) == 1


def test_job_ended_while_no_api_ran_is_delivered(own_system, flags, video, receiver):
    api = own_system.api(*flags)
    job_id = submit(own_system, video, receiver)
    api.take_down()
    wait_until(lambda: (own_system.data_dir / "jobs" / job_id / "result").exists())
    time.sleep(1)
    api.bring_up()
    wait_until(lambda: receiver.delivered, 60, "the delivery")

    assert receiver.delivered[0].verify(SECRET)["data"]["id"] == job_id


def test_two_apis_and_a_worker_deliver_each_event_once(own_system, flags, video, receiver):
    own_system.api(*flags)
    own_system.api(*flags)
    ids = {submit(own_system, video, receiver) for _ in range(4)}
    for job_id in ids:
        delivery(own_system, job_id)
    time.sleep(1.5)

    assert sorted(item.verify(SECRET)["data"]["id"] for item in receiver.delivered) == sorted(ids)
