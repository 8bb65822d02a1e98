from pathlib import Path

import pytest
import torch
from torch import Generator

from rollout_core.demo import evaluate, train
from rollout_core.demo.evaluate import ON_OBJECT, coverage_of
from rollout_core.demo.shapes import CLASSES, LABEL_PATH, SAMPLE_PATH, ClipBatch
from rollout_core.model.checkpoints import MOVING_SHAPES_PATH, load_model, open_model
from rollout_core.model.specs import MOVING_SHAPES
from rollout_core.video.clips import Limits, probe

MAX_CHECKPOINT_BYTES = 8 * 2**20


def drawn(*counts: int) -> list[ClipBatch]:
    """Return the batches that an evaluation draws."""
    generator = Generator().manual_seed(evaluate.HELD_OUT_SEED)
    return [train.draw_clips(count, generator) for count in counts]


def test_demo_model_classifies_the_motions_and_its_maps_beat_chance():
    report = evaluate.evaluate(load_model(MOVING_SHAPES_PATH), clips=80)
    assert report.top1 >= 0.95
    assert int(report.confusion.sum()) == 80
    chance_hits, chance_share = report.pointing["chance"]
    for name in evaluate.MAPS:
        hits, share = report.pointing[name]
        assert hits > 2 * chance_hits
        assert share > chance_share


def test_committed_checkpoint_is_small_and_matches_its_spec():
    assert MOVING_SHAPES_PATH.stat().st_size <= MAX_CHECKPOINT_BYTES
    loaded = open_model("moving-shapes")
    assert loaded.spec == MOVING_SHAPES
    assert loaded.model.architecture == train.ARCHITECTURE


def test_sample_is_larger_than_the_model_input_and_lasts_ten_seconds():
    info = probe(SAMPLE_PATH, Limits())
    assert info.height > MOVING_SHAPES.height
    assert info.width > info.height
    assert info.frame_rate_hz == pytest.approx(25)
    assert info.duration_seconds == pytest.approx(10, abs=0.5)
    assert LABEL_PATH.read_text().strip() in (MOVING_SHAPES.labels or ())


def test_training_changes_the_model_and_writes_a_checkpoint(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    train.train(steps=2, seed=1, device="cpu", out=path)
    trained = load_model(path)
    fresh = train.new_model(1)
    assert trained.architecture == fresh.architecture
    moved = (trained.head.weight - fresh.head.weight).abs().max()
    assert 0 < moved < 0.01


def test_initial_model_depends_on_the_seed():
    first, same, other = (train.new_model(seed).state_dict() for seed in (1, 1, 2))
    for name, parameter in first.items():
        torch.testing.assert_close(parameter, same[name])
    assert not torch.equal(first["pos_embed"], other["pos_embed"])


def test_initial_time_embeddings_are_ordered():
    # Neighbours in time are more similar than distant moments.
    times = train.new_model(0).time_embed[0]
    similarity = times @ times.T
    near, far = similarity.diagonal(1).mean(), similarity.diagonal(6).mean()
    assert near > far


def test_report_counts_predictions_by_true_class(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluate, "BATCH_CLIPS", 4)
    report = evaluate.evaluate(train.new_model(0), clips=10)
    labels = torch.cat([draw.labels for draw in drawn(4, 4, 2)])
    assert torch.equal(report.confusion.sum(dim=1), labels.bincount(minlength=len(CLASSES)))
    assert report.top1 == pytest.approx(report.confusion.diagonal().sum().item() / 10)


def test_report_has_mean_scores_over_all_clips(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluate, "BATCH_CLIPS", 4)
    report = evaluate.evaluate(train.new_model(0), clips=10)
    coverage = torch.cat([coverage_of(draw.evidence, (8, 8)) for draw in drawn(4, 4, 2)])
    on_object = (coverage >= ON_OBJECT).float().mean().item()
    assert report.pointing["chance"] == pytest.approx((on_object, on_object))


def test_report_lists_every_class_and_every_map():
    lines = list(evaluate.evaluate(train.new_model(0), clips=2).lines())
    assert lines[0].startswith("top-1 on 2 held-out clips: ")
    assert [line.split()[0] for line in lines[1:9]] == list(CLASSES)
    assert [line[:32].strip() for line in lines[10:]] == ["chance", *evaluate.MAPS]
