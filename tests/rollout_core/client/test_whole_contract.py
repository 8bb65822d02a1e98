"""Both clients against the real API: events, waiting, repeated calls and answers at once."""

import time
import uuid

import pytest

from tests.rollout_core.client.conftest import kill_when


@pytest.fixture
def client(open_client, system):
    return open_client(str(system.client.base_url))


def test_a_create_whose_api_was_killed_makes_one_job(patient_client, api, film):
    """Killed at different moments of a create: before, while, and after the job is made."""
    tags = []
    for delay_seconds in (0.0, 0.02, 0.16):
        tag = uuid.uuid4().hex
        begun = time.monotonic()
        killer = kill_when(api, lambda at=begun + delay_seconds: time.monotonic() >= at)
        job = patient_client.submit(film, model="fake", tag=tag, reuse=False)
        killer.join()
        tags.append((tag, job.id))
    for tag, job_id in tags:
        assert [job.id for job in patient_client.list(tag=tag)] == [job_id]
        assert patient_client.wait(job_id).state == "succeeded"


def test_events_come_from_a_stream_and_tell_the_stages(client, film):
    events = list(client.events(client.submit(film, model="fake", clips="tile", reuse=False)))
    assert events[-1].kind == "end"
    assert events[-1].job.state == "succeeded"
    assert {event.kind for event in events} <= {"state", "progress", "end"}


def test_waiting_with_a_timeout_uses_the_services_own_waiting(client, film, system):
    job = client.submit(film, model="fake", reuse=False)
    answer = system.client.get(f"/v1/jobs/{job.id}", headers={"Prefer": "wait=5"})
    assert "preference-applied" in answer.headers
    assert client.wait(job, timeout_seconds=30).state == "succeeded"


def test_an_equal_question_is_answered_at_once(client, film, kind):
    question = {"model": "fake", "discard_ratio": {"blocking": 0.25, "async": 0.5}[kind]}
    upload = client.upload(film)
    first = client.explain(upload, **question)
    again = client.submit(upload, **question)
    assert (again.state, again.reused_from) == ("succeeded", first.id)
