"""Every fault of the crash table: the job ends exactly once, within the time limit."""

from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from tests.chaos.crash_table import Row, playing
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.watch import END_SECONDS

AT_ONCE = 4
RETRY_SECONDS = 12.0
"""How long after a fault the next attempt may start, besides two starts of a worker: a lease and a
search for expired ones, with a second to spare. Starts were measured before the fault, on a machine
just as busy."""


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[Fault, Future[Row]]]:
    with playing(FAULTS, AT_ONCE, forked=True) as rows:
        yield rows


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_job_ends_once_and_in_time(rows, fault):
    row = rows[fault].result()
    limit = RETRY_SECONDS + 2 * row.start_seconds
    assert row.retry_seconds is None or row.retry_seconds < limit, row
    assert row.ended_seconds < END_SECONDS, row
    assert row.seen, row
