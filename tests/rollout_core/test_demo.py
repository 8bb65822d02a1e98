from pathlib import Path

import pytest
import torch

from rollout_core.checkpoints import MOVING_SHAPES_PATH, load_model, open_model
from rollout_core.demo import train
from rollout_core.demo.evaluate import Pointing, evaluate, relevance_maps
from rollout_core.demo.sample import LABEL_PATH, SAMPLE_PATH
from rollout_core.explain import explain_clips
from rollout_core.specs import MOVING_SHAPES
from rollout_core.video import Limits, probe
from tests.rollout_core.models import random_clips, random_model

MAX_CHECKPOINT_BYTES = 8 * 2**20


def test_the_demo_model_knows_the_motions():
    report = evaluate(load_model(MOVING_SHAPES_PATH), clips=200)
    assert report.right / report.clips >= 0.95
    assert int(report.confusion.sum()) == 200
    rollout, chance = report.pointing["rollout"], report.on_object / report.clips
    assert rollout.hits / report.clips > 2 * chance
    assert rollout.share / report.clips > report.coverage / report.clips


def test_the_committed_checkpoint_is_small_and_half_precision():
    assert MOVING_SHAPES_PATH.stat().st_size <= MAX_CHECKPOINT_BYTES
    loaded = open_model("moving-shapes")
    assert loaded.spec == MOVING_SHAPES
    assert loaded.model.architecture == train.ARCHITECTURE


def test_the_sample_is_larger_than_the_model_s_input_and_about_ten_seconds():
    info = probe(SAMPLE_PATH, Limits())
    assert info.height > MOVING_SHAPES.height
    assert info.width > info.height
    assert info.frame_rate_hz == pytest.approx(25)
    assert info.duration_seconds == pytest.approx(10, abs=0.5)
    assert LABEL_PATH.read_text().strip() in (MOVING_SHAPES.labels or ())


def test_training_learns_from_nothing_and_writes_a_checkpoint(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    train.train(steps=2, seed=1, device="cpu", out=path)
    trained = load_model(path)
    fresh = train.new_model(1)
    assert trained.architecture == fresh.architecture
    moved = (trained.head.weight - fresh.head.weight).abs().max()
    assert 0 < moved < 0.01


def test_training_is_seeded():
    first, same, other = (train.new_model(seed).state_dict() for seed in (1, 1, 2))
    for name, parameter in first.items():
        torch.testing.assert_close(parameter, same[name])
    assert not torch.equal(first["pos_embed"], other["pos_embed"])


def test_embeddings_begin_in_order():
    # Neighbours in time are more alike than moments far apart.
    times = train.new_model(0).time_embed[0]
    similarity = times @ times.T
    near, far = similarity.diagonal(1).mean(), similarity.diagonal(6).mean()
    assert near > far


def test_pointing_counts_hits_and_shares():
    coverage = torch.zeros(2, 1, 2, 2)
    coverage[:, 0, 0, 0], coverage[:, 0, 0, 1] = 1.0, 0.2
    relevance = torch.tensor([[[[0.6, 0.2], [0.1, 0.1]]], [[[0.1, 0.5], [0.2, 0.2]]]])
    pointing = Pointing()
    pointing.add(relevance, coverage)
    assert pointing.hits == 1  # the second map's best patch is covered by a fifth only
    assert pointing.share == pytest.approx((0.6 + 0.04) + (0.1 + 0.1))


def test_the_maps_compared_are_those_of_one_forward():
    model, clips = random_model(), random_clips()
    maps, logits = relevance_maps(model, clips)
    whole, later = explain_clips(model, clips), explain_clips(model, clips, start_layer=1)
    torch.testing.assert_close(maps["rollout"], whole.relevance)
    torch.testing.assert_close(maps["rollout from the second layer"], later.relevance)
    torch.testing.assert_close(logits, whole.logits)
    last = maps["last layer's raw attention"]
    assert last.shape == (2, 3, 2, 6)
    assert (last.sum(dim=(2, 3)) < 1).all()
