"""Writes what was measured: as Markdown, and as tables and the plot of docs/scaling.md."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.scaling import plot
from tests.benchmarks.scaling.formulas import BASE_SECONDS, SMALL_SECONDS, Inputs, Site
from tests.benchmarks.suite.tables import markdown, number

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "scaling.md"
IMAGE = ROOT / "docs" / "images" / "scaling.svg"

BLOCK = re.compile(r"(<!-- scaling: (?P<name>[a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)
"""A part of the page that is written here: the name of a table."""

GPUS = (1, 10, 100, 1000)
MODELS = {"small": SMALL_SECONDS, "base": BASE_SECONDS}
HEAVIEST = 4
"""Commands that a row names."""

Found = Mapping[str, Any]
Row = Mapping[str, Any]


def write(found: Found, results: Path, page: Path = PAGE, image: Path = IMAGE) -> None:
    """Write the results, and the parts of the page; all sections must have been measured."""
    results.write_text(describe(found))
    if page.exists():
        page.write_text(fill(page.read_text(), found))
    plot.draw(Inputs(found), image)


def describe(found: Found) -> str:
    """Return the results as Markdown."""
    parts = ["# Scaling", "", "    python -m tests.benchmarks.scaling", "", _machine(found), ""]
    for title, name in TITLES.items():
        parts += [f"## {title}", "", TABLES[name](found), ""]
    return "\n".join(parts).rstrip() + "\n"


def fill(page: str, found: Found) -> str:
    """Return the page with the parts between the markers replaced."""

    def replace(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        return f"{begin}\n{TABLES[name](found)}\n\n{end}"

    return BLOCK.sub(replace, page)


def _machine(found: Found) -> str:
    named = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    loads = "; ".join(
        f"{name} {found[name]['date']}, load {found[name]['load before and after'][0]} before, "
        f"{found[name]['load before and after'][1]} after"
        for name in TITLES.values()
        if name in found
    )
    return (
        f"Machine: {named}, busy with other work meanwhile. Processor times compare, seconds on "
        f"the clock do not. {loads}."
    )


def _costs(found: Found) -> str:
    """Return what each kind of call, job or second costs."""
    rows = []
    each = found["costs"]["figures"]["each"] | found["following"]["figures"]
    for name, cost in each.items():
        commands = sorted(cost["commands"].items(), key=lambda item: -item[1])
        rows.append(
            {
                "what": name,
                "commands of Redis": float(sum(count for _, count in commands)),
                "most of them": ", ".join(
                    f"{command.upper()} {number(float(count))}"
                    for command, count in commands[:HEAVIEST]
                    if count >= 0.05
                )
                or None,
                "API, ms of a core": cost["api_ms"],
            }
        )
    held, received = (
        found["costs"]["figures"][key] for key in ("Redis bytes", "upload MB a core second")
    )
    return markdown(rows) + (
        f"\n\n- Bytes in Redis: {number(held['waiting job'])} for a job that waits, "
        f"{number(max(0.0, held['ended job']))} for one that has ended, "
        f"{held['announcement']} for what a worker announces.\n"
        f"- The API receives {number(received)} MB of a video in a second of a core."
    )


def _files(found: Found) -> str:
    """Return the file calls of each kind of call or job."""
    rows = []
    for name, calls in found["files"]["figures"].items():
        if name.endswith("a second"):
            continue
        kinds = {
            "read": ("read", "stat", "lstat", "access", "readlink", "statvfs"),
            "list": ("listdir", "scandir"),
            "write": ("open", "link", "chmod", "utime", "truncate", "symlink", "ftruncate"),
            "make, rename, remove": ("mkdir", "rename", "replace", "unlink", "remove", "rmdir"),
            "flush": ("fsync", "fdatasync"),
        }
        both = {
            kind: sum(calls[who].get(n, 0.0) for who in calls for n in names)
            for kind, names in kinds.items()
        }
        total = {who: float(sum(calls[who].values())) for who in calls}
        rows.append({"what": name} | total | both)
    return markdown(rows)


def _requests(found: Found) -> str:
    """Return the requests to a bucket of each kind of call, of a job and of an idle second."""
    kinds = ("get", "list", "put", "copy", "delete")
    rows = []
    for name, calls in found["requests"]["figures"].items():
        total = {who: float(sum(calls[who].values())) for who in calls}
        each = {kind: sum(calls[who].get(kind, 0.0) for who in calls) for kind in kinds}
        rows.append({"what": name} | total | each)
    return markdown(rows)


def _crowded(found: Found) -> str:
    """Return what calls cost the API, by the number of workers that have announced themselves."""
    figures = found["crowded"]["figures"]
    names = list(next(iter(figures.values())))
    return markdown(
        [
            {"workers": f"{int(workers):,}"}
            | {f"{name}, ms": figures[workers][name]["api_ms"] for name in names}
            for workers in sorted(figures, key=int)
        ]
    )


def _order(found: Found) -> str:
    """Return what it costs Redis to queue a job."""
    return markdown(
        [
            {
                "jobs that wait": row["waiting"],
                "jobs that run": row["running"],
                "Redis, ms of a core": row["redis_ms"],
                "at most, jobs a second": 1e3 / row["redis_ms"],
            }
            for row in found["growth"]["figures"]["to queue a job"]
        ]
    )


def _reconcile(found: Found) -> str:
    """Return what a reconcile pass costs."""
    return markdown(
        [
            {"open jobs": row["open"], "API, ms of a core": row["api"], "Redis, ms": row["redis"]}
            for row in found["growth"]["figures"]["reconcile"]
        ]
    )


def _simulation(found: Found) -> str:
    """Return what the simulated sites used."""
    inputs, rows = Inputs(found), []
    for run in found["simulation"]["figures"]:
        scenario, times = run["scenario"], run["milliseconds"]
        commands = sum(run["commands"].values())
        busy = min(scenario["workers"], run["jobs"] * scenario["job_seconds"])
        site = Site(
            busy,
            busy / run["jobs"],
            follow=scenario["follow"],
            upload=False,
            wait_seconds=(scenario["clients"] - scenario["workers"]) / run["jobs"],
            idle_workers=scenario["workers"] - busy,
        )
        rows.append(
            {
                "workers": scenario["workers"],
                "jobs": f"{scenario['job_seconds']:g} s, {scenario['follow']}",
                "jobs/s": run["jobs"],
                "commands/s": commands,
                "by formula": inputs.commands(site),
                "Redis": f"{run['redis_share']:.1%}",
                "API": f"{run['api_share']:.0%}",
                "API by formula": f"{inputs.api_cores(site):.0%}",
                "beat, ms": _pair(times.get("worker: beat")),
                "claim, ms": _pair(times.get("worker: claim")),
                "submit, ms": _pair(times.get("submit")),
                "connections": run["connections"],
                "Redis, MB": run["redis_bytes"] / 1e6,
                "reconcile, ms": 1e3 * run["reconcile_seconds"],
                "scrape": f"{run['scrape_seconds']:.2f} s, {run['scrape_bytes'] / 1e3:,.0f} kB",
                "refused": sum(run["refused"].values()),
                "load": run["load"],
            }
        )
    return markdown(rows) + (
        "\n\n- Redis and API: processor time, of one core. Beat, claim and submit: median / 99th "
        "percentile on the clock, of threads that share two cores.\n"
        "- By formula: what the formulas say of the jobs that were done.\n"
        "- Refused: answers that a client did not expect, and calls that timed out. Load: of the "
        "machine, at the end of the row: not all rows are of one run."
    )


def _sites(found: Found) -> str:
    """Return what sites of several sizes need."""
    inputs, rows = Inputs(found), []
    for model, seconds in MODELS.items():
        for gpus in GPUS:
            polled = Site(gpus, seconds)
            followed = Site(gpus, seconds, follow="wait")
            rows.append(
                {
                    "GPUs": f"{gpus:,}",
                    "model": f"{model}, {seconds:g} s",
                    "jobs/s": polled.jobs,
                    "API cores, polled": inputs.api_cores(polled),
                    "API cores, `?wait=`": inputs.api_cores(followed),
                    "commands/s": inputs.commands(followed),
                    "Redis cores": inputs.redis_cores(followed),
                    "file calls/s": inputs.file_calls(followed),
                    "uploads, MB/s": 4.4 * polled.jobs,
                }
            )
    return markdown(rows)


def _breaks(found: Found) -> str:
    """Return at how many GPUs a part is full."""
    inputs, rows = Inputs(found), []
    for what, of, options in (
        ("one API process, clients poll", "api_cores", {}),
        ("one API process, clients ask with `?wait=`", "api_cores", {"follow": "wait"}),
        ("one Redis, clients ask with `?wait=`", "redis_cores", {"follow": "wait"}),
        ("one Redis, and no job waits", "redis_cores", {"follow": "wait", "wait_seconds": 0.0}),
    ):
        sizes = {
            f"{model}, {seconds:g} s a job": f"{inputs.largest(seconds, 1.0, of=of, **options):,}"
            for model, seconds in MODELS.items()
        }
        rows.append({"full": what} | sizes)
    return markdown(rows)


def _formulas(found: Found) -> str:
    """Return the formulas with their numbers."""
    inputs = Inputs(found)
    command = {name: inputs.commands_of(name) for name in found["costs"]["figures"]["each"]}
    job = command["submit, form"] + command["a job in its worker"]
    busy, idle = command["busy worker, a second"], command["idle worker, a second"]
    polls = f"{number(command['poll, waits'])} · polls/s of jobs that wait"
    return (
        f"    commands/s  =  {number(job)} · jobs/s  +  {number(busy)} · busy workers  +  "
        f"{number(idle)} · idle workers  +  {polls}  +  "
        f"{number(command['poll, runs'])} · polls/s of jobs that run\n"
        f"    Redis cores =  {1e6 * inputs.command_seconds:.0f} µs · commands/s  +  jobs/s · "
        f"({1e6 * inputs.order_per_running:.1f} µs · jobs that run  +  "
        f"{1e6 * inputs.order_per_waiting:.1f} µs · jobs that wait)"
    )


def _pair(times: list[float] | None) -> str | None:
    return f"{number(times[0])} / {number(times[1])}" if times else None


TABLES: dict[str, Callable[[Found], str]] = {
    "costs": _costs,
    "files": _files,
    "requests": _requests,
    "crowded": _crowded,
    "order": _order,
    "growth": lambda found: f"{_order(found)}\n\n{_reconcile(found)}",
    "reconcile": _reconcile,
    "simulation": _simulation,
    "sites": _sites,
    "breaks": _breaks,
    "formulas": _formulas,
}

TITLES = {
    "What a job, a call and a second cost": "costs",
    "File calls below the data directory": "files",
    "Requests to a bucket": "requests",
    "What calls cost beside many workers": "crowded",
    "What grows with the jobs": "growth",
    "The simulation": "simulation",
}
