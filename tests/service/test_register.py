from datetime import UTC, datetime

import pytest

from rollout_core.contract import ExplainRequest
from rollout_core.jobs.records import JobRecord, Ticket
from rollout_core.jobs.redis_records import job_key
from service.register import Register


@pytest.fixture
def register(redis):
    return Register(redis)


@pytest.fixture
def ticket():
    return Ticket(
        id="1" * 32,
        request=ExplainRequest(model="fake"),
        created_at=datetime.now(UTC),
        upload_bytes=1,
        owner="ann",
    )


def test_a_job_is_entered_once(register, ticket):
    assert register.enter(ticket)
    assert not register.enter(ticket)

    assert register.record(ticket.id) == JobRecord()
    assert register.delivery.waiting("fake") == 1
    assert register.list.owners() == {ticket.id: "ann"}
    assert list(register.recorded()) == [ticket.id]


def test_a_job_is_entered_after_the_attempts_that_it_has_seen(register, ticket):
    register.enter(ticket, 2)

    assert register.record(ticket.id) == JobRecord(attempt=2)


def test_of_two_who_enter_a_job_at_once_one_does(register, ticket, monkeypatch):
    add = register.delivery.add

    def enter_elsewhere_first(*arguments):
        monkeypatch.setattr(register.delivery, "add", add)
        assert register.enter(ticket)
        add(*arguments)

    monkeypatch.setattr(register.delivery, "add", enter_elsewhere_first)

    assert not register.enter(ticket)
    assert register.delivery.waiting("fake") == 1


def test_a_request_to_cancel_is_for_whoever_has_the_job(register, ticket):
    register.enter(ticket)

    assert register.request_cancel(ticket.id).cancel_requested
    assert register.record(ticket.id).cancel_requested


def test_a_request_to_cancel_brings_no_record_back(register, ticket, redis):
    assert register.request_cancel(ticket.id) == JobRecord()
    assert not redis.exists(job_key(ticket.id))


def test_a_job_that_has_ended_keeps_its_place(register, ticket):
    register.enter(ticket)

    register.close(ticket.id)

    assert register.record(ticket.id) is None
    assert register.list.owners() == {ticket.id: "ann"}


def test_a_job_that_is_gone_keeps_nothing(register, ticket):
    register.enter(ticket)

    register.strike(ticket.id, "ann")

    assert register.record(ticket.id) is None
    assert register.list.owners() == {}
