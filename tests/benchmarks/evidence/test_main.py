import json
from pathlib import Path

import pytest
import torch

from rollout_core.model.checkpoints import load_model
from rollout_core.model.timesformer import TimeSformer
from tests.benchmarks.evidence.__main__ import CHECKPOINTS, KEPT, Plan, kept_scores, main, measure
from tests.benchmarks.evidence.cases import SCENES, Case, Scenes
from tests.benchmarks.evidence.maps import Row, by_name, uniform
from tests.benchmarks.evidence.measure import Truth, about_the_model, judge
from tests.benchmarks.evidence.report import PAGE, RESULTS, fill, write_report
from tests.benchmarks.evidence.scores import Scores
from tests.benchmarks.evidence.summary import MODEL, best_of, summarize

TWO_BATCHES = Plan(scenes=2 * SCENES, dear=SCENES, single=0, curves=0, sanity=0)
FROM_THE_SECOND_BATCH = ("uniform", "frame differences", "rollout", "difference, still")
BEST = {
    "other": "difference, still",
    "held": "difference, blur",
    "single": "difference, still",
    "deletion still": "class contributions, deviation",
    "path": "class contributions, deviation",
    "precision": "class contributions, deviation",
}
"""The best row for each metric, as the text of docs/methods.md says."""

BUILDS_DIFFER_BY = 0.02
"""Floats differ from one processor to the next, and so do scores that count few patches."""


@pytest.fixture(scope="module")
def model() -> TimeSformer:
    return load_model(min(CHECKPOINTS, key=lambda path: path.stat().st_size))


@pytest.fixture
def scores(tmp_path: Path) -> Scores:
    return Scores({"part": "report"}, tmp_path / "scores.json")


def counted(name: str, calls: list[str], *, forwards: float = 0, fails_at: int = -1) -> Row:
    """Return a row that writes its name to `calls`, and fails at that call."""

    def explain(case: Case) -> torch.Tensor:
        calls.append(name)
        if len(calls) == fails_at:
            raise KeyboardInterrupt
        return uniform(case)

    return Row(name, "baselines", forwards, explain)


def test_a_stopped_run_goes_on_at_the_row_that_it_lacks(model: TimeSformer, scores: Scores):
    calls: list[str] = []
    rows = [counted("first", calls), counted("second", calls, fails_at=7)]
    with pytest.raises(KeyboardInterrupt):  # a row is called once, and five times for its time
        measure(model, scores, rows, TWO_BATCHES, "report")
    assert calls == ["first"] * 6 + ["second"]
    assert scores.path is not None
    again = Scores.open(scores.path, scores.about)
    assert (again.scenes("first"), again.scenes("second")) == (SCENES, 0)

    calls.clear()
    rows = [counted("first", calls), counted("second", calls)]
    measure(model, again, rows, TWO_BATCHES, "report")
    assert calls == ["second"] * 6 + ["first", "second"]
    assert {again.scenes(name) for name in ("first", "second", MODEL)} == {2 * SCENES}
    assert Scores.open(scores.path, scores.about).rows == again.rows

    calls.clear()
    measure(model, again, rows, TWO_BATCHES, "report")
    assert calls == []


def test_dear_rows_come_last_and_have_few_scenes(model: TimeSformer, scores: Scores):
    calls: list[str] = []
    rows = [counted("dear", calls, forwards=1000), counted("cheap", calls)]
    measure(model, scores, rows, TWO_BATCHES, "report")
    assert calls == ["cheap"] * 7 + ["dear"] * 2
    assert (scores.scenes("dear"), scores.scenes("cheap")) == (SCENES, 2 * SCENES)


@pytest.fixture
def kept() -> dict[str, Scores]:
    return {path.stem: kept_scores(path, "report", KEPT) for path in CHECKPOINTS}


def test_documents_are_those_of_the_kept_scores(kept: dict[str, Scores], tmp_path: Path):
    documented = json.loads((RESULTS / "evidence.json").read_text())
    summary = summarize(kept) | {"torch": documented["torch"]}
    assert documented == summary
    write_report(summary, tmp_path)
    assert (tmp_path / "evidence.md").read_text() == (RESULTS / "evidence.md").read_text()
    assert fill(PAGE.read_text(), summary) == PAGE.read_text()


def test_text_of_the_page_has_the_figures_of_the_table(kept: dict[str, Scores]):
    rows = summarize(kept)["rows"]
    text = " ".join(PAGE.read_text().split())

    def figure(row: str, metric: str) -> str:
        return f"{rows[row][metric]['mean']:.2f}"

    projection, deviation = (
        figure(f"class contributions, {weighting}", "other")
        for weighting in ("projection", "deviation")
    )
    deep = rows["rollout"]["both"]["models"]["things-64px"]
    for told in (
        f"`rollout` does in {figure('rollout', 'both')} of the scenes, and in {deep:.2f} of those",
        f"`difference` is right in {figure('difference, still', 'other')} of the clips, "
        f"class contributions in {projection} (`projection`) and {deviation} (`deviation`), "
        f"`gradient_rollout` in {figure('gradient_rollout', 'other')}",
        f"right for both clips in {figure('frame differences', 'both')} of the scenes",
        f"agree with no intervention ({figure('frame differences', 'held')})",
        f"reaches {figure('difference, still', 'single')} at most",
    ):
        assert told in text


@pytest.mark.parametrize(("metric", "best"), BEST.items())
def test_best_rows_of_the_page_are_the_best(metric: str, best: str, kept: dict[str, Scores]):
    assert best_of(metric, summarize(kept)["rows"]) == best


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_kept_scores_are_those_of_the_present_code(path: Path, kept: dict[str, Scores]):
    truth = Truth.find(Scenes.draw(load_model(path), 1, "report"), single=0)
    measured = {MODEL: about_the_model(truth)} | {
        name: judge(by_name(name), truth, curves=0, timed=False) for name in FROM_THE_SECOND_BATCH
    }
    for row, scores in measured.items():
        for metric, values in scores.items():
            stored = kept[path.stem].rows[row][metric][SCENES : 2 * SCENES]
            assert values.tolist() == pytest.approx(stored, abs=BUILDS_DIFFER_BY), (row, metric)


def test_every_kept_file_is_of_a_checkpoint():
    assert {file.stem for file in KEPT.iterdir()} == {path.stem for path in CHECKPOINTS}


def test_checkpoints_differ_in_grid_and_one_is_deeper():
    models = [load_model(path).architecture for path in CHECKPOINTS]
    assert {architecture.depth for architecture in models} == {4, 8}
    assert len({architecture.grid for architecture in models}) == len(CHECKPOINTS) == 3


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--quick", "--document"], "keeps no scores"),
        (["--device", "cuda"], "has times of a CPU"),
        (["--document", "--scores", "nowhere"], "nowhere has no scores of moving-things"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    arguments: list[str],
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr("sys.argv", ["evidence", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert error in capsys.readouterr().err
