import matplotlib as mpl
import pytest

from tests.benchmarks.suite.plots import bars_of, draw, job_figure, rollout_figure
from tests.benchmarks.suite.sections.job import PARTS

ROLLOUT = [
    {
        "frames": frames,
        "factored, ms": [0.5 * frames, 0.4 * frames, 0.6 * frames],
        "factored, MiB": float(frames),
        "dense, ms": [float(frames**3)] * 3 if frames < 96 else "needs 5.3 GiB",
        "dense, MiB": 10.0 * frames**2 if frames < 96 else None,
    }
    for frames in (8, 32, 96)
]
FLOORS = {"job": "small: floors", "decode": 0.3, "forward": 0.1, "render": None, "sum": 0.4}
JOB = {"job": "small: job", "decode": 0.5, "forward": None, "render": 1.5, "sum": 2.0}


def sections(job):
    return {
        "rollout": {"tables": [{"title": "", "rows": ROLLOUT}]},
        "job": {"tables": [{}, {"title": PARTS, "rows": [FLOORS, job]}]},
    }


@pytest.fixture
def revisions():
    slower = JOB | {"render": 3.0, "sum": 3.5}
    return {"before": {"sections": sections(slower)}, "now": {"sections": sections(JOB)}}


def test_curves_end_where_the_memory_ends():
    time, memory = rollout_figure(ROLLOUT).axes
    for axes in (time, memory):
        dense, factored = axes.lines
        assert list(dense.get_xdata()) == [8, 32]
        assert list(factored.get_xdata()) == [8, 32, 96]
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in time.texts] == ["dense\n33 s", "factored\n48 ms"]


def test_bars_are_those_of_floors_and_of_each_revision(revisions):
    assert bars_of(revisions) == {
        "small": {
            "floors": {"decode": 0.3, "forward": 0.1},
            "before": {"decode": 0.5, "render": 3.0},
            "now": {"decode": 0.5, "render": 1.5},
        }
    }


def test_bars_are_stacked_to_their_sums(revisions):
    axes = job_figure(bars_of(revisions)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["floors", "before", "now"]
    assert [text.get_text().strip() for text in axes.texts] == [
        "small",
        "0.40 s",
        "3.50 s",
        "2.00 s",
    ]
    lefts = [round(bar.get_x() + bar.get_width(), 6) for bar in axes.patches if bar.get_width()]
    assert lefts == [0.3, 0.4, 0.5, 3.5, 0.5, 2.0]


def test_the_same_figures_give_the_same_files(revisions, tmp_path):
    contents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        draw(revisions, tmp_path / name)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]
    assert sorted(contents[0]) == ["job.svg", "rollout.svg"]
    assert mpl.rcParams["svg.hashsalt"] is None


def test_section_that_was_skipped_has_no_plot(tmp_path):
    draw({"now": {"sections": {"rollout": {"skipped": "needs timm"}}}}, tmp_path)
    assert list(tmp_path.iterdir()) == []
