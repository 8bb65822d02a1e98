"""The plot of docs/scaling.md: cores of the API and of Redis by the number of GPUs."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.benchmarks.scaling.formulas import BASE_SECONDS, SMALL_SECONDS, Inputs, Site
from tests.benchmarks.suite.plots import FAINT, INK, STYLE, save

GPUS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000)
API, QUEUED, PROMPT = "#c2410c", "#0b6e99", "#7fb3cc"
LEAST_CORES, MOST_CORES = 0.002, 150.0


def draw(inputs: Inputs, path: Path) -> None:
    """Write the plot."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        _curves(axes[0], inputs, SMALL_SECONDS, "Small model, no overlay")
        _curves(axes[1], inputs, BASE_SECONDS, "Base model, overlay")
        axes[0].set_ylabel("processor cores")
        save(figure, path)


def _curves(axes: Axes, inputs: Inputs, seconds: float, title: str) -> None:
    curves = (
        ("API", API, [inputs.api_cores(Site(gpus, seconds)) for gpus in GPUS]),
        ("Redis", QUEUED, [inputs.redis_cores(Site(gpus, seconds)) for gpus in GPUS]),
        (
            "Redis, if no job waits",
            PROMPT,
            [inputs.redis_cores(Site(gpus, seconds, wait_seconds=0)) for gpus in GPUS],
        ),
    )
    axes.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.text(1.1, 1.12, "one process is full", color=INK, fontsize=9)
    for label, color, values in curves:
        axes.plot(GPUS, values, color=color, linewidth=2, label=label)
    axes.set(xscale="log", yscale="log", xlabel="GPUs, all busy", xlim=(1, 1000))
    axes.set_ylim(LEAST_CORES, MOST_CORES)
    axes.set_title(f"{title}: {seconds:g} s a job")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="lower right")
