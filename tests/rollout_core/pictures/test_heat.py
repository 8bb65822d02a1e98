import av
import numpy as np
import pytest

from rollout_core.contract import Overlay
from rollout_core.errors import InvalidRequest
from rollout_core.pictures.heat import (
    DIVERGING,
    alpha_table,
    check_colormap,
    colour_table,
    contours,
    heat_track,
    rgb_table,
    yuv_table,
)
from rollout_core.result import frame_shares
from rollout_core.video.color import BT709


def track_of(maps, pts, index):
    """Return the heat track of clips whose frames hold one value each, on a grid of 2×3."""
    values = np.array(maps, np.float32)
    relevance = np.broadcast_to(values[..., None, None], (*values.shape, 2, 3))
    return heat_track(relevance, pts_seconds=np.array(pts, float), frame_index=np.array(index))


def scaled(relevance, scale, **style):
    """Return the heat of two clips of two frames."""
    pts, index = np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([[0, 25], [50, 75]])
    overlay = Overlay(scale=scale, **style)
    track = heat_track(relevance, pts_seconds=pts, frame_index=index, overlay=overlay)
    assert track.heat.shape == relevance.reshape(4, *relevance.shape[2:]).shape
    assert track.heat.dtype == np.float32
    return track.heat


def test_relevance_is_scaled_over_the_whole_video():
    relevance = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3) + 100
    expected = (np.arange(24) / (0.99 * 23)).clip(0, 1)
    np.testing.assert_allclose(scaled(relevance, "video").ravel(), expected, atol=1e-6)


def test_one_patch_that_stands_out_does_not_leave_the_others_pale():
    relevance = np.linspace(0, 1, 2 * 2 * 16 * 16, dtype=np.float32).reshape(2, 2, 16, 16)
    relevance[0, 0, 3, 4] = 1000
    heat = scaled(relevance, "video")
    assert heat[0, 3, 4] == 1
    assert heat[3].mean() > 0.8


def test_a_map_of_few_hot_patches_is_scaled_by_the_hottest():
    relevance = np.zeros((2, 2, 16, 16), np.float32)
    relevance[0, 0, 0, :2] = 1, 4
    assert scaled(relevance, "video")[0, 0, :3].tolist() == [0.25, 1, 0]


def test_each_frame_can_be_scaled_by_itself():
    relevance = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3) ** 2
    heat = scaled(relevance, "frame")
    for frame in heat:
        assert (frame.min(), frame.max()) == (0, 1)
    np.testing.assert_allclose(heat[0].ravel(), np.arange(6) ** 2 / 25, atol=1e-6)


def test_a_frame_of_even_relevance_has_no_heat_beside_others():
    relevance = np.ones((2, 2, 2, 3), np.float32)
    relevance[1, 1, 0, 0] = 2
    heat = scaled(relevance, "frame")
    assert heat[:3].max() == 0
    assert heat[3].max() == 1


def test_the_absolute_scale_counts_in_multiples_of_an_even_spread():
    relevance = np.full((2, 2, 2, 3), 0.5, np.float32)
    np.testing.assert_allclose(scaled(relevance, "absolute"), 1 / 8)
    relevance[0, 0, 0, 0] = 100
    np.testing.assert_allclose(scaled(relevance, "absolute")[0, 0, 0], 1)
    assert scaled(np.zeros_like(relevance), "absolute").max() == 0


def test_heat_is_linear_in_time_and_constant_beyond():
    track = track_of([[0, 1, 0.5]], [[1, 2, 4]], [[10, 20, 40]])
    expected = {0: 0, 1: 0, 1.25: 0.25, 2: 1, 3: 0.75, 4: 0.5, 9: 0.5}
    for seconds, heat in expected.items():
        np.testing.assert_allclose(track.at(seconds), np.full((2, 3), heat))


def test_rows_and_columns_are_not_swapped():
    relevance = np.zeros((1, 2, 2, 3), np.float32)
    relevance[0, 1, 1, 2] = 1
    index = np.array([[0, 1]])
    track = heat_track(relevance, pts_seconds=index * 1.0, frame_index=index)
    heat = track.at(0.5)
    assert heat[1, 2] == 0.5
    assert heat.sum() == 0.5


def test_frame_sampled_twice_gets_the_mean_map_and_the_sum_of_shares():
    track = track_of([[0, 1], [3, 4]], [[0, 1], [1, 1]], [[0, 25], [25, 25]])
    assert track.frame_index.tolist() == [0, 25]
    assert track.pts_seconds.tolist() == [0, 1]
    np.testing.assert_allclose(track.heat[:, 0, 0], [0, 1])
    np.testing.assert_allclose(track.share, [0, 1])


def test_shares_sum_to_one():
    track = track_of([[1, 2, 5]], [[0, 1, 2]], [[0, 1, 2]])
    np.testing.assert_allclose(track.share, [0.125, 0.25, 0.625])


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_constant_relevance_has_no_heat(value):
    track = track_of([[value, value]], [[0, 1]], [[0, 1]])
    assert (track.heat == 0).all()
    np.testing.assert_allclose(track.share, [0.5, 0.5])


def test_single_frame_has_one_map():
    track = track_of([[1, 1]], [[0, 0]], [[0, 0]])
    assert track.heat.shape == (1, 2, 3)
    assert track.at(5).shape == (2, 3)


def test_frame_shares_divide_the_relevance_of_a_clip():
    relevance = np.zeros((3, 2, 1, 2), np.float32)
    relevance[0] = [[[1, 2]], [[3, 4]]]
    relevance[1, 1] = 1e-30
    shares = frame_shares(relevance)
    np.testing.assert_allclose(shares, [[0.3, 0.7], [0, 1], [0, 0]], rtol=1e-6)
    assert shares.dtype == np.float32


