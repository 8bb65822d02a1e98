import math

import pytest
import torch

from tests.benchmarks.evidence.scores import Scores
from tests.benchmarks.evidence.summary import MODEL, interval, summarize


def measured(shift: float = 0.0, scenes: int = 4) -> Scores:
    scores = Scores({"part": "report", "sha256": "ab"})
    scores.add(MODEL, {"right": torch.ones(scenes)})
    scores.add("random", {"path": torch.linspace(0, 0.6, scenes)})
    scores.add("rollout", {"path": torch.linspace(0.3, 0.9, scenes) + shift})
    return scores


def test_interval_equals_the_normal_approximation():
    values = (torch.rand(500, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    found = interval([values])
    half = 1.96 * values.std().item() / math.sqrt(500)
    assert found["mean"] == pytest.approx(values.mean().item(), abs=1e-4)
    assert found["low"] == pytest.approx(found["mean"] - half, abs=0.006)
    assert found["high"] == pytest.approx(found["mean"] + half, abs=0.006)


def test_every_model_counts_the_same():
    found = interval([torch.zeros(100), torch.ones(2)])
    assert (found["mean"], found["low"], found["high"]) == (0.5, 0.5, 0.5)


def test_interval_depends_on_the_seed():
    values = [torch.rand(20, generator=torch.Generator().manual_seed(0))]
    assert interval(values) == interval(values)
    assert interval(values) != interval(values, seed=1)


def test_summary_has_means_of_all_models_and_of_each():
    found = summarize({"a": measured(), "b": measured(shift=0.1, scenes=3)})
    path = found["rows"]["rollout"]["path"]
    assert path["mean"] == pytest.approx((0.6 + 0.7) / 2, abs=1e-3)
    assert path["models"] == {"a": pytest.approx(0.6), "b": pytest.approx(0.7)}
    assert path["scenes"] == 7
    assert found["models"] == {"a": "ab", "b": "ab"}


def test_differences_are_paired():
    found = summarize({"a": measured()})["behind"]["path"]
    assert found["best"] == "rollout"
    # Each scene differs by 0.3, so there is no doubt, although the scenes differ more.
    assert found["rows"]["random"] == {"mean": 0.3, "low": 0.3, "high": 0.3}
