import pytest
import torch
from torch import Generator, Tensor

from rollout_core.demo.shapes import CLASSES, ClipBatch, random_labels, render

FRAMES, SIZE = 8, 64


def clips(name: str, count: int = 24, seed: int = 0, **changes: object) -> ClipBatch:
    """Render `count` scenes of one class."""
    labels = torch.full((count,), CLASSES.index(name))
    options = {"frames": FRAMES, "height": SIZE, "width": SIZE} | changes
    return render(labels, Generator().manual_seed(seed), **options)


def centers(batch: ClipBatch) -> Tensor:
    """Return the middle of the object, `b t 2` (y, x), in a frame wide enough to hold it."""
    grid = torch.stack(
        torch.meshgrid(torch.arange(SIZE), torch.arange(4 * SIZE), indexing="ij"), -1
    )
    mass = batch.evidence[..., None]
    return (mass * grid).sum(dim=(2, 3)) / mass.sum(dim=(2, 3))


def areas(batch: ClipBatch) -> Tensor:
    return batch.evidence.sum(dim=(2, 3))


def test_shapes_and_ranges():
    batch = clips("left", count=3, height=48, width=80, frames=5)
    assert batch.frames.shape == (3, 3, 5, 48, 80)
    assert batch.evidence.shape == (3, 5, 48, 80)
    assert batch.frames.min() >= 0
    assert batch.frames.max() <= 1
    assert set(batch.evidence.unique().tolist()) >= {0.0, 1.0}


@pytest.mark.parametrize(("name", "sign"), [("left", -1), ("right", 1)])
def test_a_translation_moves_its_way(name: str, sign: int):
    moved = centers(clips(name, width=4 * SIZE)).diff(dim=1)
    assert (sign * moved[..., 1] > 1).all()


@pytest.mark.parametrize(("name", "sign"), [("grow", 1), ("shrink", -1)])
def test_a_scaling_changes_the_area(name: str, sign: int):
    batch = clips(name, width=4 * SIZE)
    inside = batch.evidence[:, :, [0, -1], :].sum(dim=(1, 2, 3)) == 0
    assert inside.sum() > 5
    assert (sign * areas(batch)[inside].diff(dim=1) > 0).all()


def test_a_swing_comes_back():
    path = centers(clips("swing", width=4 * SIZE))
    steps = path.diff(dim=1)
    # Along the axis of the swing, some step goes back.
    first = steps[:, :1]
    assert ((steps * first).sum(-1) < 0).any(dim=1).float().mean() > 0.9


def test_a_blink_comes_and_goes_but_stays_evidence():
    batch = clips("blink", noise=0.0)
    torch.testing.assert_close(batch.evidence[:, :1].expand_as(batch.evidence), batch.evidence)
    changes = batch.frames.diff(dim=2).abs().amax(dim=(1, 3, 4)) > 0.05
    assert (changes.sum(dim=1) >= 2).all()
    assert (changes.sum(dim=1) < FRAMES - 1).all()


@pytest.mark.parametrize("name", CLASSES)
def test_nothing_changes_outside_the_evidence(name: str):
    batch = clips(name, noise=0.0)
    clean = (batch.evidence.amax(dim=1) == 0)[:, None, None].expand_as(batch.frames)
    first = batch.frames[:, :, :1].expand_as(batch.frames)
    torch.testing.assert_close(batch.frames[clean], first[clean])


@pytest.mark.parametrize("name", CLASSES)
def test_something_changes_inside_it(name: str):
    batch = clips(name, noise=0.0)
    assert (batch.frames.std(dim=2).amax(dim=(1, 2, 3)) > 0.05).all()


def test_the_middle_of_a_path_does_not_tell_the_class():
    # The same draws give the same looks and the same place half way, whatever the motion.
    odd = {"frames": 9, "noise": 0.0}
    left, right, grow = (clips(name, **odd) for name in ("left", "right", "grow"))
    torch.testing.assert_close(left.frames[:, :, 4], right.frames[:, :, 4])
    torch.testing.assert_close(left.frames[:, :, 4], grow.frames[:, :, 4])


def test_the_same_seed_gives_the_same_scene_at_any_size():
    small = clips("right", noise=0.0)
    large = clips("right", noise=0.0, height=2 * SIZE, width=2 * SIZE)
    halved = torch.nn.functional.avg_pool2d(large.evidence, 2)
    assert (halved - small.evidence).abs().mean() < 0.01


def test_other_seeds_give_other_scenes():
    difference = clips("left", seed=0).frames - clips("left", seed=1).frames
    assert difference.abs().mean() > 0.05


def test_labels_are_drawn_evenly():
    counts = random_labels(8000, Generator().manual_seed(0)).bincount(minlength=len(CLASSES))
    assert counts.min() > 850
