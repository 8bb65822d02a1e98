"""Whatever dies, and whenever: the job ends, once, and soon."""

from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from tests.chaos.crash_table import Row, playing
from tests.chaos.faults import SCENES, Fault
from tests.chaos.watch import END_SECONDS

AT_ONCE = 4
AGAIN_SECONDS = 15.0
"""How long it may take until a job whose attempt died is tried again."""


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[Fault, Future[Row]]]:
    with playing(SCENES, AT_ONCE) as rows:
        yield rows


@pytest.mark.parametrize("fault", SCENES, ids=lambda fault: fault.name)
def test_the_job_ends_once_and_soon(rows, fault):
    row = rows[fault].result()
    assert row.again_seconds is None or row.again_seconds < AGAIN_SECONDS, row
    assert row.ended_seconds < END_SECONDS, row
    assert row.seen, row
