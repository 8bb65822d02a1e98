"""The simulation runs, and what it counts stays within what docs/scaling.md says."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.benchmarks.redis_replies import build, private_redis
from tests.benchmarks.scaling import gauges, inputs, report
from tests.benchmarks.scaling.__main__ import RESULTS
from tests.benchmarks.scaling.counted import read_counts
from tests.benchmarks.scaling.formulas import Inputs, Site
from tests.benchmarks.scaling.simulation import Scenario, simulate
from tests.worker.file_calls import file_calls

SLACK = 1.3
"""Counts may exceed what is documented by so much: they are taken for seconds, beside upkeep."""


@pytest.fixture(scope="module")
def found():
    return json.loads((RESULTS / "scaling.json").read_text())


def test_a_small_site_needs_no_more_of_redis_than_is_documented(found):
    outcome = simulate(Scenario(workers=4, job_seconds=0.5, clients=5, measured_seconds=4))

    assert outcome.jobs > 0
    assert not outcome.refused
    assert {"worker: beat", "worker: claim", "worker: end", "poll"} <= set(outcome.milliseconds)
    busy = outcome.jobs * 0.5
    site = Site(busy, 0.5, upload=False, idle_workers=4 - busy)
    documented = Inputs(found).commands(site)
    assert documented / 4 < outcome.all_commands < SLACK * documented


def test_a_call_needs_no_more_of_redis_and_of_the_store_than_is_documented(found, tmp_path):
    each, files = found["costs"]["figures"]["each"], found["files"]["figures"]
    with private_redis() as redis:
        calls = build(tmp_path, redis)
        calls.announce()
        jobs = [calls.submit(), calls.submit()]
        for name, call in {
            "submit, form": lambda: jobs.append(calls.submit()),
            "poll, waits": lambda: calls.get(jobs[-1]),
        }.items():
            touched: list[str] = []
            before = gauges.read_use(redis)
            with file_calls(tmp_path, touched.append):
                call()
            spent = gauges.read_use(redis).since(before)
            assert 0 < spent.all_commands <= sum(each[name]["commands"].values())
            assert 0 < len(touched) <= SLACK * sum(files[name]["API"].values())


def test_the_page_and_the_results_have_the_figures_that_are_kept(found):
    page = report.PAGE.read_text()
    assert report.fill(page, found) == page
    assert (RESULTS / "scaling.md").read_text() == report.describe(found)


def test_use_is_what_was_added_since():
    before = gauges.Use(1.0, Counter(get=1), {"get": 0.5}, 1.0, {"api": 2.0}, {"api": Counter(a=1)})
    after = gauges.Use(3.0, Counter(get=4), {"get": 0.75}, 1.5, {"api": 2.5}, {"api": Counter(a=3)})

    spent = after.since(before)

    assert (spent.seconds, spent.all_commands, spent.redis_seconds) == (2.0, 3, 0.5)
    assert spent.command_seconds == {"get": 0.25}
    assert spent.cpu_seconds == {"api": 0.5}
    assert spent.calls == {"api": Counter(a=2)}


def test_quantiles():
    assert gauges.quantile([], 0.5) == 0
    assert gauges.quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert gauges.quantile([3.0, 1.0, 2.0], 0.99) == 3.0


def test_the_background_does_not_count_as_the_cost_of_a_call():
    use = gauges.Use(2.0, Counter(get=10), {}, 0.0, {"api": 0.5}, {"api": Counter(stat=8)})
    background = inputs.Cost(commands={"get": 1.0, "set": 9.0}, api_ms=50.0, api_files={"stat": 1})

    cost = inputs._without(use, background, 4)

    assert cost.commands == {"get": 2.0}  # (10 - 2 · 1) / 4
    assert cost.api_ms == 100.0  # (500 - 2 · 50) / 4
    assert cost.api_files == {"stat": 1.5}


def test_the_formulas_by_hand():
    def cost(commands, api_ms):
        return {"commands": {"get": commands}, "api_ms": api_ms}

    each = {
        "submit, JSON": cost(10, 20),
        "submit, form": cost(12, 25),
        "a job in its worker": cost(100, 5),
        "busy worker, a second": cost(7, 0),
        "idle API, a second": cost(1, 3),
        "idle worker, a second": cost(5, 0),
        "result.json": cost(0, 1),
        "rollout.npz": cost(0, 2),
        "poll, waits": cost(4, 8),
        "poll, runs": cost(2, 6),
        "poll, ended": cost(1, 4),
    }
    following = {
        "events of a job, a second": cost(0.5, 1),
        "wait for a job, a second": cost(0, 0.5),
    }
    run = {"commands": {"get": 100.0}, "redis_share": 0.01}
    # without another one 1 ms; then 2 ms, and 10 µs for each that waits: 2 µs for each that runs
    times = ((0, 1.0), (100, 4.0), (1000, 13.0))
    order = [{"waiting": n, "running": 1000, "redis_ms": spent} for n, spent in times]
    found = Inputs(
        {
            "costs": {"figures": {"each": each, "upload MB a core second": 44.0}},
            "following": {"figures": following},
            "growth": {"figures": {"to queue a job": order}},
            "files": {"figures": {"submit, JSON": {"API": {"stat": 3}, "worker": {}}}},
            "simulation": {"figures": [run]},
        }
    )
    site = Site(
        workers=8, job_seconds=4, upload=False
    )  # 2 jobs a second, each polled 2 + 2 + 1 times

    assert found.commands(site) == 2 * (10 + 100 + 2 * 4 + 2 * 2 + 1) + 8 * 7 + 1
    ordered = 2 * 8 * (10e-6 + 2e-6)  # 8 jobs wait, 8 run
    assert found.redis_cores(site) == pytest.approx(303 * 1e-4 + ordered)
    prompt = Site(workers=8, job_seconds=4, upload=False, wait_seconds=0)
    assert found.redis_cores(prompt) == pytest.approx((303 - 2 * 2 * 4) * 1e-4)
    assert Site(workers=2000, job_seconds=1).waiting == 1000
    resting = Site(workers=8, job_seconds=4, upload=False, idle_workers=3)
    assert found.commands(resting) == 303 + 3 * 5
    assert found.api_cores(site) == pytest.approx(2 * (20 + 5 + 3 + 16 + 12 + 4) / 1e3 + 0.003)
    assert found.file_calls(site) == 2 * 3
    followed = Site(workers=8, job_seconds=4, follow="events")
    uploaded = 4.4 / 44
    expected = 2 * (0.025 + uploaded + 0.005 + 0.003 + 0.008 + 8 * 0.001) + 0.003
    assert found.api_cores(followed) == pytest.approx(expected)
    waited = Site(workers=8, job_seconds=4, follow="wait")
    assert found.api_cores(waited) == pytest.approx(expected - 2 * 8 * 0.0005)
    most = found.largest(4, 1.0, of="api_cores", upload=False)
    assert found.api_cores(Site(most, 4, upload=False)) <= 1
    assert found.api_cores(Site(most + 1, 4, upload=False)) > 1


def test_the_file_calls_of_a_program_are_counted(tmp_path):
    data, program, counts = tmp_path / "data", tmp_path / "program.py", tmp_path / "counts"
    data.mkdir()
    program.write_text(
        "import pathlib, sys, time\n"
        "pathlib.Path(sys.argv[1], 'a').mkdir()\n"
        "pathlib.Path(sys.argv[1]).parent.joinpath('b').mkdir()\n"
        "time.sleep(0.3)\n"
    )
    module = ("-m", "tests.benchmarks.scaling.counted", str(counts), str(data))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    subprocess.run([sys.executable, *module, "program", str(data)], env=environment, check=True)

    assert (tmp_path / "b").is_dir()
    assert read_counts(counts) == Counter(mkdir=1)
