import pytest
import torch
from torch import Generator

from rollout_core.contract import MethodOptions
from rollout_core.demo.evaluate import HELD_OUT_SEED, confusion, pointing_game, top1
from rollout_core.demo.motions import random_label_pairs
from rollout_core.demo.sample import LABEL_PATH, SAMPLE_PATH, sample_frames, write_video
from rollout_core.demo.scenes import coverage_of, render
from rollout_core.demo.train import ARCHITECTURE
from rollout_core.model.checkpoints import MOVING_THINGS_PATH, open_model
from rollout_core.model.specs import MOVING_THINGS
from rollout_core.model.timesformer import TimeSformer
from rollout_core.relevance.explain import explain_clips, normalize
from rollout_core.video.clips import Limits, probe

MAX_CHECKPOINT_BYTES = 12_000_000


@pytest.fixture(scope="module")
def model() -> TimeSformer:
    return open_model("moving-things").model


@pytest.mark.parametrize("both", [True, False])
def test_model_classifies_motions_of_held_out_things_on_held_out_grounds(
    model: TimeSformer, both: bool
):
    assert top1(confusion(model, 64, both=both)) >= 0.95


def test_maps_point_at_the_thing_whose_motion_counts(model: TimeSformer):
    generator = Generator().manual_seed(HELD_OUT_SEED)
    labels = random_label_pairs(16, generator)
    size = {"frames": 8, "height": MOVING_THINGS.height, "width": MOVING_THINGS.width}
    batch = render(labels, generator, **size, split="test")
    coverage = coverage_of(batch.evidence, (8, 8))  # b a t h w
    clips = normalize(batch.frames, MOVING_THINGS)
    for options in (MethodOptions(), MethodOptions(method="contribution_rollout")):
        relevance = explain_clips(model, clips, options).relevance
        counts, moves = (pointing_game(relevance, coverage[:, act]).mean() for act in (0, 1))
        assert counts > 0.6
        assert moves < 0.2


def test_committed_checkpoint_is_small_and_matches_its_spec(model: TimeSformer):
    assert MOVING_THINGS_PATH.stat().st_size <= MAX_CHECKPOINT_BYTES
    assert open_model("moving-things").spec == MOVING_THINGS
    assert model.architecture == ARCHITECTURE


def test_sample_is_larger_than_the_model_input_and_lasts_ten_seconds():
    info = probe(SAMPLE_PATH, Limits())
    assert info.height > MOVING_THINGS.height
    assert info.width > info.height
    assert info.frame_rate_hz == pytest.approx(25)
    assert info.duration_seconds == pytest.approx(10, abs=0.5)
    assert LABEL_PATH.read_text().strip() in (MOVING_THINGS.labels or ())


def test_sample_can_be_made_again(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rollout_core.demo.sample.FRAME_RATE_HZ", 1)
    frames = sample_frames()
    assert frames.shape == (10, 360, 480, 3)
    write_video(tmp_path / "again.mp4", frames)
    info = probe(tmp_path / "again.mp4", Limits())
    assert (info.width, info.height) == (480, 360)
    assert info.duration_seconds == pytest.approx(10)
    assert not torch.from_numpy(frames[0]).equal(torch.from_numpy(frames[-1]))
