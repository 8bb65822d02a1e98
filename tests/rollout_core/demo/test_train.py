import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Generator

from rollout_core.demo import train
from rollout_core.demo.motions import CLASSES
from rollout_core.demo.train import (
    ARCHITECTURE,
    DECAY_SHARE,
    PEAK_LEARNING_RATE,
    WARMUP_STEPS,
    Mix,
    Plan,
    draw_batch,
    learning_rate,
    patch_labels,
    resume,
    run,
    spec_of,
    start,
    take_step,
)
from rollout_core.model.checkpoints import open_model, save_model
from rollout_core.model.specs import MOVING_THINGS

SIZE = 16
STEPS = 1000
PLAN = Plan(steps=STEPS, clips=4)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return where a training stores its state."""
    return tmp_path / "state.pt"


def test_batch_holds_both_kinds_of_clips():
    batch = draw_batch(6, Generator().manual_seed(0), SIZE, "train")
    assert batch.frames.shape == (6, 3, MOVING_THINGS.frames, SIZE, SIZE)
    assert batch.labels.shape == (6,)
    assert batch.labels.max() < len(CLASSES)
    assert batch.patch_labels.shape == (6, MOVING_THINGS.frames, 4)
    for both in (0.0, 1.0):
        batch = draw_batch(3, Generator().manual_seed(0), SIZE, "test", Mix(both))
        assert len(batch.frames) == len(batch.labels) == len(batch.patch_labels) == 3


def test_patches_are_labelled_with_the_act_that_covers_a_quarter_of_them():
    batch = draw_batch(8, Generator().manual_seed(0), 112, "train")
    both, one = batch.patch_labels[:4], batch.patch_labels[4:]
    for clip, label in zip(one, batch.labels[4:], strict=True):
        assert set(clip.unique().tolist()) == {int(label), len(CLASSES)}
    for clip, label in zip(both, batch.labels[:4], strict=True):
        shown = set(clip.unique().tolist())
        assert {int(label), len(CLASSES)} < shown
        assert len(shown) == 3

    cover = torch.zeros(1, 2, 1, 16, 8)
    cover[0, 0, 0, :4, :4] = 1  # a quarter of the upper patch
    cover[0, 1, 0, 8:, :1] = 1  # an eighth of the lower one
    assert patch_labels(cover, torch.tensor([[3, 5]])).tolist() == [[[3, len(CLASSES)]]]


def test_resumed_training_equals_one_without_a_break(state: Path):
    unbroken, broken = start(SIZE, 3), start(SIZE, 3)
    for _ in range(2):
        take_step(unbroken, PLAN)
    take_step(broken, PLAN)
    broken.save(state)
    resumed = resume(state, SIZE)
    assert (resumed.step, resumed.seed) == (1, 3)
    take_step(resumed, PLAN)
    for name, part in unbroken.model.state_dict().items():
        assert torch.equal(part, resumed.model.state_dict()[name]), name
    assert [path.name for path in state.parent.iterdir()] == ["state.pt"]


def test_training_goes_on_with_larger_frames(state: Path):
    start(SIZE, 0).save(state)
    larger = resume(state, 3 * SIZE)
    assert larger.model.architecture.grid == (6, 6)
    small, large = start(SIZE, 0).model.pos_embed, larger.model.pos_embed
    torch.testing.assert_close(large[:, 0], small[:, 0])
    corners = large[0, 1:].reshape(6, 6, -1)[[0, 0, 5, 5], [0, 5, 0, 5]]
    nearest = torch.cdist(corners, small[0, 1:]).argmin(dim=1)
    assert nearest.tolist() == [0, 1, 2, 3]
    take_step(larger, PLAN)


def test_training_lowers_the_loss_on_a_batch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train, "WARMUP_STEPS", 1)
    batch = draw_batch(8, Generator().manual_seed(0), SIZE, "train")
    monkeypatch.setattr(train, "draw_batch", lambda *_, **__: batch)
    training = start(SIZE, 0)
    figures = torch.stack([take_step(training, PLAN) for _ in range(20)])
    assert figures[-1, 0] < 0.5 * figures[0, 0]
    assert figures[-1, 1] == 1 > figures[0, 1]


def test_signal_stops_after_the_present_step(state: Path, monkeypatch: pytest.MonkeyPatch):
    step = train.take_step

    def interrupted(*arguments: object) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(train, "take_step", interrupted)
    previous = signal.getsignal(signal.SIGTERM)
    try:
        assert not run(start(SIZE, 0), state, PLAN, until=5)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert resume(state, SIZE).step == 1


def test_learning_rate_rises_stays_and_falls_to_zero():
    rates = [learning_rate(step, STEPS) for step in range(STEPS + 1)]
    assert rates[0] == PEAK_LEARNING_RATE / WARMUP_STEPS
    flat = rates[WARMUP_STEPS : round(STEPS * (1 - DECAY_SHARE))]
    assert set(flat) == {PEAK_LEARNING_RATE}
    assert rates[-1] == 0
    assert learning_rate(2 * STEPS, STEPS) == 0
    assert learning_rate(300, STEPS, began=300) == rates[0]


def test_depth_is_kept_when_a_training_goes_on(state: Path):
    start(SIZE, 0, depth=2).save(state)
    resumed = resume(state, 2 * SIZE)
    assert resumed.model.architecture.depth == 2
    spec = spec_of(resumed.model, "other")
    assert (spec.name, spec.depth, spec.height, spec.width) == ("other", 2, 2 * SIZE, 2 * SIZE)


def test_model_fits_the_loader_and_the_limit(tmp_path: Path):
    path = tmp_path / "things.safetensors"
    save_model(path, start(MOVING_THINGS.height, 0).model, MOVING_THINGS)
    loaded = open_model(MOVING_THINGS.name, path)
    assert loaded.spec == MOVING_THINGS
    assert loaded.model.architecture == ARCHITECTURE
    assert path.stat().st_size < 12_000_000
