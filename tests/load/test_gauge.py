import sys

import pytest

from tests.house.house import wait_until
from tests.house.processes import Process
from tests.load.gauge import Gauge, Sample

GROW = "import time; time.sleep(3); held = bytearray(64 << 20); time.sleep(600)"


@pytest.fixture
def growing(tmp_path):
    process = Process("growing", lambda: [sys.executable, "-c", GROW], tmp_path / "log")
    yield process
    process.take_down()


def test_sees_a_process_grow(growing):
    gauge = Gauge({"growing": growing})
    with gauge.watching():
        wait_until(lambda: len(gauge.samples["growing"]) >= 6, 20, "samples")
    samples = gauge.samples["growing"]
    assert samples[-1].resident_bytes - samples[0].resident_bytes > 60 << 20
    assert [sample.open_files for sample in samples] == [3] * len(samples)


def test_the_memory_of_a_span_is_its_median():
    gauge = Gauge({"it": None})
    gauge.samples["it"] = [Sample(at, held, 1) for at, held in enumerate((9, 1, 5, 2, 9))]
    assert gauge.resident_bytes("it", since=1, until=3) == 2
