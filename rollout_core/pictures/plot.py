"""Plots a `Faithfulness`: a class's probability while patches are deleted or inserted."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from rollout_core.contract import Faithfulness, Fill, FillFaithfulness, OrderScores

WIDTH_INCHES, ROW_INCHES, FRAME_INCHES = 8.0, 2.6, 1.5
DOTS_PER_INCH = 100

FAINT = "#e2e5e9"
MOST, LEAST, RANDOM = "#c0392b", "#2471a3", "#7f868f"

FILL_NAMES: dict[Fill, str] = {
    "blur": "missing patches blurred",
    "mean": "missing patches of mean colour",
    "still": "missing patches held still",
}
TITLE_CHARACTERS = 90  # per line
MEANING = (
    "If the map is right, deleting its most relevant patches first lowers the probability\n"
    "soonest, and inserting them first raises it soonest."
)


def plot_faithfulness(faithfulness: Faithfulness, path: Path) -> None:
    """Write a PNG with one row per fill: deletion on the left, insertion on the right."""
    rows = len(faithfulness.fills)
    size = WIDTH_INCHES, FRAME_INCHES + rows * ROW_INCHES
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
    title = f"Probability of “{faithfulness.target.label}” while patches are deleted or inserted"
    figure.suptitle(
        f"{fill(title, TITLE_CHARACTERS)}\n{MEANING}",
        x=0.01,
        ha="left",
        fontsize="medium",
        parse_math=False,
    )
    figure.supylabel("probability", fontsize="medium")
    panels = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
    for scored, (left, right) in zip(faithfulness.fills, panels, strict=True):
        _draw_fill(left, right, scored)
    for panel, done in zip(panels[-1], ("deleted", "inserted"), strict=True):
        panel.set_xlabel(f"patches {done}")
    lines = panels[0, 0].get_lines()
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    figure.savefig(path, format="png")


def _draw_fill(left: Axes, right: Axes, scored: FillFaithfulness) -> None:
    """Draw deletion and insertion for one fill."""
    name = FILL_NAMES[scored.fill]
    most, least = scored.most_first_deleted, scored.least_first_deleted
    at_random = np.array(scored.random_deleted)
    left.set_title(f"Deletion, {name}\n{_areas(scored.deletion)}", loc="left", fontsize="medium")
    _draw(left, most, least, at_random)
    right.set_title(f"Insertion, {name}\n{_areas(scored.insertion)}", loc="left", fontsize="medium")
    # The insertion curve is the deletion curve of the reverse order, read backwards.
    _draw(right, least[::-1], most[::-1], at_random[:, ::-1])


def _draw(
    panel: Axes, most: Sequence[float], least: Sequence[float], at_random: NDArray[np.float64]
) -> None:
    """Draw three curves, and shade the range of the random ones, `order steps+1`."""
    share = np.linspace(0, 1, len(most))
    panel.fill_between(
        share, at_random.min(axis=0), at_random.max(axis=0), color=RANDOM, alpha=0.25, linewidth=0
    )
    panel.plot(share, most, color=MOST, label="most relevant first")
    panel.plot(share, least, color=LEAST, label="least relevant first")
    panel.plot(share, at_random.mean(axis=0), color=RANDOM, linestyle="--", label="in random order")
    panel.set(xlim=(0, 1), ylim=(0, 1.02))
    panel.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    panel.grid(color=FAINT)
    panel.set_axisbelow(True)
    panel.spines[:].set_color(FAINT)


def _areas(scores: OrderScores) -> str:
    """Return the areas under the curves as a subtitle."""
    return (
        f"area: most {scores.most_first:.2f}, least {scores.least_first:.2f}, "
        f"random {scores.random_mean:.2f} ± {scores.random_std:.2f}"
    )
