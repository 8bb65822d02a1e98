import pytest
import torch
from torch import Generator, Tensor

from rollout_core.demo.motions import (
    CLASSES,
    MEET,
    PASSES,
    SWINGS,
    Act,
    perform,
    random_label_pairs,
    random_labels,
    reversed_label,
)

COUNT = 64
RADIUS = 0.2
TIME = torch.linspace(0, 1, 9)


def act(name: str, seed: int = 0, time: Tensor = TIME) -> Act:
    """Return acts of one class."""
    labels = torch.full((COUNT,), CLASSES.index(name))
    radius = torch.full((COUNT,), RADIUS)
    return perform(labels, radius, time.expand(COUNT, -1), Generator().manual_seed(seed))


def distance(pair: Act) -> Tensor:
    """Return the distance of the two things, `b t`."""
    return (pair.offset[:, 0] - pair.offset[:, 1]).norm(dim=-1)


@pytest.mark.parametrize(
    ("name", "axis", "sign"),
    [
        ("a thing moves left", 1, -1),
        ("a thing moves right", 1, 1),
        ("a thing rises", 0, -1),
        ("a thing falls", 0, 1),
    ],
)
def test_thing_moves_in_one_direction(name: str, axis: int, sign: int):
    moved = act(name).offset[:, 0]
    steps = moved.diff(dim=1)
    assert (sign * steps[..., axis] >= 0).all()
    assert (sign * (moved[:, -1] - moved[:, 0])[:, axis] > 0.5).all()
    assert (steps[..., 1 - axis] == 0).all()


@pytest.mark.parametrize(("name", "sign"), [("a thing approaches", 1), ("a thing moves away", -1)])
def test_size_tells_the_distance_from_the_camera(name: str, sign: int):
    size = act(name).scale[:, 0].log()
    assert (sign * size.diff(dim=1) >= 0).all()
    assert (sign * (size[:, -1] - size[:, 0]) > 0.6).all()
    assert (act(name).offset == 0).all()


def test_swing_turns_back():
    right = act("a thing swings").offset[:, 0, :, 1]
    steps = right.diff(dim=1)
    assert ((steps > 0).any(dim=1) & (steps < 0).any(dim=1)).all()


@pytest.mark.parametrize(("name", "end"), [("two things meet", -1), ("two things part", 0)])
def test_things_touch_at_one_end(name: str, end: int):
    apart = distance(act(name))
    torch.testing.assert_close(apart[:, end], torch.full((COUNT,), 1.9 * RADIUS))
    assert (apart[:, -1 - end] > 1.9 * RADIUS + 0.5).all()
    # Both move, by the same amount.
    moved = act(name).offset.diff(dim=2).norm(dim=-1)
    torch.testing.assert_close(moved[:, 0], moved[:, 1])


@pytest.mark.parametrize(
    ("name", "end"),
    [("a thing is covered by another", -1), ("a thing appears from behind another", 0)],
)
def test_thing_behind_ends_or_begins_in_the_place_of_the_one_in_front(name: str, end: int):
    apart = distance(act(name))
    torch.testing.assert_close(apart[:, end], torch.zeros(COUNT), atol=1e-6, rtol=0)
    assert (apart[:, -1 - end] > 2 * RADIUS).all()
    assert (act(name).offset[:, 1] == 0).all()  # the one in front stays


def test_passing_thing_comes_from_one_side_and_leaves_at_the_other():
    pair = act("a thing passes another")
    gap = pair.offset[:, 0] - pair.offset[:, 1]
    assert (distance(pair)[:, [0, -1]] > 2 * RADIUS).all()
    assert (distance(pair)[:, 4] < RADIUS).all()
    assert ((gap[:, 0] * gap[:, -1]).sum(dim=-1) < 0).all()
    moves = pair.offset.diff(dim=2).abs().sum(dim=(2, 3)) > 0  # b 2
    assert (moves.sum(dim=1) == 1).all()
    assert 0.2 < moves[:, 0].float().mean() < 0.8  # in front or behind


@pytest.mark.parametrize("name", CLASSES)
def test_class_played_backwards_is_its_reverse(name: str):
    label = CLASSES.index(name)
    if label in (SWINGS, PASSES):
        assert reversed_label(label) == label
        return
    other = act(CLASSES[reversed_label(label)])
    torch.testing.assert_close(act(name).offset, other.offset.flip(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(act(name).scale, other.scale.flip(2))
    torch.testing.assert_close(act(name).present, other.present)


def test_middle_of_a_clip_does_not_tell_the_class_of_a_single_thing():
    middle = torch.tensor([0.5])
    for name in CLASSES[:SWINGS]:
        single = act(name, time=middle)
        assert (single.offset == 0).all()
        assert (single.scale == 1).all()


@pytest.mark.parametrize("label", range(len(CLASSES)))
def test_number_of_things_and_draws(label: int):
    generator = Generator().manual_seed(1)
    labels = torch.full((2,), label)
    present = perform(labels, torch.ones(2), TIME.expand(2, -1), generator).present
    assert present.tolist() == [[True, label >= MEET]] * 2
    other = Generator().manual_seed(1)
    perform(torch.zeros(2, dtype=torch.long), torch.ones(2), TIME.expand(2, -1), other)
    assert torch.equal(generator.get_state(), other.get_state())


def test_motions_are_eased():
    time = torch.linspace(0, 1, 101)
    speed = act("a thing falls", time=time).offset[:, 0, :, 0].diff(dim=1)
    assert (speed[:, 50] > 1.05 * speed[:, [0, -1]].amax(dim=1)).float().mean() > 0.9


def test_labels_are_drawn_uniformly():
    counts = random_labels(12_000, Generator().manual_seed(0)).bincount(minlength=len(CLASSES))
    assert counts.min() > 850


def test_pairs_have_two_classes_and_are_drawn_uniformly():
    pairs = random_label_pairs(12_000, Generator().manual_seed(0))
    assert pairs.shape == (12_000, 2)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert pairs.flatten().bincount(minlength=len(CLASSES)).min() > 1800
