import pytest
import torch
from torch import Generator, Tensor

from tests.benchmarks.evidence.black_boxes import (
    CUBOID,
    Answer,
    lime,
    occlusion,
    sliding_cuboids,
    tube_segments,
)

GRID = (3, 4, 5)
PATCH = 2
T, HEIGHT, WIDTH = 3, 8, 10
NOTHING = torch.zeros(1, 3, 1, 1, 1)


def clip() -> Tensor:
    return 1 + torch.rand(1, 3, T, HEIGHT, WIDTH, generator=Generator().manual_seed(0))


def segments_of_patches() -> Tensor:
    """One segment for every row of patches in a frame, `t H W`."""
    rows = torch.arange(GRID[0] * GRID[1]).reshape(GRID[0], GRID[1], 1)
    return rows.repeat_interleave(PATCH, dim=1).expand(T, HEIGHT, WIDTH)


def seen(region: tuple[slice, slice, slice], calls: list[int] | None = None) -> Answer:
    """Return an answer that is the share of a region of pixels that is not hidden."""

    def answer(clips: Tensor) -> Tensor:
        if calls is not None:
            calls.append(len(clips))
        pixels = (clips[:, 0, *region] > 0).float()
        return pixels.mean(dim=(1, 2, 3))[:, None]

    return answer


ALL = 10_000
ONE_PATCH = (slice(1, 2), slice(2, 4), slice(6, 8))  # frame 1, row 1, column 3


def test_occlusion_finds_the_one_patch_that_matters():
    film = torch.ones(1, 3, 5, 6, 7)
    patch = (slice(2, 3), slice(2, 3), slice(3, 4))
    (relevance,) = occlusion(seen(patch), film, NOTHING, sliding_cuboids((5, 6, 7), ALL))
    # Every cuboid that covers this patch hides it; half of those that cover the next one do.
    assert relevance[2, 2, 3] == 1
    assert relevance[2, 2, 4] == 0.5
    assert (relevance == relevance.max()).sum() == 1
    assert (relevance > 0).sum() == 3 * 3 * 3


def test_occlusion_worked_by_hand():
    # The cuboid is as large as the frame of 2 x 2 patches, and has two places in time.
    small = torch.ones(1, 3, 3, 4, 4)
    first_frame = (slice(0, 1), slice(None), slice(None))
    (relevance,) = occlusion(seen(first_frame), small, NOTHING, sliding_cuboids((3, 2, 2), ALL))
    # The first cuboid loses all, the second nothing; both cover the middle frame.
    expected = torch.tensor([1.0, 0.5, 0.0])[:, None, None].expand(3, 2, 2)
    torch.testing.assert_close(relevance, expected)


def test_occlusion_takes_one_forward_for_each_cuboid_and_one_for_the_clip():
    calls: list[int] = []
    occlusion(seen(ONE_PATCH, calls), clip(), NOTHING, sliding_cuboids(GRID, ALL))
    places = [size - side + 1 for size, side in zip(GRID, CUBOID, strict=True)]
    assert sum(calls) == 1 + places[0] * places[1] * places[2]


def test_places_are_spread_if_there_are_more_than_asked():
    everywhere, some = sliding_cuboids((4, 6, 7), ALL), sliding_cuboids((4, 6, 7), 10)
    assert (len(everywhere), len(some)) == (3 * 5 * 6, 10)
    assert torch.equal(some[[0, -1]], everywhere[[0, -1]])
    assert some.any(dim=0).float().mean() > 0.3


def test_a_constant_model_gives_an_empty_map():
    def blind(clips: Tensor) -> Tensor:
        return torch.full((len(clips), 1), 0.4)

    assert occlusion(blind, clip(), NOTHING, sliding_cuboids(GRID, ALL)).abs().max() == 0
    segments = segments_of_patches()
    generator = Generator().manual_seed(0)
    relevance = lime(blind, clip(), NOTHING, segments, forwards=50, generator=generator)
    assert relevance.abs().max() < 1e-6


def test_lime_finds_the_weights_of_a_linear_model():
    segments = segments_of_patches()
    weights = torch.rand(int(segments.max()) + 1, generator=Generator().manual_seed(2))

    def linear(clips: Tensor) -> Tensor:
        there = (clips[:, 0] > 0).float()
        sizes = segments.flatten().bincount()
        total = (there * (weights / sizes)[segments]).sum(dim=(1, 2, 3))
        return torch.stack([total, -2 * total], dim=1)

    generator = Generator().manual_seed(0)
    relevance = lime(linear, clip(), NOTHING, segments, forwards=2000, generator=generator)
    torch.testing.assert_close(relevance[0], weights[segments], atol=0.01, rtol=0)
    torch.testing.assert_close(relevance[1], -2 * weights[segments], atol=0.02, rtol=0)


def test_lime_runs_as_many_forwards_as_asked_and_is_seeded():
    segments = segments_of_patches()
    calls: list[int] = []
    answer = seen(ONE_PATCH, calls)
    first, same, other = (
        lime(
            answer,
            clip(),
            NOTHING,
            segments,
            forwards=70,
            generator=Generator().manual_seed(seed),
        )
        for seed in (0, 0, 1)
    )
    assert sum(calls) == 3 * 70
    torch.testing.assert_close(first, same)
    assert not torch.equal(first, other)
    best = segments[1, 2, 6]
    assert (segments[first[0] == first.max()] == best).all()


def test_tubes_follow_a_moving_object():
    film = torch.zeros(1, 3, 6, 16, 16)
    for t in range(6):
        film[:, :, t, 4:8, 2 * t : 2 * t + 4] = 1
    segments = tube_segments(film, 12, Generator().manual_seed(0))
    assert segments.shape == (6, 16, 16)
    on_object, off_object = (segments[film[0, 0] == value].unique() for value in (1, 0))
    assert not set(on_object.tolist()) & set(off_object.tolist())


@pytest.mark.parametrize("count", [1, 7])
def test_there_are_at_most_as_many_tubes_as_asked(count: int):
    segments = tube_segments(clip(), count, Generator().manual_seed(0))
    assert segments.min() >= 0
    assert segments.max() < count
