from pathlib import Path

import pytest
import torch

from tests.benchmarks.evidence.maps import ROWS
from tests.benchmarks.evidence.report import COLUMNS, PAGE, SANITY, fill, table, write_report
from tests.benchmarks.evidence.scores import Scores
from tests.benchmarks.evidence.summary import MODEL, Summary, summarize


@pytest.fixture
def summary() -> Summary:
    """Figures of two models and all rows; the last two rows have fewer scenes."""
    found = {}
    for model in ("a", "b"):
        scores = Scores({"part": "report", "sha256": "ab"})
        names = ("right", "own counts", "other counts")
        scores.add(MODEL, {name: torch.ones(4) for name in names})
        for index, row in enumerate(ROWS):
            count = 2 if row.forwards > 100 else 4
            metrics = [column.key for column in (*COLUMNS, *SANITY)]
            values = torch.linspace(0, 0.5, count) + index / 100
            scores.add(row.name, dict.fromkeys(metrics, values) | {"time": values[:1]})
        found[model] = scores
    return summarize(found)


def test_page_has_every_row_and_says_what_was_measured(summary: Summary, tmp_path: Path):
    write_report(summary, tmp_path)
    page = (tmp_path / "evidence.md").read_text()
    for row in ROWS:
        few = " (4 scenes)" if row.forwards > 100 else ""
        assert page.count(f"| {row.name}{few} |") >= 4
    assert "2 models, 8 scenes of two clips each, but for rows that say otherwise" in page
    assert "nan" not in page
    assert (tmp_path / "evidence.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_of_each_column_is_bold(summary: Summary):
    lines = table(summary, COLUMNS[:1]).splitlines()
    best = next(row for row in reversed(ROWS) if row.forwards < 100)  # of those with all scenes
    assert [line.split("|")[1].strip() for line in lines if "**0" in line] == [best.name]
    deletion = tuple(column for column in COLUMNS if column.key == "deletion still")
    lines = table(summary, deletion).splitlines()
    assert [line.split("|")[1].strip() for line in lines if "**0" in line] == [ROWS[0].name]


def test_what_was_not_measured_is_a_dash(summary: Summary):
    del summary["rows"]["uniform"]["own"]
    (line,) = [line for line in table(summary, COLUMNS[:1]).splitlines() if "uniform" in line]
    assert line.split("|")[2].strip() == "–"


def test_documents_have_the_places_that_are_written(summary: Summary):
    page = PAGE.read_text()
    filled = fill(page, summary)
    for name in ("about", "table", "sanity"):
        assert page.count(f"<!-- evidence: {name} -->") == 1
    assert "2 models, 8 scenes" in filled
    assert filled != page
    assert fill(filled, summary) == filled
