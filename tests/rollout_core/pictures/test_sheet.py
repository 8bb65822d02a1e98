import numpy as np
import pytest

from rollout_core.contract import Overlay
from rollout_core.pictures.sheet import (
    CAPTION_HEIGHT,
    GAP,
    LARGE_PIXELS,
    MARGIN,
    MAX_COLUMNS,
    PAPER,
    SMALL_PIXELS,
    Column,
    HeatMap,
    choose_columns,
    draw_sheet,
    thumbnail_size,
)
from rollout_core.video.clips import Crop

GREY = 120
ROW_PITCH = 30 + 2 * GAP + CAPTION_HEIGHT
"""Distance between rows of heat maps for pictures 30 pixels high."""


def column_of(heat=0.0, seconds=1.25, share=0.14, size=(30, 160)):
    heat_map = HeatMap(np.full((2, 2), heat, np.float32), share)
    return column_of_maps(heat_map, seconds=seconds, size=size)


def column_of_maps(*maps, seconds=1.25, size=(30, 160)):
    return Column(np.full((*size, 3), GREY, np.uint8), seconds, maps)


def draw(*columns, overlay=None, names=("",)):
    return np.asarray(draw_sheet(columns, overlay or Overlay(), names=names)).astype(int)


def cell(sheet, column, row, size=(30, 160)):
    """Return the pixels of one picture of a sheet."""
    height, width = size
    x, y = MARGIN + column * (width + GAP), MARGIN + row * (height + GAP)
    return sheet[y : y + height, x : x + width]


def dark_columns(area):
    """Return the columns of pixels that hold text or a filled bar."""
    return (area.sum(axis=-1) < 200).any(axis=0).nonzero()[0]


def test_every_frame_has_a_column_up_to_the_maximum():
    assert choose_columns(1) == [0]
    assert choose_columns(8) == list(range(8))
    assert choose_columns(MAX_COLUMNS) == list(range(MAX_COLUMNS))


@pytest.mark.parametrize("count", [17, 31, 96, 1000])
def test_many_frames_are_thinned_evenly(count):
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


def test_caption_shows_time_and_share():
    assert column_of(seconds=1.25, share=0.14).caption(0) == "1.25 s · 14 %"
    assert column_of(seconds=0, share=1).caption(0) == "0.00 s · 100 %"


def test_frames_are_drawn_above_their_heat_maps():
    sheet = draw(column_of(heat=0), column_of(heat=1), overlay=Overlay(colormap="autumn"))
    assert (cell(sheet, 0, 0) == GREY).all()
    assert (cell(sheet, 1, 0) == GREY).all()
    assert (cell(sheet, 0, 1) == GREY).all()
    painted = cell(sheet, 1, 1)
    expected = 0.4 * GREY + 0.6 * np.array([255, 255, 0])  # the end of autumn is yellow
    np.testing.assert_allclose(painted.reshape(-1, 3), np.tile(expected, (30 * 160, 1)), atol=2)


def test_heat_is_drawn_at_its_patch():
    heat = np.zeros((2, 4), np.float32)
    heat[1, 3] = 1
    column = column_of_maps(HeatMap(heat, 1.0), size=(40, 160))
    painted = cell(draw(column), 0, 1, size=(40, 160))
    changed = np.abs(painted - GREY).sum(axis=-1)
    row, place = np.unravel_index(changed.argmax(), changed.shape)
    assert row >= 20
    assert place >= 120
    assert changed[:10, :80].max() == 0


def test_margins_and_gaps_are_blank():
    sheet = draw(column_of(), column_of())
    assert (sheet[:MARGIN] == PAPER).all()
    assert (sheet[:, :MARGIN] == PAPER).all()
    assert (sheet[:, -MARGIN:] == PAPER).all()
    assert (sheet[:, MARGIN + 160 : MARGIN + 160 + GAP] == PAPER).all()


def test_captions_wider_than_pictures_do_not_overlap():
    narrow = [column_of(size=(160, 10)) for _ in range(3)]
    columns = (draw(*narrow)[-MARGIN - 16 :].sum(axis=(0, 2)) < 765 * 40).nonzero()[0]
    assert (np.diff(columns) >= 10).sum() >= 2
    assert columns[0] >= MARGIN


def test_bar_and_caption_are_drawn_below_the_heat_map():
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


def test_every_method_has_a_row_of_heat_maps():
    cold, hot = HeatMap(np.zeros((2, 2), np.float32), 0.5), HeatMap(np.ones((2, 2), np.float32), 1)
    plain, compared = draw(column_of()), draw(column_of_maps(cold, hot), names=("", ""))
    assert compared.shape[0] == plain.shape[0] + ROW_PITCH
    first = MARGIN + 30 + GAP
    place = slice(MARGIN, MARGIN + 160)
    assert (compared[first : first + 30, place] == GREY).all()
    assert (compared[first + ROW_PITCH : first + ROW_PITCH + 30, place] != GREY).all()


def test_bars_are_relative_to_the_largest_in_their_row():
    heat = np.zeros((2, 2), np.float32)
    columns = [
        column_of_maps(HeatMap(heat, first), HeatMap(heat, second))
        for first, second in ((0.8, 0.1), (0.4, 0.2))
    ]
    sheet = draw(*columns, names=("", ""))
    top = MARGIN + 2 * (30 + GAP) + 1
    lengths = []
    for row in (top, top + ROW_PITCH):
        dark = dark_columns(sheet[row : row + 1])
        middle = MARGIN + 160 + GAP // 2
        lengths.append(((dark < middle).sum(), (dark > middle).sum()))
    assert lengths == [(160, 80), (80, 160)]


def test_names_are_drawn_left_of_their_rows():
    heat = HeatMap(np.zeros((2, 2), np.float32), 0)
    sheet = draw(column_of_maps(heat, heat), names=("attention", "a"))
    indent = sheet.shape[1] - draw(column_of()).shape[1]
    assert indent > GAP
    assert (sheet[: MARGIN + 30, : MARGIN + indent] == PAPER).all()
    left = sheet[:, : MARGIN + indent]
    first = MARGIN + 30 + GAP
    long = dark_columns(left[first : first + 30])
    short = dark_columns(left[first + ROW_PITCH : first + ROW_PITCH + 30])
    assert long.min() >= MARGIN
    assert long.max() < MARGIN + indent - GAP // 2
    assert 0 < np.ptp(short) < np.ptp(long) / 3