@pytest.mark.parametrize("name", ["turbo", "viridis", "magma_r", Overlay().colormap])
def test_known_colormaps_are_accepted(name):
    check_colormap(name)


@pytest.mark.parametrize("name", ["", "no-such-map", "../turbo", "/etc/passwd", "#ff0000"])
def test_unknown_colormaps_are_refused(name):
    with pytest.raises(InvalidRequest, match="no colormap"):
        check_colormap(name)


def test_colormap_has_the_expected_ends():
    table = rgb_table("gray")
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    assert table[0].tolist() == [0, 0, 0]
    assert table[255].tolist() == [255, 255, 255]
    assert rgb_table("gray_r")[0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("colour", "yuv"),  # 8-bit colour bars
    [
        ((255, 255, 255), (235, 128, 128)),
        ((0, 0, 0), (16, 128, 128)),
        ((255, 0, 0), (81, 90, 240)),
        ((0, 255, 0), (145, 54, 34)),
        ((0, 0, 255), (41, 240, 110)),
    ],
)
def test_colour_bars_in_bt601(colour, yuv):
    table = yuv_table(
        np.array([colour], np.uint8), BT709.model_copy(update={"matrix": "smpte170m"})
    )
    assert table[0].tolist() == list(yuv)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("matrix", "number"),
    [
        ("smpte170m", "ITU601"),
        ("bt470bg", "ITU601"),
        ("bt709", "ITU709"),
        ("fcc", "FCC"),
        ("smpte240m", "SMPTE240M"),
        ("bt2020nc", "BT2020"),
    ],
)
def test_matrices_agree_with_ffmpeg(matrix, number, full):
    color = BT709.model_copy(update={"matrix": matrix, "range": "full" if full else "limited"})
    table = rgb_table("turbo")[::16]
    for colour, expected in zip(table, yuv_table(table, color), strict=True):
        pixels = np.broadcast_to(colour, (16, 16, 3)).copy()
        frame = av.VideoFrame.from_ndarray(pixels).reformat(
            format="yuv420p", dst_colorspace=number, dst_color_range="JPEG" if full else "MPEG"
        )
        found = [bytes(plane)[0] for plane in frame.planes]
        np.testing.assert_allclose(found, expected.astype(int), atol=2)


def test_alpha_grows_with_heat():
    table = alpha_table(Overlay(opacity=0.6))
    assert (table[0], table[255]) == (0, 0.6)
    assert (np.diff(table) > 0).all()
    assert alpha_table(Overlay(opacity=0)).max() == 0


@pytest.mark.parametrize("scale", ["video", "frame", "absolute"])
def test_signed_heat_is_even_around_its_middle(scale):
    relevance = np.random.default_rng(0).normal(size=(2, 2, 16, 16)).astype(np.float32)
    heat = scaled(relevance, scale, signed=True)
    np.testing.assert_allclose(scaled(-relevance, scale, signed=True), 1 - heat, atol=1e-6)
    flat = relevance.reshape(4, 16, 16)
    assert (np.sign(heat - 0.5) == np.sign(flat)).all()
    assert heat.max() > 0.7
    unsigned = scaled(relevance, scale)
    assert unsigned[flat < 0].max() == 0


def test_signs_do_not_change_the_shares_of_frames():
    relevance = np.array([[[[1, -5]], [[3, 0]]]], np.float32)
    index = np.array([[0, 1]])
    for signed in (False, True):
        track = heat_track(
            relevance, pts_seconds=index * 1.0, frame_index=index, overlay=Overlay(signed=signed)
        )
        assert track.share.tolist() == [0.25, 0.75]


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_nothing_is_drawn_where_there_is_nothing(value):
    maps = np.full((2, 2, 2, 3), 0, np.float32)
    maps[0, 0, 0, 0] = value
    heat = scaled(maps, "video", signed=True)
    assert (heat.ravel()[1:] == 0.5).all()
    table = alpha_table(Overlay(signed=True, opacity=1))
    assert table[[127, 128]].max() < 0.005
    assert table[[0, 255]].tolist() == [1, 1]


def test_signs_have_colours_of_their_own():
    table = colour_table(Overlay(signed=True, colormap="viridis"))
    assert np.array_equal(table, rgb_table(DIVERGING))
    red, blue = table[255].astype(int), table[0].astype(int)
    assert red[0] > red[2] + 100
    assert blue[2] > blue[0] + 100


def test_contours_are_where_the_level_is_and_as_thick_as_asked_for():
    levels = np.broadcast_to(np.linspace(0, 255, 511, dtype=np.float32), (40, 511))
    for thickness in (1.0, 4.0):
        lines = contours(levels, Overlay(), thickness)
        np.testing.assert_allclose(lines.sum(axis=1), 2 * thickness, atol=0.6)
        assert lines[:, 255].min() == 1
        assert lines[:, 408].min() == 1
    signed = contours(levels, Overlay(signed=True), 1.0)
    places = np.flatnonzero(signed[0] > 0.4)
    nearest = np.abs(places[:, None] / 510 - [0.1, 0.25, 0.75, 0.9])
    assert nearest.min(axis=1).max() < 0.003
    assert nearest.min(axis=0).max() < 0.003


def test_even_heat_has_no_contours():
    for level in (0, 127, 128, 204, 255):
        assert contours(np.full((8, 8), level, np.float32), Overlay(), 2.0).max() == 0
    assert contours(np.zeros((1, 1), np.float32), Overlay(), 2.0).shape == (1, 1)
