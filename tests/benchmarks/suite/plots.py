"""The plots of docs/performance.md: cost of the rollout, and where the time of a job goes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

INK, FAINT = "#1f2933", "#d5dbe1"
FACTORED, DENSE = "#0b6e99", "#c2410c"

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "svg.hashsalt": "bench",  # the same figures give the same file
}

PARTS = {
    "wait": "#b09ad6",
    "open": "#b09ad6",
    "decode": "#3b7dd8",
    "forward": "#e0882f",
    "explain": "#e0882f",
    "render": "#3f9c5a",
    "re-encode": "#3f9c5a",
    "save": "#b09ad6",
    "rest of the attempt": "#8b97a5",
    "outside": "#c9d1d9",
}
"""Part of a job or of its floors → colour, in the order of a bar.

A floor has the colour of the part that it bounds.
"""

LABELS = {
    "wait": "wait, open, save",
    "forward": "forward / explain",
    "re-encode": "re-encode / render",
}
"""What stands in the legend for a colour that two parts have."""

Revisions = Mapping[str, Mapping[str, Any]]


def draw(revisions: Revisions, folder: Path) -> None:
    """Write `rollout.svg` and `job.svg`, each if its section was measured."""
    now = revisions["now"]["sections"]
    with mpl.rc_context(STYLE):
        if "tables" in now.get("rollout", {}):
            save(rollout_figure(now["rollout"]["tables"][0]["rows"]), folder / "rollout.svg")
        if "tables" in now.get("job", {}):
            save(job_figure(bars_of(revisions)), folder / "job.svg")


def save(figure: Figure, path: Path) -> None:
    """Write a figure without the time of its making."""
    figure.savefig(path, metadata={"Date": None})


# The rollout


def rollout_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Return time and memory of both rollouts by the number of frames, on logarithmic axes."""
    figure = Figure(figsize=(9, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    _curves(left, rows, "ms", title="Time", units=((1e3, "s"), (1, "ms")))
    _curves(right, rows, "MiB", title="Memory", units=((1, "MiB"),))
    return figure


def _curves(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    unit: str,
    *,
    title: str,
    units: Sequence[tuple[float, str]],
) -> None:
    """Draw one quantity of both rollouts, and name each curve at its end."""
    for name, colour in (("dense", DENSE), ("factored", FACTORED)):
        points = [(row["frames"], _median(row[f"{name}, {unit}"])) for row in rows]
        frames, values = zip(*[(x, y) for x, y in points if y], strict=True)
        axes.loglog(frames, values, "o-", color=colour, markersize=5, linewidth=2)
        axes.annotate(
            f"{name}\n{_quantity(values[-1], units)}",
            (frames[-1], values[-1]),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            weight="bold",
        )
    frames = [row["frames"] for row in rows]
    axes.set(title=title, xlabel="frames of a clip", xticks=frames, xlim=(7, 240))
    axes.set_xticklabels(map(str, frames))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _quantity(value, units)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def _median(value: Any) -> float | None:
    """Return the median of a spread; None for a text or nothing."""
    if isinstance(value, str) or value is None:
        return None
    return float(value[0] if isinstance(value, Sequence) else value)


def _quantity(value: float, units: Sequence[tuple[float, str]]) -> str:
    """Return a value in the largest unit that fits."""
    size, unit = next((one for one in units if value >= one[0]), units[-1])
    return f"{value / size:,.2g} {unit}" if value / size < 10 else f"{value / size:,.0f} {unit}"


# The job


def bars_of(revisions: Revisions) -> dict[str, dict[str, dict[str, float]]]:
    """Return for each job its bars: `floors`, then each revision → seconds of each part."""
    bars: dict[str, dict[str, dict[str, float]]] = {}
    for label, revision in revisions.items():
        section = revision["sections"].get("job", {})
        for row in section["tables"][1]["rows"] if "tables" in section else ():
            job, _, what = row["job"].rpartition(": ")
            parts = {name: row[name] for name in row if name not in ("job", "sum")}
            shown = {name: seconds for name, seconds in parts.items() if seconds}
            bars.setdefault(job, {})[label if what == "job" else "floors"] = shown
    return bars


def job_figure(bars: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Return a stacked bar for each job and for the sum of its floors."""
    count = sum(map(len, bars.values())) + len(bars)
    figure = Figure(figsize=(9, 0.34 * count + 1.1), layout="constrained")
    axes = figure.subplots()
    place, ticks, labels = 0.0, [], []
    for job, by_label in bars.items():
        axes.text(0, place, job, weight="bold", va="center")
        for label in sorted(by_label, key=lambda one: (one != "floors", one == "now")):
            place += 1
            _stack(axes, place, by_label[label])
            ticks.append(place)
            labels.append(label)
        place += 1.25
    axes.set(xlabel="seconds", yticks=ticks, yticklabels=labels, ylim=(place - 0.5, -0.6))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    _legend(figure, axes)
    return figure


def _stack(axes: Axes, place: float, parts: Mapping[str, float]) -> None:
    """Draw one bar, part by part, and its sum."""
    left = 0.0
    for part in sorted(parts, key=[*PARTS].index):
        seconds = max(parts[part], 0)
        axes.barh(place, seconds, left=left, height=0.72, color=PARTS[part])
        left += seconds
    total = sum(parts.values())
    axes.text(left, place, f"  {total:.2f} s", va="center", fontsize=9)


def _legend(figure: Figure, axes: Axes) -> None:
    """Name each colour once, above the bars."""
    names = {colour: LABELS.get(part, part) for part, colour in PARTS.items()}
    names |= {PARTS[part]: label for part, label in LABELS.items()}
    handles = [axes.barh(0, 0, color=colour) for colour in names]
    figure.legend(
        handles,
        names.values(),
        loc="outside upper left",
        ncols=len(names),
        frameon=False,
        handlelength=1,
        columnspacing=1.4,
    )
