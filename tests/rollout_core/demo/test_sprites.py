import pytest
import torch

from rollout_core.demo.sprite_names import CELL, HELD_OUT_SPRITES, SPRITES, TRAINING_SPRITES
from rollout_core.demo.sprites import REACH, SHEET_PATH, level_for, ring, textures


def test_held_out_sprites_are_not_trained_on():
    assert len(SPRITES) == len(TRAINING_SPRITES) + len(HELD_OUT_SPRITES) == 56
    assert len(set(SPRITES.values())) == len(SPRITES)
    assert SHEET_PATH.with_suffix(".LICENSE").read_text().startswith("sprites.webp")
    assert SHEET_PATH.stat().st_size < 250_000


@pytest.mark.parametrize("level", [0, 2])
def test_textures_are_sprites_above_soft_shadows(level: int):
    drawn = textures(level)
    side = round(CELL * REACH) // 2**level
    assert drawn.shape == (len(SPRITES), 5, side, side)
    color, opacity, sprite = drawn[:, :3], drawn[:, 3:4], drawn[:, 4:]
    assert drawn.min() >= 0
    assert drawn.max() <= 1 + 1e-5
    assert (color <= opacity + 1e-5).all()  # colours are multiplied by the opacity
    assert (opacity >= sprite - 1e-5).all()
    shadow = (opacity - sprite).sum(dim=(1, 2, 3))
    assert (shadow > 0.02 * sprite.sum(dim=(1, 2, 3))).all()


def test_every_sprite_fills_its_cell_and_hides_what_is_behind():
    area = textures(0)[:, 4].mean(dim=(1, 2)) * REACH**2
    assert area.min() > 0.25
    assert (textures(0)[:, 4].amax(dim=(1, 2)) > 0.99).all()


def test_ring_surrounds_the_sprite_in_two_colours():
    mark = ring(144)
    opacity = mark[3]
    assert opacity[72, 72] == 0
    assert opacity[72].max() == 1
    reds, greens = mark[0][opacity == 1], mark[1][opacity == 1]
    assert reds.min() > 0.9
    assert 0.3 < (greens > 0.5).float().mean() < 0.7
    torch.testing.assert_close(mark[4], opacity)


@pytest.mark.parametrize(("pixels", "level"), [(500, 0), (96, 0), (40, 1), (22, 2), (1, 4)])
def test_level_has_at_least_the_detail_of_the_frame(pixels: int, level: int):
    assert level_for(pixels) == level
