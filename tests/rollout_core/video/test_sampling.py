"""Moments worked by hand. Most specs have 4 frames and a stride of 15, so half a second."""

import numpy as np
import pytest

from rollout_core.contract import ExplainRequest
from rollout_core.errors import EmptySpan
from rollout_core.model.specs import ModelSpec, spec_of
from rollout_core.video.sampling import plan, strided, uniform

STRIDED = ModelSpec(name="s", frames=4, stride=15, clip_seconds=2.0, classes=2)
UNIFORM = ModelSpec(name="u", frames=4, sampling="uniform", clip_seconds=2.0, classes=2)


def times_of(duration, spec, **request):
    return plan(duration, ExplainRequest(**request), spec).times_seconds


def test_uniform_takes_the_centres_of_equal_segments():
    np.testing.assert_allclose(uniform(2, 4, frames=4), [2.25, 2.75, 3.25, 3.75])


def test_strided_centres_the_clip():
    # from 0 to 10 s: 4 moments that span 1.5 s, so 4.25 s on either side
    np.testing.assert_allclose(strided(0, 10, frames=4, stride=15), [4.25, 4.75, 5.25, 5.75])


def test_strided_fills_a_window_of_its_own_length_evenly():
    np.testing.assert_allclose(strided(3, 5, frames=4, stride=15), [3.25, 3.75, 4.25, 4.75])


def test_strided_repeats_the_end_of_a_short_window():
    np.testing.assert_allclose(strided(0, 0.8, frames=4, stride=15), [0, 0.5, 0.799, 0.799])


def test_strided_stays_in_a_window_shorter_than_the_margin():
    times = strided(1, 1.0005, frames=4, stride=15)
    np.testing.assert_allclose(times, [1, 1, 1, 1])


def test_one_uniform_clip_covers_the_video():
    np.testing.assert_allclose(times_of(8, UNIFORM), [[1, 3, 5, 7]])


def test_one_strided_clip_is_centred_in_the_video():
    np.testing.assert_allclose(times_of(10, STRIDED), [[4.25, 4.75, 5.25, 5.75]])


def test_moments_lie_in_the_span():
    times = times_of(100, UNIFORM, start_seconds=10, end_seconds=14)
    np.testing.assert_allclose(times, [[10.5, 11.5, 12.5, 13.5]])
    times = times_of(100, STRIDED, start_seconds=10, end_seconds=14)
    np.testing.assert_allclose(times, [[11.25, 11.75, 12.25, 12.75]])


def test_span_ends_with_the_video():
    found = plan(3, ExplainRequest(start_seconds=1, end_seconds=50), UNIFORM)
    assert (found.start_seconds, found.end_seconds) == (1, 3)
    np.testing.assert_allclose(found.times_seconds, [[1.25, 1.75, 2.25, 2.75]])


@pytest.mark.parametrize("start", [3, 3.5, 1000])
def test_span_beyond_the_end_is_refused(start):
    with pytest.raises(EmptySpan, match=r"the video lasts 3\.000 s"):
        plan(3, ExplainRequest(start_seconds=start), UNIFORM)


def test_request_overrides_the_sampling_of_the_model():
    found = plan(10, ExplainRequest(sampling="uniform"), STRIDED)
    assert found.sampling == "uniform"
    np.testing.assert_allclose(found.times_seconds, [[1.25, 3.75, 6.25, 8.75]])
    assert plan(10, ExplainRequest(), STRIDED).sampling == "strided"
    assert plan(10, ExplainRequest(sampling="strided"), UNIFORM).sampling == "strided"


def test_strided_tiles_are_consecutive():
    times = times_of(6, STRIDED, clips="tile")
    assert times.shape == (3, 4)
    np.testing.assert_allclose(times.ravel(), np.arange(12) * 0.5 + 0.25)


def test_last_strided_tile_repeats_the_end():
    times = times_of(4.7, STRIDED, clips="tile")
    np.testing.assert_allclose(
        times,
        [[0.25, 0.75, 1.25, 1.75], [2.25, 2.75, 3.25, 3.75], [4, 4.5, 4.699, 4.699]],
    )


@pytest.mark.parametrize(("duration", "clips"), [(4.0, 2), (4.24, 2), (4.26, 3), (0.1, 1)])
def test_remainder_without_a_moment_gets_no_tile(duration, clips):
    assert len(times_of(duration, STRIDED, clips="tile")) == clips


@pytest.mark.parametrize(
    ("duration", "clips"), [(0.5, 1), (2, 1), (2.9, 1), (3.1, 2), (10, 5), (10.9, 5)]
)
def test_uniform_tiles_have_about_the_length_of_a_clip(duration, clips):
    times = times_of(duration, UNIFORM, clips="tile")
    assert times.shape == (clips, 4)
    np.testing.assert_allclose(np.diff(times.ravel()), duration / (4 * clips))
    assert times[0, 0] == pytest.approx(duration / (8 * clips))


@pytest.mark.parametrize("name", ["timesformer-k400", "timesformer-l-k400", "timesformer-ssv2"])
@pytest.mark.parametrize("clips", ["one", "tile"])
@pytest.mark.parametrize("duration", [0.04, 1.0, 10.0, 61.7])
def test_moments_are_sorted_and_lie_in_the_span(name, clips, duration):
    spec = spec_of(name)
    times = times_of(duration, spec, clips=clips)
    assert times.shape[1] == spec.frames
    assert times.dtype == np.float64
    assert (np.diff(times.ravel()) >= 0).all()
    assert times.min() >= 0
    assert times.max() < duration


def test_kinetics_clip_has_eight_frames_over_eight_and_a_half_seconds():
    times = times_of(10, spec_of("timesformer-k400"))
    np.testing.assert_allclose(np.diff(times), np.full((1, 7), 32 / 30))
    assert times.mean() == pytest.approx(5)


def test_rounding_error_gets_no_tile():
    spec = spec_of("timesformer-k400")
    assert len(times_of(2 * 8 * 32 / 30 + 1e-9, spec, clips="tile")) == 2
