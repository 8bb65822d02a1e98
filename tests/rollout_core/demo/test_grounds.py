import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from rollout_core.demo.drawing import axis
from rollout_core.demo.grounds import GROUNDS, OCTAVES, Split, draw_grounds


def grounds(count: int, split: Split = "train", size: int = 32, seed: int = 0) -> Tensor:
    """Return grounds of square frames."""
    rows = axis(size, 1.0)
    return draw_grounds(count, Generator().manual_seed(seed), split, rows, rows)


@pytest.mark.parametrize("split", ["train", "test"])
def test_grounds_are_pictures_in_range(split: Split):
    pictures = grounds(12, split)
    assert pictures.shape == (12, 3, 32, 32)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert pictures.std(dim=(2, 3)).max() < 0.25  # calm
    assert pictures.std(dim=(1, 2, 3)).min() > 0.01
    assert pictures.mean(dim=(2, 3)).std(dim=0).min() > 0.05  # of several kinds


def test_rows_and_columns_are_not_swapped():
    rows, columns = axis(16, 1.0), axis(40, 2.5)
    wide = draw_grounds(4, Generator().manual_seed(0), "train", rows, columns)
    assert wide.shape == (4, 3, 16, 40)
    square = draw_grounds(4, Generator().manual_seed(0), "train", rows, axis(16, 1.0))
    # Only the light, which comes from the side, depends on the width.
    assert (wide[..., 12:28] - square).abs().mean() < 0.05


def test_same_seed_gives_the_same_ground_at_any_size():
    halved = F.avg_pool2d(grounds(6, size=64), 2)
    assert (halved - grounds(6)).abs().mean() < 0.02
    assert (grounds(6, seed=1) - grounds(6)).abs().mean() > 0.05


def test_kinds_are_complete():
    assert len(GROUNDS["train"]) == 7
    assert len(GROUNDS["test"]) == 3
    for kind in (*GROUNDS["train"].values(), *GROUNDS["test"].values()):
        assert len(kind.weights) == len(OCTAVES)
        assert all(len(bytes.fromhex(color)) == 3 for color in (*kind.ramp, *(kind.sky or ())))


def test_ground_with_a_sky_is_brighter_above():
    kinds = GROUNDS["test"]
    assert [name for name, kind in kinds.items() if kind.sky] == ["sea"]
    pictures = grounds(40, "test")
    step = pictures[:, :, :2].mean(dim=(1, 2, 3)) - pictures[:, :, 16:].mean(dim=(1, 2, 3))
    assert 0.1 < (step > 0.2).float().mean() < 0.6
    assert torch.isfinite(pictures).all()
