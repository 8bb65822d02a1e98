from pathlib import Path

import pytest
import torch

from tests.benchmarks.evidence.scores import Scores

ABOUT: dict[str, str | int] = {"seed": 3}


def filled(path: Path | None = None) -> Scores:
    scores = Scores.open(path, ABOUT)
    scores.add("a", {"hits": torch.tensor([1.0, 0.0, 1.0, 1.0])})
    scores.add("b", {"hits": torch.tensor([0.0, 0.0])})
    return scores


def test_an_interrupted_run_continues(tmp_path: Path):
    path = tmp_path / "scores.json"
    filled(path).save()
    again = Scores.open(path, ABOUT)
    assert (again.scenes("a"), again.scenes("b"), again.scenes("c")) == (4, 2, 0)
    again.add("b", {"hits": torch.tensor([1.0])})
    again.save()
    assert Scores.open(path, ABOUT).rows["b"]["hits"] == [0, 0, 1]
    assert [file.name for file in tmp_path.iterdir()] == ["scores.json"]


def test_a_file_about_something_else_is_refused(tmp_path: Path):
    path = tmp_path / "scores.json"
    filled(path).save()
    with pytest.raises(ValueError, match="seed"):
        Scores.open(path, {"seed": 4})


def test_without_a_file_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    filled().save()
    assert not list(tmp_path.iterdir())


def test_a_metric_may_be_measured_on_fewer_scenes():
    scores = filled()
    scores.add("a", {"area": torch.tensor([0.5])})
    assert scores.scenes("a") == scores.scenes("a", "hits") == 4
    assert scores.scenes("a", "area") == 1
    assert scores.scenes("a", "time") == 0


def test_a_forgotten_row_is_measured_again():
    scores = filled()
    scores.forget("a")
    scores.forget("never measured")
    assert scores.scenes("a") == 0
    assert scores.scenes("b") == 2
