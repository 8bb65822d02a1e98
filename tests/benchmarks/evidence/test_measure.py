import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rollout_core.demo.evaluate import correlation
from rollout_core.demo.layout import ACTS
from rollout_core.demo.train import start
from rollout_core.model.checkpoints import MOVING_THINGS_PATH, load_model, save_model
from rollout_core.model.specs import MOVING_THINGS
from rollout_core.model.timesformer import TimeSformer
from tests.benchmarks.evidence import __main__ as command
from tests.benchmarks.evidence import measure
from tests.benchmarks.evidence.__main__ import Plan
from tests.benchmarks.evidence.cases import SCENES, Case, Scenes, losses_without_a_patch
from tests.benchmarks.evidence.maps import Row, by_name
from tests.benchmarks.evidence.measure import Truth, about_the_model, judge
from tests.benchmarks.evidence.scores import Scores

METRICS = {"own", "both", "thing", "touched", "path", "precision", "other", "held"}


@pytest.fixture(scope="module")
def model() -> TimeSformer:
    return load_model(MOVING_THINGS_PATH)


@pytest.fixture(scope="module")
def truth(model: TimeSformer) -> Truth:
    return Truth.find(Scenes.draw(model, 0, "development"), single=0)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Return the checkpoint of an untrained model with 16 patches a clip."""
    path = tmp_path / "tiny.safetensors"
    save_model(path, start(16, 0).model, MOVING_THINGS)
    return path


def made_up(maps: Tensor, *, knows_class: bool = True) -> Row:
    return Row("made up", "baselines", 0, lambda _case: maps, knows_class)


def mean(scores: dict[str, Tensor]) -> dict[str, float]:
    return {metric: values.mean().item() for metric, values in scores.items()}


class TestScenes:
    def test_clips_of_a_scene_differ_in_the_ring_alone(self, model: TimeSformer, truth: Truth):
        scenes = truth.scenes
        assert scenes.case.clips.shape == (SCENES * ACTS, 3, 8, 112, 112)
        assert scenes.path.shape == (SCENES * ACTS, ACTS, 8, 14, 14)
        first, second = scenes.case.clips[0], scenes.case.clips[1]
        changed = (first - second).abs().amax(dim=0) > 0.2
        assert 0 < changed.float().mean() < 0.1
        assert scenes.case.classes[0].tolist() == scenes.case.classes[1].flip(0).tolist()
        torch.testing.assert_close(scenes.path[0], scenes.path[1].flip(0))

    def test_parts_and_batches_are_different_scenes(self, model: TimeSformer, truth: Truth):
        clips = truth.scenes.case.clips
        assert torch.equal(Scenes.draw(model, 0, "development").case.clips, clips)
        assert not torch.equal(Scenes.draw(model, 1, "development").case.clips, clips)
        assert not torch.equal(Scenes.draw(model, 0, "report").case.clips, clips)

    def test_evidence_is_nested(self, truth: Truth):
        scenes = truth.scenes
        assert (scenes.touched >= scenes.things - 1e-5).all()
        assert (scenes.path >= scenes.touched - 1e-5).all()


class TestModel:
    def test_holding_an_act_still_takes_more_from_its_own_class(self, truth: Truth):
        found = mean(about_the_model(truth))
        assert found == {"right": 1, "own counts": 1, "other counts": 1}

    def test_single_patches_are_held_still_one_by_one(self, tiny: Path):
        small = load_model(tiny)
        clips = torch.rand(1, 3, 8, 16, 16)
        losses = losses_without_a_patch(Case(small, clips, torch.tensor([[4]]), seed=0))
        assert losses.shape == (1, 8, 2, 2)
        held = clips.clone()
        held[:, :, 3, 8:, :8] = clips[:, :, :, 8:, :8].mean(dim=2)
        with torch.inference_mode():
            expected = (small(clips) - small(held))[0, 4]
        torch.testing.assert_close(losses[0, 3, 1, 0], expected, atol=1e-5, rtol=0)


class TestJudge:
    def test_the_truth_is_best_and_the_other_act_is_worst(self, truth: Truth):
        things = truth.scenes.things
        right, wrong = (
            mean(judge(made_up(maps), truth, curves=0, timed=False))
            for maps in (things, things.flip(1))
        )
        assert set(right) == METRICS
        assert {right[name] for name in METRICS - {"held"}} == {1}
        for name in ("own", "both", "thing", "path", "other"):
            assert wrong[name] == 0, name
        assert wrong["precision"] < 0.1
        assert right["held"] > 0 > wrong["held"]

    def test_a_map_without_the_model_is_right_for_half_of_the_clips(self, truth: Truth):
        for name in ("uniform", "centre prior"):
            found = mean(judge(by_name(name), truth, curves=0, timed=False))
            assert (found["own"], found["both"]) == (0.5, 0), name
        found = mean(judge(by_name("frame differences"), truth, curves=0, timed=False))
        assert found["path"] == pytest.approx(0.5, abs=0.26)

    def test_the_rollout_follows_the_ring(self, truth: Truth):
        found = mean(judge(by_name("rollout"), truth, curves=0, timed=True))
        assert found["both"] == 1
        assert found["other"] == 0
        assert found["time"] > 0

    def test_deletion_of_the_truth_is_fast(self, truth: Truth, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(measure, "STEPS", 4)
        path = truth.scenes.path
        right, wrong = (
            judge(made_up(maps), truth, curves=1, timed=False) for maps in (path, 1 - path)
        )
        for fill in measure.FILLS:
            for name, other in (("deletion", "insertion"), ("insertion", "deletion")):
                assert len(right[f"{name} {fill}"]) == 1
                # Deleting the most relevant first is inserting the least relevant first.
                torch.testing.assert_close(
                    right[f"{name} {fill}"], wrong[f"{other} {fill}"], atol=0.01, rtol=0
                )
        assert right["deletion still"] < wrong["deletion still"]

    def test_correlation_of_rows(self):
        first = torch.tensor([[1.0, 2, 3], [1, 2, 3], [1, 1, 1]])
        other = torch.tensor([[2.0, 4, 6], [3, 2, 1], [1, 2, 3]])
        assert correlation(first, other).tolist() == pytest.approx([1, -1, 0])


class TestCommand:
    ROWS = (by_name("random"), by_name("attention, last layer"))
    PLAN = Plan(scenes=2 * SCENES, dear=0, single=0, curves=0, sanity=1)

    def test_only_missing_scores_are_measured(self, tiny: Path, monkeypatch: pytest.MonkeyPatch):
        scores, small = Scores({}), load_model(tiny)
        command.measure(small, scores, self.ROWS[:1], self.PLAN, "development")
        first = scores.rows["random"]["precision"][:]
        judged: list[str] = []

        def watched(row: Row, truth: Truth, **how: int) -> dict[str, Tensor]:
            judged.append(row.name)
            return judge(row, truth, **how)

        monkeypatch.setattr(command, "judge", watched)
        command.measure(small, scores, self.ROWS, self.PLAN, "development")
        assert judged == ["attention, last layer"] * 2
        assert scores.rows["random"]["precision"] == first
        assert [scores.scenes(row.name) for row in self.ROWS] == [2 * SCENES] * 2
        assert [scores.scenes(row.name, "no head") for row in self.ROWS] == [1, 1]

    def test_dear_rows_are_measured_on_few_scenes(self):
        plan = Plan(scenes=32, dear=4, single=8, curves=6, sanity=4)
        assert plan.of(by_name("rollout")) == plan
        assert plan.of(by_name("Video-LIME")) == Plan(4, 4, 4, 4, 2)

    def test_scores_and_report_are_written(
        self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(command, "FULL", self.PLAN)
        rows = [word for row in self.ROWS for word in ("--row", row.name)]
        arguments = ["--checkpoint", str(tiny), "--scores", str(tmp_path / "scores")]
        monkeypatch.setattr(
            "sys.argv", ["evidence", *arguments, "--out", str(tmp_path / "out"), *rows]
        )
        command.main()
        stored = json.loads((tmp_path / "scores" / "tiny.json").read_text())
        assert set(stored["rows"]) == {"the model", *(row.name for row in self.ROWS)}
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            "evidence.json",
            "evidence.md",
            "evidence.png",
        }
        assert "| random |" in (tmp_path / "out" / "evidence.md").read_text()
