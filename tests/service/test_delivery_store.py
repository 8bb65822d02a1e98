import os
import time

import pytest

from rollout_core.errors import UnknownFormat
from rollout_core.jobs.schemas import DeliveryAttempt
from service.delivery_store import ORPHAN_SECONDS, DeliveryStore, StoredDelivery, webhook_id


@pytest.fixture
def deliveries(store):
    return DeliveryStore(store)


@pytest.fixture
def expected(deliveries, accept):
    """Return the id of a job whose webhook is pending."""
    ticket = accept(1)
    deliveries.expect(ticket.id)
    return ticket.id


@pytest.fixture
def attempted(deliveries, expected):
    """Return the delivery after one attempt, as it is written in each state."""
    attempt = DeliveryAttempt.model_validate(
        {"at": "2026-01-01T00:00:00Z", "status": 204, "error": None, "duration_seconds": 0.5}
    )

    def write(state):
        found = StoredDelivery(job=expected, state=state, attempts=(attempt,))
        deliveries.update(found)
        return found

    return write


def age(store, seconds=2 * ORPHAN_SECONDS):
    for path in (store.root / "webhooks").rglob("*.json"):
        os.utime(path, (time.time() - seconds,) * 2)


def test_expected_delivery_is_pending(deliveries, expected):
    found = deliveries.pending(expected)
    assert (found.job, found.state, found.attempts) == (expected, "pending", ())
    assert deliveries.get(expected) == found
    assert deliveries.pending_ids() == (expected,)


def test_a_second_call_with_the_same_key_keeps_the_attempts(deliveries, expected, attempted):
    found = attempted("pending")

    deliveries.expect(expected)

    assert deliveries.pending(expected) == found


def test_what_is_done_is_not_pending_again(deliveries, expected, attempted):
    done = attempted("delivered")

    deliveries.expect(expected)

    assert deliveries.pending(expected) is None
    assert deliveries.get(expected) == done
    assert deliveries.pending_ids() == ()


def test_other_jobs_have_none(deliveries):
    assert deliveries.pending("b" * 32) is deliveries.get("b" * 32) is None


@pytest.mark.parametrize("state", ["delivered", "failed"])
def test_delivery_that_is_done_is_kept_but_not_pending(deliveries, expected, attempted, state):
    done = attempted(state)
    assert deliveries.pending(expected) is None
    assert deliveries.get(expected) == done
    assert deliveries.pending_ids() == ()


def test_update_of_a_deleted_job_leaves_nothing(deliveries, expected, store):
    found = deliveries.pending(expected)
    store.delete(expected)
    deliveries.delete(expected)
    deliveries.update(found)
    assert deliveries.get(expected) is None


def test_new_names_are_seen_though_the_clock_of_the_folder_is_coarse(deliveries, accept, store):
    folder = store.root / "webhooks" / "pending"
    for number in range(3):
        ticket = accept(number)
        deliveries.expect(ticket.id)
        os.utime(folder, (1e9, 1e9) if number == 2 else None)
        assert len(deliveries.pending_ids()) == number + 1


def test_unchanged_folder_is_not_read_again(deliveries, expected, store, monkeypatch):
    os.utime(store.root / "webhooks" / "pending", (time.time() - 60,) * 2)
    assert deliveries.pending_ids() == (expected,)
    monkeypatch.setattr(os, "listdir", None)
    assert deliveries.pending_ids() == (expected,)


def test_orphans_are_removed_once_they_are_old(deliveries, expected, store):
    orphan = "c" * 32
    deliveries.expect(orphan)
    deliveries.remove_orphans()
    assert deliveries.pending(orphan)
    age(store)
    deliveries.remove_orphans()
    assert deliveries.pending(orphan) is None
    assert deliveries.pending(expected)


def test_damaged_file_is_an_error(deliveries, store):
    deliveries.expect("d" * 32)
    (store.root / "webhooks" / "pending" / f"{'d' * 32}.json").write_text("[]")
    with pytest.raises(UnknownFormat):
        deliveries.pending("d" * 32)


def test_folders_are_private(deliveries, store):
    deliveries.expect("d" * 32)
    for folder in (store.root / "webhooks", *(store.root / "webhooks").iterdir()):
        assert folder.stat().st_mode & 0o077 == 0


def test_event_id_depends_on_job_and_event_alone():
    assert webhook_id("a" * 32, "job.failed") == f"msg_{'a' * 32}_failed"
