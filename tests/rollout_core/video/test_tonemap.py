"""Tests of tone mapping against the standards' values, and of the table against the formula."""

import numpy as np
import pytest
from av.video.frame import VideoFrame

from rollout_core.video.tonemap import FORMAT, KNEE, WHITE, to_bt709, tone_mapped


def grey(value, hdr):
    """Return the brightness of an encoded grey."""
    return float(to_bt709(np.full((1, 3), value), hdr).mean())


def screen(nits):
    """Return how an ordinary screen's value shows light, reference white being 203 nits."""
    return (nits / 203) ** (1 / 2.4)


@pytest.mark.parametrize(("encoded", "nits"), [(0.508078, 100), (0.440281, 50), (0.301031, 10)])
def test_pq_below_the_knee_keeps_its_brightness(encoded, nits):
    """Source: ITU-R BT.2408, table of PQ values."""
    assert nits < KNEE * 203
    assert grey(encoded, "pq") == pytest.approx(screen(nits), abs=0.003)


def test_hlg_below_the_knee_keeps_its_brightness():
    """A grey of 38 % in HLG is shown as 26 nits. Source: ITU-R BT.2408, table 1."""
    assert grey(0.38, "hlg") == pytest.approx(screen(26), abs=0.01)


@pytest.mark.parametrize(("hdr", "reference_white"), [("pq", 0.58), ("hlg", 0.75)])
def test_brightness_grows_from_black_to_white(hdr, reference_white):
    """Source of the values of reference white: ITU-R BT.2408, table 1."""
    values = [grey(encoded, hdr) for encoded in np.linspace(0, 1, 101)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[-1] == pytest.approx(1, abs=1e-3)
    assert (np.diff(values) >= -1e-9).all()
    assert 0.85 < grey(reference_white, hdr) < 0.95
    assert grey(0.7518, "pq") == pytest.approx(1, abs=0.002)  # 1,000 nits


@pytest.mark.parametrize("channel", range(3))
@pytest.mark.parametrize("hdr", ["pq", "hlg"])
def test_channels_are_not_exchanged(channel, hdr):
    pixels = np.zeros((4, 4, 3), np.uint16)
    pixels[..., channel] = 0.5 * WHITE
    picture = VideoFrame.from_ndarray(pixels, format=FORMAT)
    found = tone_mapped(picture, hdr).to_ndarray()[0, 0]
    assert found.argmax() == channel
    assert np.delete(found, channel).max() == 0


@pytest.mark.parametrize("hdr", ["pq", "hlg"])
def test_table_agrees_with_the_formula(hdr):
    random = np.random.default_rng(0)
    greys = random.uniform(0, 1, (60, 80, 1))
    colours = np.clip(greys + random.uniform(-0.05, 0.05, (60, 80, 3)), 0, 1)
    pixels = np.rint(WHITE * colours).astype(np.uint16)
    found = tone_mapped(VideoFrame.from_ndarray(pixels, format=FORMAT), hdr).to_ndarray() / WHITE
    wrong = np.abs(found - to_bt709(pixels / WHITE, hdr))
    assert wrong.mean() < 0.002
    assert np.percentile(wrong, 99) < 0.02
