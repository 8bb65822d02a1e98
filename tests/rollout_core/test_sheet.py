import numpy as np
import pytest

from rollout_core.contract import Overlay
from rollout_core.sheet import (
    GAP,
    LARGE_PIXELS,
    MARGIN,
    MAX_COLUMNS,
    PAPER,
    SMALL_PIXELS,
    Column,
    caption,
    choose_columns,
    draw_sheet,
    thumbnail_size,
)
from rollout_core.video import Crop

GREY = 120


def column_of(heat=0.0, seconds=1.25, share=0.14, size=(30, 160)):
    thumbnail = np.full((*size, 3), GREY, np.uint8)
    return Column(thumbnail, seconds, np.full((2, 2), heat, np.float32), share)


def draw(*columns, overlay=None):
    return np.asarray(draw_sheet(columns, overlay or Overlay())).astype(int)


def cell(sheet, column, row, size=(30, 160)):
    height, width = size
    x, y = MARGIN + column * (width + GAP), MARGIN + row * (height + GAP)
    return sheet[y : y + height, x : x + width]


def test_every_frame_has_a_column_up_to_the_most():
    assert choose_columns(1) == [0]
    assert choose_columns(8) == list(range(8))
    assert choose_columns(MAX_COLUMNS) == list(range(MAX_COLUMNS))


@pytest.mark.parametrize("count", [17, 31, 96, 1000])
def test_of_many_frames_some_are_chosen_evenly(count):
    chosen = choose_columns(count)
    assert len(set(chosen)) == MAX_COLUMNS
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    steps = np.diff(chosen)
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1


def test_pictures_keep_the_aspect_ratio_of_the_crop():
    assert thumbnail_size(Crop(0, 0, 720, 720), 8) == (LARGE_PIXELS, LARGE_PIXELS)
    assert thumbnail_size(Crop(5, 5, 400, 200), 8) == (LARGE_PIXELS, LARGE_PIXELS // 2)
    assert thumbnail_size(Crop(5, 5, 200, 400), 9) == (SMALL_PIXELS // 2, SMALL_PIXELS)
    assert thumbnail_size(Crop(0, 0, 1000, 1), 8) == (LARGE_PIXELS, 1)


def test_caption_tells_time_and_share():
    assert caption(column_of(seconds=1.25, share=0.14)) == "1.25 s · 14 %"
    assert caption(column_of(seconds=0, share=1)) == "0.00 s · 100 %"


def test_frames_are_above_and_the_same_with_heat_below():
    sheet = draw(column_of(heat=0), column_of(heat=1), overlay=Overlay(colormap="autumn"))
    assert (cell(sheet, 0, 0) == GREY).all()
    assert (cell(sheet, 1, 0) == GREY).all()
    assert (cell(sheet, 0, 1) == GREY).all()
    painted = cell(sheet, 1, 1)
    expected = 0.4 * GREY + 0.6 * np.array([255, 255, 0])  # the end of autumn is yellow
    np.testing.assert_allclose(painted.reshape(-1, 3), np.tile(expected, (30 * 160, 1)), atol=2)


def test_heat_stands_where_its_patch_is():
    heat = np.zeros((2, 4), np.float32)
    heat[1, 3] = 1
    column = Column(np.full((40, 160, 3), GREY, np.uint8), 0.0, heat, 1.0)
    painted = cell(draw(column), 0, 1, size=(40, 160))
    changed = np.abs(painted - GREY).sum(axis=-1)
    row, place = np.unravel_index(changed.argmax(), changed.shape)
    assert row >= 20
    assert place >= 120
    assert changed[:10, :80].max() == 0


def test_margins_and_gaps_are_paper():
    sheet = draw(column_of(), column_of())
    assert (sheet[:MARGIN] == PAPER).all()
    assert (sheet[:, :MARGIN] == PAPER).all()
    assert (sheet[:, -MARGIN:] == PAPER).all()
    assert (sheet[:, MARGIN + 160 : MARGIN + 160 + GAP] == PAPER).all()


def test_captions_wider_than_pictures_stay_apart():
    narrow = [column_of(size=(160, 10)) for _ in range(3)]
    columns = (draw(*narrow)[-MARGIN - 16 :].sum(axis=(0, 2)) < 765 * 40).nonzero()[0]
    assert (np.diff(columns) >= 10).sum() >= 2
    assert columns[0] >= MARGIN


def test_a_caption_and_a_bar_are_written_below():
    sheet = draw(column_of(share=1), column_of(share=0.5))
    below = sheet[MARGIN + 2 * 30 + 2 * GAP :]
    bar = below[1]
    dark = (bar.sum(axis=-1) < 200).nonzero()[0]
    first, second = dark[dark < MARGIN + 160], dark[dark > MARGIN + 160]
    assert (len(first), len(second)) == (160, 80)
    text = below[6:]
    assert (text.sum(axis=-1) < 200).sum() > 100


def test_sheet_without_any_relevance_is_drawn():
    assert draw(column_of(share=0)).shape[2] == 3
