"""The evidence as a Markdown page and as a plot."""

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.benchmarks.competitors import COMPETITORS, Competitor, Group, by_name
from tests.benchmarks.scores import Scores

SENSITIVITY = "class sensitivity"
"""Name of the row about clips of two objects."""

OURS = "contribution_rollout, deviation"
RIVALS = (
    "attention, last layer",
    "rollout",
    "gradient_rollout",
    "occlusion, 2×2×2 patches",
    "Video-LIME",
)

COLORS: dict[Group, str] = {
    "baselines": "#8a8a8a",
    "published": "#3b6ea5",
    "ours": "#c8451b",
    "black boxes": "#2f2f2f",
}


@dataclass(frozen=True)
class Column:
    """A metric of the table."""

    key: str
    heading: str
    least_is_best: bool = False


COLUMNS = (
    Column("pointing", "pointing game"),
    Column("path", "on its path"),
    Column("share", "relevance on the object"),
    Column("covered", "by coverage"),
    Column("frames", "frame hit rate"),
    Column("insertion", "insertion"),
    Column("deletion", "deletion", least_is_best=True),
)

SENSITIVITY_LINES = {
    "blind": "leans to its own object more than the class-blind rollout does",
    "other": "leans to its own object more than the map for the other class does",
    "own": "has more relevance on its own object than on the other",
    "both": "has more on its own object, for both classes of the clip",
}


def write_report(
    path: Path, scores: Scores, correlations: Mapping[str, Mapping[str, float]]
) -> None:
    """Write the page, without the rows that were not measured."""
    sections = (
        _table(scores),
        _meanings(),
        _leads(scores),
        _sensitivity(scores),
        _sanity(correlations),
    )
    text = ["\n".join(section) for section in sections]
    page = "\n\n".join(filter(None, [_heading(scores), *text]))
    path.write_text(f"{page}\n", encoding="utf-8")


