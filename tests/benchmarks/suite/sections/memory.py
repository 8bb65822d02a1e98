"""The peak memory of each process while it explains short and long videos."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.benchmarks.suite.films import SIZES, Size, make_film, repeat_film
from tests.benchmarks.suite.processes import MEBIBYTE, command_line, watching_peaks
from tests.benchmarks.suite.section import Row, Scale, Section, Settings, Table
from tests.benchmarks.suite.service import Served, run_job, serving

KINDS = ("API", "supervisor", "engine", "media")


class Plan(NamedTuple):
    """A film, how often it is repeated in each video, and who explains it."""

    size: Size
    seconds: float
    repeats: tuple[int, ...]
    model: str


PLANS: dict[Scale, Plan] = {
    "full": Plan(SIZES["720p"], 10, (1, 6, 60), "moving-things"),
    "quick": Plan(SIZES["720p"], 4, (1, 6), "moving-things"),
    "tiny": Plan(Size(160, 96), 1, (1, 2), "fake"),
}


def run(settings: Settings) -> Section:
    """Explain each video, tiled, with an overlay."""
    plan = PLANS[settings.scale]
    rows: list[Row] = []
    with TemporaryDirectory() as name, serving([Served(plan.model)]) as system:
        folder = Path(name)
        film = make_film(folder / "film.mp4", plan.size, plan.seconds)
        run_job(system, film.read_bytes(), plan.model)  # imports and buffers count in no row
        pids = [process.pid for process in system.processes]
        for repeats in plan.repeats:
            video = repeat_film(film, folder / "video.mp4", repeats).read_bytes()
            with watching_peaks(pids, kind_of) as peaks:
                run_job(system, video, plan.model, clips="tile")
            seconds = plan.seconds * repeats
            rows.append({"seconds": seconds} | {kind: peaks[kind] / MEBIBYTE for kind in KINDS})
    return Section(
        tables=[Table("Peak resident memory in MiB, by the length of the video", rows)],
        figures={f"{row['seconds']:g} s: {kind}, MiB": row[kind] for row in rows for kind in KINDS}
        | {"longest / shortest": max(rows[-1][kind] / rows[0][kind] for kind in KINDS)},
        notes=[
            f"{plan.size.height} lines, tiled, with an overlay, model `{plan.model}`. The longer "
            "videos repeat the first. Baseline: the shortest video.",
            "Resident memory includes pages that processes share.",
        ],
    )


def kind_of(pid: int) -> str | None:
    """Return which of `KINDS` a process is, by its command line."""
    line = command_line(pid)
    if "service" in line:
        return "API"
    if "media" in line or "worker.media_template" in line:
        return "media"
    if {"torch", "fake"} & set(line) and "worker.child_main" in line:
        return "engine"
    return "supervisor" if "worker" in line else None
