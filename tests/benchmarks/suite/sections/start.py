"""How long each process takes from its start until it is ready."""

import os
import sys
from functools import partial
from pathlib import Path
from statistics import median
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory
from time import monotonic, sleep

from rollout_core.testing.fake_service import running_fake
from tests.benchmarks.suite.processes import MEBIBYTE, proportional_bytes, tree
from tests.benchmarks.suite.section import Row, Scale, Section, Settings, Table
from tests.benchmarks.suite.service import Served, ready_workers, start_worker
from tests.benchmarks.suite.timing import Seconds, Timing, measured
from tests.system.processes import ROOT
from tests.system.system import System, open_system
from tests.system.waiting import wait_until

MODELS: dict[Scale, str] = {"full": "moving-things", "quick": "moving-things", "tiny": "fake"}

ENGINE = """
from worker.messages import EngineOptions
from worker.{kind}_engine import load
load(EngineOptions(model="{model}"))
"""
BARE, TORCH, WORKER = "bare interpreter", "`import torch`", "worker: announced"
STOP_SECONDS = 30


def run(settings: Settings) -> Section:
    """Time the start of every process in turn, and of the fake service of the pytest plugin."""
    model = MODELS[settings.scale]
    kind = "fake" if Served(model).is_fake else "torch"
    programs = {
        BARE: "",
        TORCH: "import torch",
        "media: imported": "import worker.media",
        "engine: loaded": ENGINE.format(kind=kind, model=model),
    }
    with open_system() as system:
        system.api()
        timers = {name: partial(time_program, code) for name, code in programs.items()}
        timers["service: answers"] = partial(time_service, system)
        timers[WORKER] = partial(time_worker, system, Served(model))
        found = measured(timers, settings.rounds, settings.warm_ups)
    fakes = [measure_fake() for _ in range(settings.rounds)]
    return Section(
        tables=[
            Table(f"From the start of a process until it is ready, model `{model}`", rows(found)),
            Table(
                "The fake service of the pytest plugin, median",
                [{name: median(fake[name] for fake in fakes) for name in fakes[0]}],
            ),
        ],
        figures={f"{name}, s": timing.seconds for name, timing in found.items()},
        notes=[
            "Baselines: an interpreter that does nothing, and one that imports torch. The worker "
            "is ready when the API lists its model. Memory is the proportional set size of all "
            "processes before the first job.",
        ],
    )


def rows(found: dict[str, Timing]) -> list[Row]:
    """Return the times, and the ratio to each baseline."""
    return [
        {
            "what": name,
            "time, s": timing.seconds,
            "× bare interpreter": timing.over(found[BARE]),
            "× `import torch`": timing.over(found[TORCH]),
        }
        for name, timing in found.items()
    ]


def time_program(code: str) -> Seconds:
    """Time a new interpreter until its code is done."""
    began = monotonic()
    command = [sys.executable, "-c", f"{code}\nprint('ready', flush=True)"]
    with Popen(command, cwd=ROOT, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        wall = monotonic() - began
        process.kill()
    if not line:
        raise RuntimeError(f"the program ended too early: {code}")
    return Seconds(wall, 0)


def time_service(system: System) -> Seconds:
    """Time a further API until it answers; stop it."""
    began = monotonic()
    process = system.api()
    wall = monotonic() - began
    process.stop()
    return Seconds(wall, 0)


def time_worker(system: System, served: Served) -> Seconds:
    """Time a worker until the API lists its model as ready; stop it."""
    began = monotonic()
    process = start_worker(system, served)
    system.await_models(served.model)
    wall = monotonic() - began
    process.stop()
    wait_until(lambda: served.model not in ready_workers(system), STOP_SECONDS, "the worker's end")
    return Seconds(wall, 0)


def measure_fake() -> dict[str, float]:
    """Start and stop the fake service of the pytest plugin once."""
    with TemporaryDirectory(prefix="fake-") as folder:
        began = monotonic()
        with running_fake(Path(folder)) as service:
            ready = monotonic() - began
            sleep(1)  # all its processes have started
            pids = [pid for pid in tree(os.getpid()) if pid != os.getpid()]
            memory = sum(map(proportional_bytes, pids)) / MEBIBYTE
            assert service.api.get("/readyz").status == 200
            stops = monotonic()
        return {
            "ready, s": ready,
            "stopped, s": monotonic() - stops,
            "processes": len(pids),
            "memory, MiB": memory,
        }
