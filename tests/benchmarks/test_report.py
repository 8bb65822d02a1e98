from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.benchmarks.competitors import COMPETITORS
from tests.benchmarks.report import RIVALS, SENSITIVITY, plot, write_report
from tests.benchmarks.scores import Scores

CORRELATIONS = {"rollout": {"head": 1.0, "layer 0": 0.25}}
METRICS = ("pointing", "path", "share", "covered", "frames", "insertion", "deletion")


def measured() -> Scores:
    """Return scores in which row n has n hundredths in each metric."""
    scores = Scores({"seed": 3})
    for place, row in enumerate(COMPETITORS):
        values = dict.fromkeys(METRICS, torch.full((8,), place / 100))
        scores.add(row.name, values | {"time": torch.arange(8.0)})
    sensitivity = {"blind": 1.0, "other": 0.75, "own": 0.5, "both": 0.0}
    scores.add(SENSITIVITY, {name: torch.full((4,), value) for name, value in sensitivity.items()})
    return scores


@pytest.fixture
def page(tmp_path: Path) -> str:
    write_report(tmp_path / "evidence.md", measured(), CORRELATIONS)
    return (tmp_path / "evidence.md").read_text()


def cells(page: str, row: str) -> list[str]:
    (line,) = (line for line in page.splitlines() if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_row_is_under_its_group_in_order(page: str):
    first_cells = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|")]
    places = [first_cells.index(row.name) for row in COMPETITORS]
    assert places == sorted(places)
    for group in ("baselines", "published", "ours", "black boxes"):
        assert f"**{group}**" in first_cells
    assert first_cells.index("**ours**") == first_cells.index("contribution_rollout, l2") - 1


def test_a_cell_has_the_mean_and_its_interval(page: str):
    _, pointing, *_, forwards, time = cells(page, "uniform")
    assert pointing == "0.01 (0.01–0.01)"
    assert (forwards, time) == ("0", "3.5")  # a median


def test_the_best_of_each_column_is_bold(page: str):
    assert cells(page, COMPETITORS[-1].name)[1].startswith("**")
    assert sum(line.count("**0.") for line in page.splitlines()) == len(METRICS)
    # For deletion, low is good.
    assert cells(page, "random")[-3].startswith("**0.00**")


def test_a_row_of_fewer_clips_says_so(tmp_path: Path):
    scores = measured()
    scores.forget("Video-LIME")
    scores.add("Video-LIME", dict.fromkeys((*METRICS, "time"), torch.tensor([0.5, 0.5])))
    write_report(tmp_path / "evidence.md", scores, CORRELATIONS)
    page = (tmp_path / "evidence.md").read_text()
    assert cells(page, "Video-LIME (2 clips)")[1].startswith("**0.50**")


def test_the_lead_is_given_for_each_rival(page: str):
    for rival in RIVALS:
        assert sum(line.startswith(f"- {rival}: ") for line in page.splitlines()) == 1
    assert "for 1,000 times the forwards" in page


def test_sensitivity_and_sanity_have_sections(page: str):
    assert "does: 1.00 (1.00–1.00)" in page
    assert "for both classes of the clip: 0.00 (0.00–0.00)" in page
    assert "| | head | layer 0 |" in page
    assert "| rollout | 1.00 | 0.25 |" in page


def test_rows_that_were_not_measured_are_left_out(tmp_path: Path):
    scores = Scores({"seed": 3})
    scores.add("random", dict.fromkeys((*METRICS, "time"), torch.tensor([0.5])))
    write_report(tmp_path / "evidence.md", scores, CORRELATIONS)
    page = (tmp_path / "evidence.md").read_text()
    assert "uniform" not in page
    assert "Class sensitivity" not in page
    assert "\n\n\n" not in page
    plot(scores, tmp_path / "one.png")
    plot(measured(), tmp_path / "all.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "all.png") as everything:
        assert everything.height > one.height


def test_a_metric_of_fewer_clips_is_noted_and_one_without_clips_is_a_dash(tmp_path: Path):
    scores = measured()
    for row in COMPETITORS:
        del scores.rows[row.name]["insertion"]
        del scores.rows[row.name]["deletion"][3:]
    write_report(tmp_path / "evidence.md", scores, CORRELATIONS)
    page = (tmp_path / "evidence.md").read_text()
    assert "8 held-out moving-shapes clips (insertion and deletion: the first 3)" in page
    assert cells(page, "uniform")[-4:-2] == ["–", "0.01 (0.01–0.01)"]
    plot(scores, tmp_path / "evidence.png")
