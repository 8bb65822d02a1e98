from itertools import pairwise

import av
import numpy as np
import pytest

from tests.benchmarks.suite.films import RATE_HZ, Size, make_film, repeat_film
from tests.benchmarks.suite.floors import decode_all, decode_by_seeking, decode_until, reencode

SIZE = Size(320, 184)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return make_film(tmp_path_factory.mktemp("film") / "film.mp4", SIZE, 5)


def frames_of(path):
    with av.open(path) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]


def test_film_moves_has_grain_and_changes_scene(film):
    frames = np.stack(frames_of(film)).astype(float)
    assert frames.shape == (5 * RATE_HZ, SIZE.height, SIZE.width)
    changes = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2))
    assert np.median(changes) > 1
    assert changes.argmax() == 3 * RATE_HZ - 1


def test_film_has_a_key_frame_every_two_seconds(film):
    with av.open(film) as container:
        keys = [packet.pts * packet.time_base for packet in container.demux() if packet.is_keyframe]
    assert {0, 2, 3}.issubset(keys)  # and at each new scene
    assert all(second - first <= 2 for first, second in pairwise(keys))


def test_repeated_film_is_the_film_several_times(film, tmp_path):
    frames = frames_of(film)
    repeated = frames_of(repeat_film(film, tmp_path / "repeated.mp4", 3))
    assert len(repeated) == 3 * len(frames)
    assert np.array_equal(repeated[2 * len(frames) + 7], frames[7])


def test_reencoded_film_has_the_same_frames(film, tmp_path):
    reencode(film, tmp_path / "bare.mp4")
    pairs = zip(frames_of(film), frames_of(tmp_path / "bare.mp4"), strict=True)
    assert max(np.abs(one.astype(float) - other).mean() for one, other in pairs) < 6


def test_floors_decode_no_more_than_they_must(film, monkeypatch):
    decoded = count_frames(monkeypatch)
    decode_all(film)
    assert decoded() == 5 * RATE_HZ
    decode_until(film, [0.2, 1.0])
    assert decoded() == RATE_HZ + 1
    decode_by_seeking(film, [0.2, 1.0, 4.2])
    assert decoded() == (RATE_HZ + 1) + (30 + 1)  # from the key frames at 0 and at 3 seconds
    decode_by_seeking(film, [4.96])  # the last frame
    assert decoded() == 49 + 1


def count_frames(monkeypatch):
    """Return a function that returns the frames decoded since its last call."""
    counts = [0]

    def opened(path):
        container = av.open(path)
        return Counting(container, counts)

    monkeypatch.setattr("tests.benchmarks.suite.floors._opened", opened)

    def since():
        count, counts[0] = counts[0], 0
        return count

    return since


class Counting:
    """A container that counts the frames that are taken from it."""

    def __init__(self, container, counts):
        self._container, self._counts = container, counts

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._container.close()

    def __getattr__(self, name):
        return getattr(self._container, name)

    def decode(self, *arguments, **keywords):
        for frame in self._container.decode(*arguments, **keywords):
            self._counts[0] += 1
            yield frame
