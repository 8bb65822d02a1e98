"""Tests of the colour tags, and of what is assumed without them."""

import pytest

from rollout_core.video.color import (
    BT709,
    FULL_RGB,
    LUMA,
    MATRICES,
    Tags,
    black_of,
    codes_of,
    color_of,
    have_equal_yuv,
    matrix_of,
)

UNTAGGED = Tags(2, 2, 2, 0, is_rgb=False, is_full_range=False)


def color(width=1920, height=1080, **tags):
    return color_of(UNTAGGED._replace(**tags), width, height)[0]


def test_stated_tags_are_kept():
    found = color(320, 240, matrix=9, primaries=9, transfer=14, range=1)
    assert found.model_dump() == {
        "matrix": "bt2020nc",
        "primaries": "bt2020",
        "transfer": "bt2020-10",
        "range": "limited",
        "assumed": (),
    }
    assert codes_of(found) == (9, 9, 14)


@pytest.mark.parametrize(
    ("width", "height", "matrix", "primaries"),
    [
        (320, 240, "smpte170m", "smpte170m"),
        (720, 480, "smpte170m", "smpte170m"),
        (720, 576, "bt470bg", "bt470bg"),
        (1280, 544, "bt709", "bt709"),
        (1280, 720, "bt709", "bt709"),
        (608, 1080, "bt709", "bt709"),
    ],
)
def test_untagged_videos_are_what_players_assume(width, height, matrix, primaries):
    found, warnings = color_of(UNTAGGED, width, height)
    assert (found.matrix, found.primaries, found.transfer) == (matrix, primaries, "bt709")
    assert found.range == "limited"
    assert set(found.assumed) == {"matrix", "primaries", "transfer", "range"}
    assert warnings == ()


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"matrix": 10}, "bt2020nc"),
        ({"matrix": 14}, "bt2020nc"),
        ({"matrix": 8}, "bt709"),
        ({"matrix": 3}, "bt709"),
        ({"matrix": 200}, "bt709"),
        ({"matrix": 0}, "bt709"),  # RGB in a format of luma and chroma
        ({"matrix": 12, "primaries": 9}, "bt2020nc"),
        ({"matrix": 12, "primaries": 6}, "smpte170m"),
        ({"matrix": 12, "primaries": 4}, "fcc"),
        ({"matrix": 8, "transfer": 16}, "bt2020nc"),
    ],
)
def test_unusable_matrix_is_replaced_and_reported(tags, expected):
    found, (warning,) = color_of(UNTAGGED._replace(**tags), 1920, 1080)
    assert found.matrix == expected
    assert "matrix" in found.assumed
    assert warning.code == "color_assumed"
    assert expected in warning.detail
    assert str(tags["matrix"]) in warning.detail


@pytest.mark.parametrize("code", range(256))
def test_every_code_gives_a_matrix_that_can_be_converted(code):
    found = color(matrix=code, primaries=code, transfer=code)
    assert found.matrix in LUMA
    assert matrix_of(found) == found.matrix
    assert MATRICES[codes_of(found)[0]] == found.matrix


def test_hdr_without_other_tags_is_bt2020():
    found = color(transfer=16)
    assert (found.matrix, found.primaries) == ("bt2020nc", "bt2020")


def test_range_is_the_tag_or_that_of_the_format():
    assert color(range=2).range == "full"
    assert color(is_full_range=True).range == "full"
    assert "range" not in color(is_full_range=True).assumed
    assert color(range=1).range == "limited"


def test_rgb_is_of_full_range_and_would_be_stored_as_bt709():
    found = color(is_rgb=True, matrix=0)
    assert (found.matrix, found.range) == ("gbr", "full")
    assert matrix_of(found) == "bt709"
    assert "matrix" not in found.assumed


def test_black_and_equality_depend_on_matrix_and_range():
    assert black_of(BT709) == (16, 128, 128)
    assert black_of(FULL_RGB) == (0, 128, 128)
    sd, pal = color(320, 240), color(720, 576)
    assert have_equal_yuv(sd, pal)
    assert not have_equal_yuv(sd, BT709)
    assert not have_equal_yuv(BT709, BT709.model_copy(update={"range": "full"}))
