"""The summary as a Markdown page, as a plot, and as the tables of docs/methods.md."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.benchmarks.evidence.maps import ROWS, Group, Row
from tests.benchmarks.evidence.summary import LEAST_IS_BEST, MODEL, Summary, best_of

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "tests" / "benchmarks" / "results"
PAGE = ROOT / "docs" / "methods.md"
BLOCK = re.compile(r"(<!-- evidence: (?P<name>[a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)

COLORS: dict[Group, str] = {
    "baselines": "#8a8a8a",
    "published": "#3b6ea5",
    "ours": "#c8451b",
    "black boxes": "#2f2f2f",
}


@dataclass(frozen=True)
class Column:
    """A score of the tables."""

    key: str
    heading: str
    meaning: str

    @property
    def arrow(self) -> str:
        """Which end is the better one."""
        return "↓" if self.key in LEAST_IS_BEST else "↑"


WHOSE = (
    Column("own", "own", "more than half of the relevance on the two paths is on the ringed act's"),
    Column("both", "both", "so in both clips of a scene, which differ in the ring alone"),
    Column(
        "other",
        "other class",
        "the map for the class of the act without the ring has more than half on that act's path",
    ),
)
WHERE = (
    Column("thing", "on a thing", "the most relevant patch is on a thing of the ringed act"),
    Column("touched", "touched", "… or on where one is in the frame before or after"),
    Column("path", "on its path", "… or on where one is in any frame"),
    Column("precision", "precision", "average precision of the patches on the things, as ranked"),
)
WHAT = (
    Column(
        "held",
        "held",
        "correlation with what each of the two logits loses while either path is held still",
    ),
    Column(
        "single",
        "single",
        "correlation with what the logit loses while each single patch is held still",
    ),
    Column("deletion still", "deletion, still", "area under the curve of the probability"),
    Column("deletion blur", "deletion, blur", "the same, with blurred patches"),
    Column("insertion still", "insertion, still", "the same, patches come back"),
    Column("insertion blur", "insertion, blur", "the same, from a blurred clip"),
)
SANITY = (
    Column("no head", "no head", "rank correlation with the map of a model with a new head"),
    Column("no layers", "no layers", "the same, with new layers, too"),
)
COLUMNS = WHOSE + WHERE + WHAT

OVERVIEW = ("both", "other", "path", "precision", "held", "single", "deletion still", "no head")
"""Scores in the table of docs/methods.md."""

OVERVIEW_NAMES = {
    "uniform": "uniform (chance)",
    "attention, last layer": "`attention`, last layer",
    "rollout": "`rollout`",
    "gradient_rollout": "`gradient_rollout`",
    "contribution_rollout, deviation": "`contribution_rollout`",
    "contribution_rollout, projection": "`contribution_rollout`, `projection`",
    "class contributions, projection": "`contribution_rollout` with a target",
    "class contributions, deviation": "`contribution_rollout` with a target, `deviation`",
    "difference, still": "`difference`",
    "difference, blur": "`difference`, `blur`",
    "difference, mean": "`difference`, `mean`",
}


def write_report(summary: Summary, folder: Path) -> None:
    """Write `evidence.md` and `evidence.png`."""
    sections = (
        _heading(summary),
        "## Whose motion is it?\n\n" + table(summary, WHOSE),
        "## Where is the evidence?\n\n" + table(summary, WHERE),
        "## What does the model do?\n\n" + table(summary, WHAT),
        "## Does the map change when the model forgets?\n\n" + table(summary, SANITY),
        "## Each model by itself\n\n" + _each_model(summary),
        "## How far behind the best row?\n\n" + _differences(summary),
    )
    (folder / "evidence.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    plot(summary, folder / "evidence.png")


def write_results(summary: Summary, folder: Path) -> None:
    """Write `evidence.json`, and the report."""
    text = json.dumps(summary, indent=1)
    (folder / "evidence.json").write_text(f"{text}\n", encoding="utf-8")
    write_report(summary, folder)


def document(summary: Summary) -> None:
    """Write the kept results, and the tables of docs/methods.md."""
    write_results(summary, RESULTS)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(fill(page, summary), encoding="utf-8")


def fill(page: str, summary: Summary) -> str:
    """Return the page with what is between its markers written anew."""
    parts = {
        "about": _about,
        "table": overview,
        "sanity": lambda s: table(s, SANITY, OVERVIEW_NAMES),
    }

    def replace(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        return f"{begin}\n{parts[name](summary)}\n\n{end}"

    return BLOCK.sub(replace, page)


def overview(summary: Summary) -> str:
    """Return the table of docs/methods.md: means alone."""
    columns = [next(c for c in (*COLUMNS, *SANITY) if c.key == key) for key in OVERVIEW]
    return table(summary, columns, OVERVIEW_NAMES, intervals=False)


def table(
    summary: Summary,
    columns: tuple[Column, ...] | list[Column],
    names: Mapping[str, str] = {},
    *,
    intervals: bool = True,
) -> str:
    """Return a table of all rows, grouped; the best of each column in bold.

    Rows that were measured on fewer scenes say so, and are not compared.
    """
    scenes = _scenes(summary)
    best = {c.key: best_of(c.key, summary["rows"]) for c in columns if c not in SANITY}
    headings = " | ".join(c.heading if c in SANITY else f"{c.heading} {c.arrow}" for c in columns)
    lines = [f"| | {headings} | forwards | time |", "|---|" + "---|" * (len(columns) + 2)]
    for group, rows in groupby(_measured(summary), key=lambda row: row.group):
        lines.append(f"| **{group}** |" + " |" * (len(columns) + 2))
        for row in rows:
            figures = summary["rows"][row.name]
            cells = [
                _cell(figures.get(c.key), bold=best.get(c.key) == row.name, interval=intervals)
                for c in columns
            ]
            time = figures["time"]["mean"] if "time" in figures else float("nan")
            cells += [f"{row.forwards:,}", f"{time:,.1f}"]
            name = names.get(row.name, row.name)
            if scenes[row.name] < max(scenes.values()):
                name += f" ({scenes[row.name]} scenes)"
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(summary: Summary, path: Path) -> None:
    """Draw mean and interval of every score as a PNG, one row for each method."""
    rows = _measured(summary)
    figure = Figure(figsize=(22, 1.2 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(COLUMNS), sharey=True)
    for column, axis in zip(COLUMNS, axes, strict=True):
        _draw_column(axis, column, rows, summary)
    axes[0].set_yticks(range(len(rows)), [row.name for row in rows])
    axes[0].invert_yaxis()
    for tick, row in zip(axes[0].get_yticklabels(), rows, strict=True):
        tick.set_color(COLORS[row.group])
    figure.savefig(path, dpi=90)


def _draw_column(axis: Axes, column: Column, rows: list[Row], summary: Summary) -> None:
    for place, row in enumerate(rows):
        value = summary["rows"][row.name].get(column.key)
        if value is None:
            continue
        color = COLORS[row.group]
        axis.plot([value["low"], value["high"]], [place, place], color=color, linewidth=1.5)
        axis.plot(list(value["models"].values()), [place] * len(value["models"]), "|", color=color)
        axis.plot(value["mean"], place, "o", color=color, markersize=4)
    axis.set_title(f"{column.heading} {column.arrow}", fontsize=9)
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _scenes(summary: Summary) -> dict[str, int]:
    """Return on how many scenes each row was measured."""
    return {
        row.name: max(figure["scenes"] for figure in summary["rows"][row.name].values())
        for row in _measured(summary)
    }


def _measured(summary: Summary) -> list[Row]:
    return [row for row in ROWS if row.name in summary["rows"]]


def _heading(summary: Summary) -> str:
    meanings = "\n".join(
        f"- **{column.heading}**: {column.meaning}." for column in (*COLUMNS, *SANITY)
    )
    return (
        f"# Evidence\n\n`python -m tests.benchmarks.evidence --document`; torch "
        f"{summary['torch']}; scenes of the {summary['part']} part. {_about(summary)}\n\n"
        "Means over models and scenes, with intervals of 95 % by bootstrap of the scenes. Forwards "
        "and time are those of one map; time in multiples of a plain forward, of one clip. Without "
        f"a class, a map is the same for both classes.\n\n{meanings}"
    )


def _about(summary: Summary) -> str:
    """Tell how much was measured, and what is true of the models."""
    figures = summary["rows"][MODEL]
    rows = [summary["rows"][row.name] for row in _measured(summary)]
    most = max(_scenes(summary).values())
    of_dear = ", but for rows that say otherwise" if len({*_scenes(summary).values()}) > 1 else ""
    curves, single = (
        max((row[metric]["scenes"] for row in rows if metric in row), default=0)
        for metric in ("deletion still", "single")
    )
    right, own, other = (
        f"{figures[metric]['mean']:.0%}" for metric in ("right", "own counts", "other counts")
    )
    return (
        f"{len(summary['models'])} models, {most} scenes of two clips each{of_dear}; deletion and "
        f"insertion on {curves}, single patches on {single} of them. The models are right in "
        f"{right} of the clips. Holding the path of an act still takes more from its own class "
        f"than holding that of the other act: in {own} of the clips for the act with the ring, in "
        f"{other} for the other one."
    )


def _each_model(summary: Summary) -> str:
    keys = ("both", "other", "path", "precision", "held")
    columns = [next(c for c in COLUMNS if c.key == key) for key in keys]
    models = list(summary["models"])
    lines = [f"In this order: {', '.join(f'`{name}`' for name in models)}.", ""]
    lines += [f"| | {' | '.join(c.heading for c in columns)} |", "|---|" + "---|" * len(columns)]
    for row in _measured(summary):
        figures = summary["rows"][row.name]
        cells = (
            ", ".join(f"{value:.2f}" for value in figures[c.key]["models"].values())
            for c in columns
        )
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _differences(summary: Summary) -> str:
    return "\n\n".join(_difference_lines(summary))


def _difference_lines(summary: Summary) -> Iterator[str]:
    headings = {column.key: column.heading for column in COLUMNS}
    yield "Paired, scene by scene. Rows whose interval holds 0 are not told from the best one."
    for metric, found in summary["behind"].items():
        if found:
            cells = (
                f"{name} {value['mean']:.2f} ({value['low']:.2f} to {value['high']:.2f})"
                for name, value in sorted(found["rows"].items(), key=lambda item: item[1]["mean"])
            )
            yield f"**{headings[metric]}**, best: {found['best']}. Behind it: {'; '.join(cells)}."


def _cell(value: dict[str, Any] | None, *, bold: bool, interval: bool) -> str:
    if value is None:
        return "–"
    mean = f"**{value['mean']:.2f}**" if bold else f"{value['mean']:.2f}"
    return f"{mean} ({value['low']:.2f}–{value['high']:.2f})" if interval else mean
