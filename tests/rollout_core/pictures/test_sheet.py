import numpy as np
import pytest

from rollout_core.contract import Caption, Overlay
from rollout_core.pictures.sheet import (
    BAND_COLUMNS,
    GAP,
    HEADER_HEIGHT,
    INK,
    LINE,
    MARGIN,
    MAX_FRAMES,
    MIN_WIDTH,
    PAPER,
    SHARE_HEIGHT,
    SHARE_WIDTH,
    THUMBNAIL_PIXELS,
    Column,
    HeatMap,
    choose_frames,
    draw_sheet,
    thumbnail_size,
)
from rollout_core.video.clips import Crop

GREY = 120
MAP_TOP = HEADER_HEIGHT + 30 + GAP // 2 + LINE + GAP
"""Upper edge of the first row of heat maps below pictures 30 pixels high."""

ROW_PITCH = 30 + GAP // 2 + SHARE_HEIGHT + GAP // 2 + LINE + GAP
"""Distance between rows of heat maps."""

COLD, HOT = np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)


def column_of(heat=0.0, seconds=1.25, share=0.14, size=(30, 160)):
    heat_map = HeatMap(np.full((2, 2), heat, np.float32), share)
    return column_of_maps(heat_map, seconds=seconds, size=size)


def column_of_maps(*maps, seconds=1.25, size=(30, 160)):
    return Column(np.full((*size, 3), GREY, np.uint8), seconds, maps)


def draw(*columns, overlay=None, caption=None, **options):
    sheet = draw_sheet(columns, overlay or Overlay(), caption or Caption(), **options)
    return np.asarray(sheet).astype(int)


def cell(sheet, column, top, size=(30, 160)):
    """Return the pixels of one picture of a sheet."""
    height, width = size
    x = MARGIN + column * (width + GAP)
    return sheet[top : top + height, x : x + width]


def dark_columns(area):
    """Return the columns of pixels that hold text or a bar."""
    return (area.sum(axis=-1) < 400).any(axis=0).nonzero()[0]


def bar_heights(sheet, row, columns):
    """Return the heights of the bars below a row of heat maps."""
    top = MAP_TOP + row * ROW_PITCH + 30 + GAP // 2
    middles = [MARGIN + place * (160 + GAP) + 80 for place in range(columns)]
    return [(sheet[top : top + SHARE_HEIGHT, x] == INK).all(axis=-1).sum() for x in middles]


def test_every_frame_has_a_column_up_to_the_maximum():
    assert choose_frames(1) == [0]
    assert choose_frames(8) == list(range(8))
    assert choose_frames(MAX_FRAMES) == list(range(MAX_FRAMES))


@pytest.mark.parametrize("count", [17, 31, 96, 1000])
def test_many_frames_are_thinned_evenly(count):
    chosen = choose_frames(count)
    assert len(set(chosen)) == MAX_FRAMES
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    steps = np.diff(chosen)
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1


