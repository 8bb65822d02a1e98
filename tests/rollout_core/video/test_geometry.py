"""Tests of orientation, pixel shape, and fitting."""

from fractions import Fraction

import numpy as np
import pytest

from rollout_core.video.geometry import (
    Box,
    Orientation,
    fit,
    orientation_of,
    plausible,
    square_size,
)

ONE = 1 << 16
STORED = np.array([[1, 2, 3], [4, 5, 6]])


def matrix(a, b, c, d):
    return np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], np.int32).tobytes()


EIGHT = [
    ((ONE, 0, 0, ONE), (False, 0), [[1, 2, 3], [4, 5, 6]]),
    ((0, -ONE, ONE, 0), (False, 1), [[3, 6], [2, 5], [1, 4]]),
    ((-ONE, 0, 0, -ONE), (False, 2), [[6, 5, 4], [3, 2, 1]]),
    ((0, ONE, -ONE, 0), (False, 3), [[4, 1], [5, 2], [6, 3]]),
    ((-ONE, 0, 0, ONE), (True, 0), [[3, 2, 1], [6, 5, 4]]),
    ((0, ONE, ONE, 0), (True, 1), [[1, 4], [2, 5], [3, 6]]),
    ((ONE, 0, 0, -ONE), (True, 2), [[4, 5, 6], [1, 2, 3]]),
    ((0, -ONE, -ONE, 0), (True, 3), [[6, 3], [5, 2], [4, 1]]),
]


@pytest.mark.parametrize(("numbers", "expected", "shown"), EIGHT)
def test_all_eight_orientations(numbers, expected, shown):
    found = orientation_of(matrix(*numbers))
    assert found == expected
    assert found.apply(STORED).tolist() == shown
    assert found.turned((3, 2)) == (len(shown[0]), len(shown))


@pytest.mark.parametrize("numbers", [case[0] for case in EIGHT])
def test_reversed_axes_are_those_whose_first_pixel_comes_last(numbers):
    found = orientation_of(matrix(*numbers))
    columns = found.apply(np.array([[0, 1], [0, 1]])).ravel()
    rows = found.apply(np.array([[0, 0], [1, 1]])).ravel()
    assert found.reverses == (columns[0] == 1, rows[0] == 1)


@pytest.mark.parametrize("numbers", [case[0] for case in EIGHT])
def test_part_of_the_turned_picture_is_found_where_it_is_stored(numbers):
    found = orientation_of(matrix(*numbers))
    stored = np.arange(7 * 5).reshape(5, 7)
    shown = found.apply(stored)
    part = Box(1, 0, 3, 4)
    place = found.stored(part, shown.shape[::-1])
    assert shown[part.slices].shape == (4, 3)
    np.testing.assert_array_equal(found.apply(stored[place.slices]), shown[part.slices])


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Box(100, 40, 30, 20), Box(80, 16, 80, 64)),
        (Box(96, 48, 16, 16), Box(80, 32, 64, 64)),
        (Box(3, 0, 10, 90), Box(0, 0, 32, 98)),
        (Box(150, 90, 50, 8), Box(128, 64, 72, 34)),
        (Box(0, 0, 200, 98), Box(0, 0, 200, 98)),
    ],
)
def test_part_is_widened_by_a_margin_within_the_picture(part, expected):
    assert part.widened(16, (200, 98)) == expected


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((65000, 5000, -5000, 65000), (False, 0)),  # tilted by 4 degrees
        ((5000, -65000, 65000, 5000), (False, 1)),
        ((2 * ONE, 0, 0, -ONE), (True, 2)),  # stretched
        ((0, 0, 0, 0), (False, 0)),
        ((-(2**31), -(2**31), 2**31 - 1, -(2**31)), (False, 2)),
    ],
)
def test_other_matrices_become_the_nearest_orientation(numbers, expected):
    assert orientation_of(matrix(*numbers)) == expected


@pytest.mark.parametrize("content", [b"", bytes(35), bytes(40)])
def test_matrix_of_another_length_is_ignored(content):
    assert orientation_of(content) == Orientation()


@pytest.mark.parametrize(
    ("size", "aspect", "expected"),
    [
        ((320, 240), Fraction(1), (320, 240)),
        ((320, 240), Fraction(2), (640, 240)),
        ((720, 480), Fraction(8, 9), (640, 480)),
        ((1440, 1080), Fraction(4, 3), (1920, 1080)),
        ((3, 100), Fraction(1, 16), (1, 100)),
        ((8000, 100), Fraction(2), (8000, 50)),  # too long a side
        ((4000, 1000), Fraction(2), (4000, 500)),  # too many pixels
        ((4000, 1), Fraction(16), (4000, 1)),
    ],
)
def test_pixels_become_square_within_the_limits(size, aspect, expected):
    assert square_size(size, aspect, max_pixels=5_000_000) == expected


@pytest.mark.parametrize("aspect", [Fraction(0), Fraction(-1), Fraction(17), Fraction(1, 17)])
def test_implausible_pixels_are_square(aspect):
    assert plausible(aspect) == 1
    assert plausible(Fraction(16)) == 16


@pytest.mark.parametrize(
    ("size", "whole", "expected"),
    [
        ((64, 48), (64, 48), (0, 0, 64, 48)),
        ((128, 96), (64, 48), (0, 0, 64, 48)),
        ((65, 49), (64, 48), (0, 0, 64, 48)),
        ((48, 64), (64, 48), (14, 0, 36, 48)),
        ((64, 16), (64, 48), (0, 16, 64, 16)),
        ((1, 8000), (64, 48), (31, 0, 1, 48)),
    ],
)
def test_fitted_pictures_are_as_large_as_possible_and_centred(size, whole, expected):
    assert fit(size, whole) == expected


@pytest.mark.parametrize("box", [(14, 0, 36, 49), (31, 0, 1, 49), (64, 48, 1, 1), (0, 0, 65, 49)])
def test_scaled_box_is_even_and_inside(box):
    left, top, width, height = Box(*box).scaled((65, 49), (32, 24))
    assert all(length % 2 == 0 for length in (left, top, width, height))
    assert 0 <= left < left + width <= 32
    assert 0 <= top < top + height <= 24
