import numpy as np
import pytest

from rollout_core.heat import frame_shares, heat_track


def track_of(maps, pts, index):
    """Relevance of one clip whose frames hold one value each, on a grid of 2×3."""
    values = np.array(maps, np.float32)
    relevance = np.broadcast_to(values[..., None, None], (*values.shape, 2, 3))
    return heat_track(relevance, pts_seconds=np.array(pts, float), frame_index=np.array(index))


def test_relevance_is_scaled_over_the_whole_video():
    relevance = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3) + 100
    pts, index = np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([[0, 25], [50, 75]])
    track = heat_track(relevance, pts_seconds=pts, frame_index=index)
    np.testing.assert_allclose(track.heat.ravel(), np.arange(24) / 23, atol=1e-6)
    assert track.heat.shape == (4, 2, 3)
    assert track.heat.dtype == np.float32


def test_heat_is_linear_in_time_and_constant_beyond():
    track = track_of([[0, 1, 0.5]], [[1, 2, 4]], [[10, 20, 40]])
    expected = {0: 0, 1: 0, 1.25: 0.25, 2: 1, 3: 0.75, 4: 0.5, 9: 0.5}
    for seconds, heat in expected.items():
        np.testing.assert_allclose(track.at(seconds), np.full((2, 3), heat))


def test_rows_and_columns_keep_their_places():
    relevance = np.zeros((1, 2, 2, 3), np.float32)
    relevance[0, 1, 1, 2] = 1
    index = np.array([[0, 1]])
    track = heat_track(relevance, pts_seconds=index * 1.0, frame_index=index)
    heat = track.at(0.5)
    assert heat[1, 2] == 0.5
    assert heat.sum() == 0.5


def test_a_frame_sampled_twice_has_the_mean_of_its_maps_and_the_sum_of_its_shares():
    track = track_of([[0, 1], [3, 4]], [[0, 1], [1, 1]], [[0, 25], [25, 25]])
    assert track.frame_index.tolist() == [0, 25]
    assert track.pts_seconds.tolist() == [0, 1]
    np.testing.assert_allclose(track.heat[:, 0, 0], [0, 1])
    np.testing.assert_allclose(track.share, [0, 1])


def test_shares_sum_to_one():
    track = track_of([[1, 2, 5]], [[0, 1, 2]], [[0, 1, 2]])
    np.testing.assert_allclose(track.share, [0.125, 0.25, 0.625])


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_the_same_everywhere_is_no_heat(value):
    track = track_of([[value, value]], [[0, 1]], [[0, 1]])
    assert (track.heat == 0).all()
    np.testing.assert_allclose(track.share, [0.5, 0.5])


def test_one_frame_has_one_map():
    track = track_of([[1, 1]], [[0, 0]], [[0, 0]])
    assert track.heat.shape == (1, 2, 3)
    assert track.at(5).shape == (2, 3)


def test_frames_share_their_clip_s_relevance():
    relevance = np.zeros((3, 2, 1, 2), np.float32)
    relevance[0] = [[[1, 2]], [[3, 4]]]
    relevance[1, 1] = 1e-30
    shares = frame_shares(relevance)
    np.testing.assert_allclose(shares, [[0.3, 0.7], [0, 1], [0, 0]], rtol=1e-6)
    assert shares.dtype == np.float32
