import sys

import pytest

from tests.load.gauge import Gauge
from tests.system.processes import Process
from tests.system.waiting import wait_until

GROW = """
import sys, time
from pathlib import Path

while not Path(sys.argv[1]).exists():
    time.sleep(0.05)
held = bytearray(64 << 20)
time.sleep(600)
"""


@pytest.fixture
def signal_path(tmp_path):
    return tmp_path / "signal_path"


@pytest.fixture
def growing(tmp_path, signal_path):
    command = [sys.executable, "-c", GROW, str(signal_path)]
    process = Process("growing", lambda: command, tmp_path / "log")
    yield process
    process.take_down()


def test_growth_of_a_process_is_measured(growing, signal_path):
    gauge = Gauge({"growing": growing})
    with gauge.watching():
        samples = gauge.samples["growing"]
        wait_until(lambda: len(samples) >= 2, what="samples")
        signal_path.touch()
        wait_until(lambda: samples[-1] - samples[0] > 60 << 20, what="the process to grow")


@pytest.mark.parametrize(
    ("begin", "end", "held"), [(0.2, 0.8, 2), (0, 0.2, 9), (0.8, 1, 8), (0.9, 1, 8), (0, 0, 9)]
)
def test_the_memory_of_a_part_of_a_run_is_its_median(begin, end, held):
    gauge = Gauge({"it": None})
    gauge.samples["it"] = [9, 1, 5, 2, 8]
    assert gauge.resident_bytes("it", begin, end) == held
