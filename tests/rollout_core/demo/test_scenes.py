import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from rollout_core.demo.grounds import HELD_OUT_GROUNDS, TRAINING_GROUNDS
from rollout_core.demo.layout import NO_RING, STEADY_VIEW
from rollout_core.demo.motions import CLASSES, random_labels
from rollout_core.demo.scenes import ClipBatch, coverage_of, path, render, touched

FRAMES, SIZE = 8, 56


def clips(labels: Tensor | int = 0, seed: int = 0, **changes: object) -> ClipBatch:
    """Render scenes without noise; a number is the class of eight scenes."""
    if isinstance(labels, int):
        labels = torch.full((8,), labels)
    options = {"frames": FRAMES, "height": SIZE, "width": SIZE, "noise": 0.0} | changes
    return render(labels, Generator().manual_seed(seed), **options)


def centers(evidence: Tensor) -> Tensor:
    """Return the centres of masks `b t H W`, `b t 2` (y, x), in half-heights."""
    height, width = evidence.shape[-2:]
    y = torch.arange(height) * 2 / height - 1
    x = (torch.arange(width) - width / 2) * 2 / height
    mass = evidence.sum(dim=(2, 3))
    down = (evidence.sum(dim=3) * y).sum(dim=2)
    right = (evidence.sum(dim=2) * x).sum(dim=2)
    return torch.stack((down, right), dim=-1) / mass[..., None]


def test_shapes_and_ranges():
    batch = clips(torch.tensor([3, 7, 9]), height=48, width=80, frames=5, noise=0.05)
    assert batch.frames.shape == (3, 3, 5, 48, 80)
    assert batch.evidence.shape == (3, 5, 48, 80)
    assert batch.camera.shape == (3, 5, 2)
    for part in (batch.frames, batch.evidence):
        assert part.min() >= 0
        assert part.max() <= 1
    assert (batch.evidence.amax(dim=(2, 3)) > 0.9).all()


def test_evidence_moves_as_the_label_says_while_the_camera_moves():
    wide = {"width": 3 * SIZE}
    for name, axis, sign in (("a thing moves left", 1, -1), ("a thing falls", 0, 1)):
        batch = clips(CLASSES.index(name), **wide)
        world = centers(batch.evidence) + batch.camera
        whole = batch.evidence[:, :, [0, -1]].sum(dim=(1, 2, 3)) == 0  # not cut off
        moved = (world[:, -1] - world[:, 0])[whole]
        assert whole.sum() > 2
        assert (sign * moved[:, axis] > 0.4).all()
        assert (moved[:, 1 - axis].abs() < 0.05).all()


def test_same_seed_gives_the_same_scene_at_any_size():
    small, large = clips(1), clips(1, height=2 * SIZE, width=2 * SIZE)
    halved = F.avg_pool3d(large.evidence, (1, 2, 2))
    assert (halved - small.evidence).abs().mean() < 0.01
    halved = F.avg_pool3d(large.frames, (1, 2, 2))
    assert (halved - small.frames).abs().mean() < 0.02
    assert (clips(1, seed=1).frames - small.frames).abs().mean() > 0.1


def test_same_seed_gives_the_same_scene_at_any_rate():
    few, many = clips(6), clips(6, frames=3 * FRAMES)
    torch.testing.assert_close(many.frames[:, :, 1::3], few.frames, atol=1e-4, rtol=0)
    torch.testing.assert_close(many.evidence[:, 1::3], few.evidence, atol=1e-4, rtol=0)


@pytest.mark.parametrize("label", range(1, len(CLASSES)))
def test_all_but_the_act_is_the_same_for_every_class(label: int):
    # The same seed gives the same ground, camera and other things, so nothing else tells the class.
    first, other = clips(0), clips(label)
    torch.testing.assert_close(first.camera, other.camera)
    shadow = {"kernel_size": 15, "stride": 1, "padding": 7}
    near = [F.max_pool2d(batch.evidence, **shadow) > 0 for batch in (first, other)]
    clean = ~(near[0] | near[1])[:, None].expand_as(first.frames)
    assert clean.float().mean() > 0.5
    torch.testing.assert_close(first.frames[clean], other.frames[clean])


def test_thing_looks_the_same_for_every_class():
    # In the middle of the clip most things have the same place and size.
    middle = [clips(label, frames=1).frames for label in range(6)]
    for other in middle[1:]:
        torch.testing.assert_close(other, middle[0], atol=1e-4, rtol=0)