def plot(scores: Scores, path: Path) -> None:
    """Draw mean and interval of every metric as a PNG, one row for each method."""
    rows = _measured(scores)
    figure = Figure(figsize=(16, 1.2 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(COLUMNS), sharey=True)
    for column, axis in zip(COLUMNS, axes, strict=True):
        _draw_column(axis, column, rows, scores)
    axes[0].set_yticks(range(len(rows)), [_label(row) for row in rows])
    axes[0].invert_yaxis()
    for tick, row in zip(axes[0].get_yticklabels(), rows, strict=True):
        tick.set_color(COLORS[row.group])
    figure.savefig(path, dpi=110)


def _draw_column(axis: Axes, column: Column, rows: list[Competitor], scores: Scores) -> None:
    for place, row in enumerate(rows):
        if not scores.clips(row.name, column.key):
            continue
        value = scores.interval(row.name, column.key)
        spread = [[value.mean - value.low], [value.high - value.mean]]
        axis.errorbar(
            value.mean, place, xerr=spread, fmt="o", markersize=4, color=COLORS[row.group]
        )
    better = "←" if column.least_is_best else "→"
    axis.set_title(f"{column.heading} {better}", fontsize=10)
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _label(row: Competitor) -> str:
    return f"{row.name} ({row.forwards:,})" if row.forwards > 1 else row.name


def _measured(scores: Scores) -> list[Competitor]:
    return [row for row in COMPETITORS if scores.clips(row.name)]


def _heading(scores: Scores) -> str:
    clips, areas = (_most_clips(scores, metric) for metric in (None, "deletion"))
    of_areas = f" (insertion and deletion: the first {areas})" if areas < clips else ""
    return (
        f"# Evidence\n\n`python -m tests.benchmarks.evidence`: {clips} held-out moving-shapes "
        f"clips{of_areas}, seed {scores.about['seed']}, torch {torch.__version__}. Means over "
        "clips, with intervals of 95 % by bootstrap. Forwards and time are those of making one "
        "map, time in multiples of a plain forward; a gradient counts as two more."
    )


def _most_clips(scores: Scores, metric: str | None = None) -> int:
    return max(scores.clips(row.name, metric) for row in COMPETITORS)


def _table(scores: Scores) -> Iterator[str]:
    rows = _measured(scores)
    headings = " | ".join(
        f"{column.heading} {'↓' if column.least_is_best else '↑'}" for column in COLUMNS
    )
    yield f"| | {headings} | forwards | time |"
    yield "|---|" + "---|" * (len(COLUMNS) + 2)
    best = {column.key: _best(column, rows, scores) for column in COLUMNS}
    for group, members in groupby(rows, key=lambda row: row.group):
        yield f"| **{group}** |" + " |" * (len(COLUMNS) + 2)
        for row in members:
            cells = [
                _cell(scores, row.name, column.key, bold=row.name == best[column.key])
                for column in COLUMNS
            ]
            time = statistics.median(scores.rows[row.name]["time"])
            cells = [_name(row, scores), *cells, f"{row.forwards:,}", f"{time:,.1f}"]
            yield f"| {' | '.join(cells)} |"


def _name(row: Competitor, scores: Scores) -> str:
    """Name a row, and on how many clips it was measured if on fewer than others."""
    clips = scores.clips(row.name)
    return row.name if clips == _most_clips(scores) else f"{row.name} ({clips} clips)"


def _best(column: Column, rows: list[Competitor], scores: Scores) -> str | None:
    means = {
        row.name: scores.interval(row.name, column.key).mean
        for row in rows
        if scores.clips(row.name, column.key)
    }
    if not means:
        return None
    return (min if column.least_is_best else max)(means, key=means.__getitem__)


def _cell(scores: Scores, row: str, metric: str, *, bold: bool = False) -> str:
    if not scores.clips(row, metric):
        return "–"
    value = scores.interval(row, metric)
    mean = f"**{value.mean:.2f}**" if bold else f"{value.mean:.2f}"
    return f"{mean} ({value.low:.2f}–{value.high:.2f})"


def _meanings() -> Iterator[str]:
    yield "- **pointing game**: the most relevant patch is on the object, which covers at least a"
    yield "  quarter of it; **on its path**: the object covers that place in some frame."
    yield "- **relevance on the object**: the share that those same patches get, so that chance is"
    yield "  the same as in the pointing game; **by coverage**: each patch counts by how much of it"
    yield "  is covered, so that even a map of the object alone gets about 0.65."
    yield "- **frame hit rate**: the same game in each frame by itself."
    yield "- **insertion, deletion**: areas under the curve of the class's probability; a missing"
    yield "  patch is held still."


def _leads(scores: Scores) -> Iterator[str]:
    if not scores.clips(OURS):
        return
    yield f"Pointing game of {OURS}, minus that of others, clip by clip:"
    yield ""
    for rival in RIVALS:
        if scores.clips(rival):
            lead = scores.lead(OURS, rival, "pointing")
            ratio = by_name(rival).forwards / by_name(OURS).forwards
            yield (
                f"- {rival}: {lead.mean:+.3f} ({lead.low:+.3f} to {lead.high:+.3f}), "
                f"for {ratio:,.0f} times the forwards"
            )


def _sensitivity(scores: Scores) -> Iterator[str]:
    if not scores.clips(SENSITIVITY):
        return
    yield "## Class sensitivity"
    yield ""
    yield f"{scores.clips(SENSITIVITY)} clips of two moving objects, gradient_rollout for the class"
    yield "of each. Share of its maps (of the clips, for the second and the last line) for which"
    yield "it is true that the map"
    yield ""
    for metric, line in SENSITIVITY_LINES.items():
        yield f"- {line}: {_cell(scores, SENSITIVITY, metric)}"


def _sanity(correlations: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    parts = list(next(iter(correlations.values())))
    yield "## Sanity"
    yield ""
    yield "Rank correlation of the maps with those of a model whose parts are untrained, from the"
    yield "head down to the part that is named."
    yield ""
    yield f"| | {' | '.join(parts)} |"
    yield "|---|" + "---|" * len(parts)
    for row, by_part in correlations.items():
        yield f"| {row} | {' | '.join(f'{value:.2f}' for value in by_part.values())} |"
