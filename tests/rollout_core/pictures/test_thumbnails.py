"""Tests of the thumbnails against the decoded frames."""

import numpy as np
import pytest
from PIL import Image

from rollout_core.contract import ThumbnailSheet
from rollout_core.pictures.thumbnails import Thumbnails, size_in_tile
from rollout_core.video.decoder import Limits, open_video
from tests.rollout_core import films
from tests.rollout_core.pictures.test_preview import HDR, gradient, matrix

LIMITS = Limits()


def drawn(path, sheet, target):
    """Draw the thumbnails of a video; return each tile, `H W c`, in order, and the whole."""
    thumbnails = Thumbnails(sheet)
    with open_video(path, LIMITS) as decoder:
        for frame in decoder.frames():
            thumbnails.add(frame)
    thumbnails.save(target)
    with Image.open(target) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        whole = np.asarray(image).astype(float)
    return [tile_of(whole, sheet, place) for place in range(len(sheet.frame_index))], whole


def tile_of(whole, sheet, place):
    row, column = divmod(place, sheet.columns)
    rows = slice(row * sheet.tile_height, (row + 1) * sheet.tile_height)
    return whole[rows, column * sheet.tile_width : (column + 1) * sheet.tile_width]


def sheet_of(*frame_index, width=120, columns=3):
    return ThumbnailSheet(
        tile_width=width, tile_height=90, columns=columns, frame_index=frame_index
    )


def test_each_tile_shows_its_frame(film, tmp_path):
    sheet = sheet_of(0, 2, 3, 7, 9)
    tiles, whole = drawn(film(), sheet, tmp_path / "thumbnails.jpg")
    assert [films.index_of(tile) for tile in tiles] == [0, 2, 3, 7, 9]
    assert whole.shape == (180, 360, 3)
    assert tile_of(whole, sheet, 5).max() < 8  # no frame


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"display_matrix": matrix("turned 90")},
        {"display_matrix": matrix("mirrored, turned 270")},
        {"width": 65, "height": 49, "pix_fmt": "yuv444p"},
        {"pix_fmt": "yuv420p10le", "options": {"x264-params": HDR.format("smpte2084")}},
        {"options": {"x264-params": "colormatrix=bt470bg:fullrange=on"}, "pix_fmt": "yuvj420p"},
        {"width": 640, "height": 360},
    ],
)
def test_tile_is_the_whole_displayed_frame(film, tmp_path, recipe):
    path = film(**{"picture": gradient, "frames": 4, **recipe})
    with open_video(path, LIMITS) as decoder:
        frames = [frame.rgb() for frame in decoder.frames()]
    height, width = frames[0].shape[:2]
    sheet = sheet_of(1, 3, width=2 * round(45 * width / height))
    tiles, _ = drawn(path, sheet, tmp_path / "thumbnails.jpg")
    for tile, index in zip(tiles, sheet.frame_index, strict=True):
        expected = Image.fromarray(frames[index]).resize(tile.shape[1::-1])
        assert np.abs(tile - np.asarray(expected)).mean() < 4
        np.testing.assert_allclose(
            tile.mean(axis=(0, 1)), frames[index].mean(axis=(0, 1)), atol=2.5
        )


def test_very_wide_frame_is_not_squeezed(film, tmp_path):
    path = film(width=512, height=64, frames=1, picture=lambda *_: films.grey(9, 512, 64))
    (tile,), _ = drawn(path, sheet_of(0, width=200, columns=1), tmp_path / "thumbnails.jpg")
    bright = tile.mean(axis=(1, 2)) > 100
    assert np.flatnonzero(bright).tolist() == list(range(33, 57))  # 24 lines: an eighth of 200


@pytest.mark.parametrize(
    ("displayed", "tile", "expected"),
    [
        ((1920, 1080), (160, 90), (160, 90)),
        ((1080, 1920), (50, 90), (50, 90)),
        ((103, 180), (52, 90), (52, 90)),
        ((1, 5000), (2, 90), (2, 90)),
        ((4000, 1000), (200, 90), (200, 50)),
        ((8192, 16), (200, 90), (200, 2)),
    ],
)
def test_only_a_very_wide_frame_has_bars(displayed, tile, expected):
    assert size_in_tile(displayed, tile) == expected