def test_pictures_keep_the_aspect_ratio_of_the_crop():
    assert thumbnail_size(Crop(0, 0, 720, 720)) == (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS)
    assert thumbnail_size(Crop(5, 5, 400, 200)) == (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS // 2)
    assert thumbnail_size(Crop(0, 0, 1000, 1)) == (THUMBNAIL_PIXELS, 1)


def test_time_and_share_are_told_in_words():
    assert column_of(seconds=1.25, share=0.14).time == "1.25 s"
    assert column_of(seconds=1.25, share=0.14).maps[0].words == "14 % of relevance"


def test_frames_are_drawn_above_their_heat_maps():
    sheet = draw(column_of(heat=0), column_of(heat=1), overlay=Overlay(colormap="autumn"))
    assert (cell(sheet, 0, HEADER_HEIGHT) == GREY).all()
    assert (cell(sheet, 1, HEADER_HEIGHT) == GREY).all()
    assert (cell(sheet, 0, MAP_TOP) == GREY).all()
    painted = cell(sheet, 1, MAP_TOP)
    expected = 0.4 * GREY + 0.6 * np.array([255, 255, 0])  # the end of autumn is yellow
    np.testing.assert_allclose(painted.reshape(-1, 3), np.tile(expected, (30 * 160, 1)), atol=2)


def test_heat_is_drawn_at_its_patch():
    heat = np.zeros((2, 4), np.float32)
    heat[1, 3] = 1
    column = column_of_maps(HeatMap(heat, 1.0), size=(40, 160))
    painted = cell(draw(column), 0, MAP_TOP + 10, size=(40, 160))
    changed = np.abs(painted - GREY).sum(axis=-1)
    row, place = np.unravel_index(changed.argmax(), changed.shape)
    assert row >= 20
    assert place >= 120
    assert changed[:10, :80].max() == 0


def test_margins_and_gaps_are_blank():
    sheet = draw(*[column_of() for _ in range(4)])
    assert (sheet[:MARGIN] == PAPER).all()
    assert (sheet[-MARGIN:] == PAPER).all()
    assert (sheet[:, :MARGIN] == PAPER).all()
    assert (sheet[:, -MARGIN:] == PAPER).all()
    assert (sheet[:, MARGIN + 160 : MARGIN + 160 + GAP] == PAPER).all()


def test_words_wider_than_pictures_do_not_overlap():
    sheet = draw(*[column_of(size=(160, 10)) for _ in range(5)])
    columns = (sheet[-MARGIN - LINE :].sum(axis=(0, 2)) < 765 * 44).nonzero()[0]
    assert (np.diff(columns) >= 10).sum() >= 4
    assert columns[0] >= MARGIN


def test_more_frames_than_fit_beside_each_other_stand_in_two_bands():
    sheet = draw(*[column_of(size=(10, 208)) for _ in range(11)])
    assert sheet.shape[1] == 2 * MARGIN + 6 * (208 + GAP) - GAP
    one = draw(*[column_of(size=(10, 208)) for _ in range(BAND_COLUMNS)])
    band = one.shape[0] - HEADER_HEIGHT - MARGIN
    assert sheet.shape[0] == one.shape[0] + band + 2 * GAP
    below = sheet[HEADER_HEIGHT + band + 2 * GAP :][:10]
    last = MARGIN + 4 * (208 + GAP)
    assert (below[:, last : last + 208] == GREY).all()
    assert (below[:, last + 208 :] == PAPER).all()


def test_bars_show_the_shares_relative_to_the_largest_in_their_row():
    columns = [
        column_of_maps(HeatMap(COLD, first), HeatMap(COLD, second))
        for first, second in ((0.8, 0.1), (0.4, 0.2), (0, 0))
    ]
    sheet = draw(*columns, names=("", ""))
    assert bar_heights(sheet, 0, 3) == [SHARE_HEIGHT, SHARE_HEIGHT // 2, 0]
    assert bar_heights(sheet, 1, 3) == [SHARE_HEIGHT // 2, SHARE_HEIGHT, 0]
    line = sheet[MAP_TOP + 30 + GAP // 2 + SHARE_HEIGHT - 1, MARGIN : MARGIN + 160]
    assert abs((line == INK).all(axis=-1).sum() - 160 * SHARE_WIDTH) <= 1


@pytest.mark.parametrize("size", [(208, 1), (208, 2), (208, 3), (1, 208)])
def test_bars_of_narrow_pictures_are_drawn(size):
    height, width = size
    sheet = draw(column_of(share=1, size=size))
    top = HEADER_HEIGHT + 2 * height + GAP // 2 + LINE + GAP + GAP // 2
    area = sheet[top : top + SHARE_HEIGHT]
    found = (area == INK).all(axis=-1).sum()
    assert found == SHARE_HEIGHT * max(1, round(width * SHARE_WIDTH))


def test_sheet_without_any_relevance_is_drawn():
    assert draw(column_of(share=0)).shape[2] == 3


def test_every_method_has_a_row_of_heat_maps():
    cold, hot = HeatMap(COLD, 0.5), HeatMap(HOT, 1)
    plain, compared = draw(column_of()), draw(column_of_maps(cold, hot), names=("", ""))
    assert compared.shape[0] == plain.shape[0] + ROW_PITCH
    assert (cell(compared, 0, MAP_TOP) == GREY).all()
    assert (cell(compared, 0, MAP_TOP + ROW_PITCH) != GREY).all()


def test_names_are_drawn_left_of_their_rows():
    heat, wide = HeatMap(COLD, 0), (30, 600)
    named = column_of_maps(heat, heat, size=wide)
    sheet = draw(named, names=("attention", "a"))
    indent = sheet.shape[1] - draw(column_of(size=wide)).shape[1]
    assert indent > GAP
    left = sheet[:, : MARGIN + indent]
    assert (left[HEADER_HEIGHT : HEADER_HEIGHT + 30] == PAPER).all()
    long = dark_columns(left[MAP_TOP : MAP_TOP + 30])
    short = dark_columns(left[MAP_TOP + ROW_PITCH : MAP_TOP + ROW_PITCH + 30])
    assert long.min() >= MARGIN
    assert long.max() < MARGIN + indent - GAP // 2
    assert 0 < np.ptp(short) < np.ptp(long) / 3


def test_title_and_detail_stand_above():
    header = {
        caption: draw(column_of(), caption=caption)[MARGIN : HEADER_HEIGHT - 3 * GAP]
        for caption in (Caption(), Caption(title="left"), Caption(title="left", detail="a model"))
    }
    nothing, title, both = header.values()
    rows = [
        (upper != lower).any(axis=(1, 2)).nonzero()[0]
        for upper, lower in ((nothing, title), (title, both))
    ]
    assert len(rows[0]) > 0
    assert rows[0].max() < rows[1].min()


def test_title_that_is_too_long_ends_within_the_sheet():
    sheet = draw(column_of(), caption=Caption(title="a long word " * 20))
    assert sheet.shape[1] == MIN_WIDTH
    assert dark_columns(sheet[MARGIN : MARGIN + 20]).max() > MIN_WIDTH - 3 * MARGIN
    assert (sheet[:, -MARGIN:] == PAPER).all()


def test_frames_that_are_left_out_are_told():
    every, part = (draw(column_of(), sampled=count) for count in (1, 24))
    detail = slice(MARGIN + 34, MARGIN + 34 + LINE)
    assert len(dark_columns(every[detail])) == 0
    assert len(dark_columns(part[detail])) > 20


def test_key_shows_the_colours_from_least_to_most():
    sheet = draw(column_of(), overlay=Overlay(colormap="autumn", opacity=1))
    key = sheet[HEADER_HEIGHT - 2 * GAP - 6, MARGIN : MARGIN + 160]
    np.testing.assert_allclose(key[0], (128, 128, 128), atol=3)
    np.testing.assert_allclose(key[-1], (255, 255, 0), atol=8)