def test_steady_view_has_a_still_camera_and_large_things():
    usual, steady = clips(2), clips(2, view=STEADY_VIEW)
    assert (steady.camera == 0).all()
    assert (usual.camera != 0).all()
    assert steady.evidence.sum() > 1.8 * usual.evidence.sum()
    first = steady.frames[:, :, :1].expand_as(steady.frames)
    still = F.max_pool2d(path(steady), kernel_size=15, stride=1, padding=7) == 0
    still = still[:, None].expand_as(first)
    torch.testing.assert_close(steady.frames[still], first[still])


def test_ring_is_all_that_the_cue_changes():
    plain, cued = clips(4), clips(4, ringed=torch.zeros(8, dtype=torch.long))
    changed = (plain.frames - cued.frames).abs().amax(dim=1) > 1e-5
    assert (changed.sum(dim=(1, 2, 3)) > 20).all()
    assert (cued.evidence[changed] > 0).all()
    assert (cued.evidence >= plain.evidence - 1e-6).all()


def test_two_acts_move_and_only_the_first_has_a_ring():
    labels = torch.tensor([[CLASSES.index("a thing rises"), CLASSES.index("a thing falls")]])
    batch = clips(labels.expand(8, 2), width=3 * SIZE)
    assert batch.evidence.shape == (8, 2, FRAMES, SIZE, 3 * SIZE)
    for act, sign in ((0, -1), (1, 1)):
        world = centers(batch.evidence[:, act]) + batch.camera
        assert (sign * (world[:, -1] - world[:, 0])[:, 0] > 0.2).all()
    bare = clips(labels.expand(8, 2), width=3 * SIZE, ringed=torch.full((8,), NO_RING))
    torch.testing.assert_close(bare.evidence[:, 1], batch.evidence[:, 1], atol=0.3, rtol=0)
    assert (batch.evidence[:, 0].sum() - bare.evidence[:, 0].sum()) > 100


def test_ring_can_mark_either_act():
    labels = torch.tensor([[CLASSES.index("a thing rises"), CLASSES.index("two things meet")]])
    bare, first, second = (
        clips(labels.expand(8, 2), ringed=torch.full((8,), act)) for act in (NO_RING, 0, 1)
    )
    for act, marked in enumerate((first, second)):
        changed = (marked.frames - bare.frames).abs().amax(dim=1) > 1e-5
        assert (changed.sum(dim=(1, 2, 3)) > 20).all()
        assert (marked.evidence[:, act][changed] > 0).all()


def test_hidden_thing_is_no_evidence():
    batch = clips(CLASSES.index("a thing is covered by another"))
    assert batch.evidence.max() <= 1
    area = batch.evidence.sum(dim=(2, 3))
    inside = batch.evidence[:, :, [0, -1]].sum(dim=(1, 2, 3)) == 0
    assert (area[:, -1] < 0.85 * area[:, 0])[inside].all()


def test_evidence_is_nested():
    batch = clips(torch.tensor([[0, 7], [8, 2]]))
    near, whole = touched(batch), path(batch)
    assert near.shape == whole.shape == batch.evidence.shape
    assert (near >= batch.evidence - 1e-3).all()
    assert (whole >= near - 1e-3).all()
    assert whole.sum() > 1.3 * near.sum() > 1.3 * batch.evidence.sum()


def test_path_follows_the_ground():
    # What a still camera would see is the same in all frames.
    batch = clips(0, width=3 * SIZE)
    world = centers(path(batch)) + batch.camera
    assert (world - world[:, :1]).abs().max() < 0.1


def test_held_out_grounds_and_sprites_are_new():
    assert not TRAINING_GROUNDS.keys() & HELD_OUT_GROUNDS.keys()
    train, test = clips(0), clips(0, split="test")
    assert (train.frames - test.frames).abs().mean() > 0.05


def test_linear_classifier_of_single_frames_is_near_chance():
    generator = Generator().manual_seed(3)
    labels = random_labels(1200, generator)
    small = render(labels, generator, frames=3, height=16, width=16)
    targets = F.one_hot(labels, len(CLASSES)).float() - 1 / len(CLASSES)
    for frame in range(3):
        pixels = small.frames[:, :, frame].flatten(1)
        pixels = pixels - pixels.mean(dim=0)
        known, new = pixels[:800], pixels[800:]
        # Ridge regression; with this penalty it does not merely learn the clips by heart.
        gram = known @ known.T + 100 * torch.eye(800)
        answers = (new @ known.T @ torch.linalg.solve(gram, targets[:800])).argmax(dim=1)
        assert (answers == labels[800:]).float().mean() < 2 / len(CLASSES)


def test_coverage_is_the_mean_over_the_pixels_of_a_patch():
    evidence = torch.zeros(2, 1, 4, 6)
    evidence[1, 0, :2, 3] = 1
    expected = torch.zeros(2, 1, 2, 2)
    expected[1, 0, 0, 1] = 1 / 3
    torch.testing.assert_close(coverage_of(evidence, (2, 3)), expected)
