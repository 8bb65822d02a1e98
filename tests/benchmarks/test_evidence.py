import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rollout_core.model.checkpoints import MOVING_SHAPES_PATH, load_model
from rollout_core.model.timesformer import TimeSformer
from tests.benchmarks import evidence
from tests.benchmarks.competitors import Case, Competitor
from tests.benchmarks.evidence import SENSITIVITY, Batch, class_sensitivity, judge, measure
from tests.benchmarks.scores import Scores

METRICS = {"pointing", "path", "share", "covered", "frames", "insertion", "deletion", "time"}
ROWS = ["random", "attention, last layer"]


@pytest.fixture(scope="module")
def model() -> TimeSformer:
    return load_model(MOVING_SHAPES_PATH)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure two clips in each batch, in four steps."""
    monkeypatch.setattr(evidence, "BATCH_CLIPS", 2)
    monkeypatch.setattr(evidence, "SANITY_CLIPS", 2)
    monkeypatch.setattr(evidence, "STEPS", 4)


def competitor(maps: Tensor) -> Competitor:
    return Competitor("made up", "baselines", 0, lambda _case: maps)


def test_batches_are_deterministic(model: TimeSformer):
    first, same, second = (Batch.draw(model, number, seed=7) for number in (0, 0, 1))
    assert first.case.clips.shape == (2, 3, 8, 64, 64)
    assert first.coverage.shape == (2, 8, 8, 8)
    assert torch.equal(first.case.clips, same.case.clips)
    assert not torch.equal(first.case.clips, second.case.clips)
    assert torch.equal(first.case.targets, model(first.case.clips).argmax(dim=1))


def test_a_batch_of_two_objects_has_coverage_for_each_object(model: TimeSformer):
    batch = Batch.draw(model, 0, seed=7, objects=2)
    assert batch.coverage.shape == (2, 2, 8, 8, 8)
    assert (batch.labels[:, 0] != batch.labels[:, 1]).all()


def test_the_truth_beats_its_inverse_in_every_score(model: TimeSformer):
    batches = [Batch.draw(model, number, seed=7) for number in range(4)]
    truth, inverse = (
        [judge(competitor(sign * batch.coverage), batch) for batch in batches] for sign in (1, -1)
    )
    assert set(truth[0]) == METRICS

    def mean(scores: list[dict[str, Tensor]], metric: str) -> float:
        return torch.cat([batch[metric] for batch in scores]).mean().item()

    for metric in ("pointing", "path", "share", "covered", "frames", "insertion"):
        assert mean(truth, metric) > mean(inverse, metric)
    assert mean(truth, "deletion") < mean(inverse, "deletion")
    assert mean(truth, "pointing") == mean(truth, "frames") == 1


def test_deleting_most_first_is_inserting_least_first(model: TimeSformer):
    batch = Batch.draw(model, 0, seed=7)
    relevance = torch.rand(batch.coverage.shape)
    upright, inverted = (judge(competitor(r), batch) for r in (relevance, 1 - relevance))
    torch.testing.assert_close(upright["deletion"], inverted["insertion"])
    torch.testing.assert_close(upright["insertion"], inverted["deletion"])


def test_a_class_blind_map_is_not_class_sensitive(
    model: TimeSformer, monkeypatch: pytest.MonkeyPatch
):
    batch = Batch.draw(model, 0, seed=7, objects=2)
    relevance = torch.rand(2, 8, 8, 8)
    monkeypatch.setattr(evidence, "by_name", lambda _name: competitor(relevance))
    shares = class_sensitivity(batch)
    assert shares["blind"].tolist() == [0, 0]
    assert shares["own"].tolist() == [0.5, 0.5]
    assert shares["both"].tolist() == [0, 0]


def test_a_map_of_the_asked_object_is_class_sensitive(
    model: TimeSformer, monkeypatch: pytest.MonkeyPatch
):
    batch = Batch.draw(model, 0, seed=7, objects=2)

    def pointed(case: Case) -> Tensor:
        asked = (batch.labels == case.targets[:, None]).float()
        return torch.einsum("b o, b o t h w -> b t h w", asked, batch.coverage)

    made = {
        "rollout": Competitor("rollout", "published", 1, lambda _: torch.ones(2, 8, 8, 8)),
        "gradient_rollout": Competitor("gradient_rollout", "published", 3, pointed),
    }
    monkeypatch.setattr(evidence, "by_name", made.__getitem__)
    for name, shares in class_sensitivity(batch).items():
        assert shares.tolist() == [1, 1], name


def test_only_missing_scores_are_measured(model: TimeSformer, monkeypatch: pytest.MonkeyPatch):
    scores = Scores({})
    measure(model, scores, ROWS[:1], clips=2, areas=2, seed=7)
    first = scores.rows["random"]["share"][:]
    judged: list[str] = []

    def watched(row: Competitor, batch: Batch, *, areas: bool) -> dict[str, Tensor]:
        judged.append(row.name)
        return judge(row, batch, areas=areas)

    monkeypatch.setattr(evidence, "judge", watched)
    measure(model, scores, ROWS, clips=3, areas=2, seed=7)  # rounded up to 4
    assert judged == ["attention, last layer", "random", "attention, last layer"]
    assert [scores.clips(row) for row in ROWS] == [4, 4]
    assert [scores.clips(row, "deletion") for row in ROWS] == [2, 2]
    assert scores.rows["random"]["share"][:2] == first


def test_the_command_writes_scores_report_and_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept = tmp_path / "scores.json"
    rows = [argument for row in (*ROWS, SENSITIVITY) for argument in ("--row", row)]
    arguments = ["--clips", "2", "--json", str(kept), "--out", str(tmp_path), *rows]
    monkeypatch.setattr("sys.argv", ["evidence", *arguments])
    evidence.main()
    stored = json.loads(kept.read_text())
    assert set(stored["rows"]) == {*ROWS, SENSITIVITY}
    assert set(stored["rows"]["random"]) == METRICS
    assert "| random |" in (tmp_path / "evidence.md").read_text()
    assert (tmp_path / "evidence.png").read_bytes().startswith(b"\x89PNG")
