import av
import numpy as np
import pytest

from rollout_core.colormap import alpha_table, check_colormap, rgb_table, yuv_table
from rollout_core.contract import Overlay
from rollout_core.errors import InvalidRequest


@pytest.mark.parametrize("name", ["turbo", "viridis", "magma_r", Overlay().colormap])
def test_known_colormaps_pass(name):
    check_colormap(name)


@pytest.mark.parametrize("name", ["", "no-such-map", "../turbo", "/etc/passwd", "#ff0000"])
def test_unknown_colormaps_are_refused(name):
    with pytest.raises(InvalidRequest, match="no colormap"):
        check_colormap(name)


def test_ends_of_a_colormap():
    table = rgb_table("gray")
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    assert table[0].tolist() == [0, 0, 0]
    assert table[255].tolist() == [255, 255, 255]
    assert rgb_table("gray_r")[0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("colour", "yuv"),  # the usual bars at 8 bits
    [
        ((255, 255, 255), (235, 128, 128)),
        ((0, 0, 0), (16, 128, 128)),
        ((255, 0, 0), (81, 90, 240)),
        ((0, 255, 0), (145, 54, 34)),
        ((0, 0, 255), (41, 240, 110)),
    ],
)
def test_colour_bars_in_bt601(colour, yuv):
    assert yuv_table(np.array([colour], np.uint8), "bt601")[0].tolist() == list(yuv)


@pytest.mark.parametrize(
    ("matrix", "number"), [("bt601", "ITU601"), ("bt709", "ITU709"), ("bt2020", "BT2020")]
)
def test_matrices_agree_with_ffmpeg(matrix, number):
    table = rgb_table("turbo")[::16]
    for colour, expected in zip(table, yuv_table(table, matrix), strict=True):
        pixels = np.broadcast_to(colour, (16, 16, 3)).copy()
        frame = av.VideoFrame.from_ndarray(pixels).reformat(
            format="yuv420p", dst_colorspace=number, dst_color_range="MPEG"
        )
        found = [bytes(plane)[0] for plane in frame.planes]
        np.testing.assert_allclose(found, expected.astype(int), atol=2)


def test_opacity_grows_with_heat():
    table = alpha_table(0.6)
    assert (table[0], table[255]) == (0, 153)
    assert (np.diff(table.astype(int)) >= 0).all()
    assert alpha_table(0).max() == 0
    assert alpha_table(1).tolist() == list(range(256))
