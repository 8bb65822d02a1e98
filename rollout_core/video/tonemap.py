"""Tone mapping: from HDR (PQ and HLG) to BT.709, the range of ordinary screens.

    light     decode the transfer to nits, as a display of 1,000 nits shows them
    gamut     convert the primaries, BT.2020, to BT.709, and cut negative values off
    tone      divide by reference white, 203 nits; keep what is at most half of it; compress the
              rest smoothly, so that 1,000 nits become white. All three channels are scaled alike
    encode    raise to 1/2.4, the inverse of an ordinary screen

Each step is a function of one colour, so all together are one table of 64³ colours, which FFmpeg's
filter `haldclut` interpolates (tetrahedrally, in 16 bits).

Sources: ITU-R BT.2100 (PQ, HLG), BT.2408 (reference white), BT.2087 (gamut), BT.1886 (screen).
"""

from functools import cache

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from rollout_core.video.color import Hdr
from rollout_core.video.convert import TIME_BASE

FORMAT = "rgb48le"
"""Packed, because `haldclut` confuses the planes of planar formats."""

WHITE = 0xFF00
"""What FFmpeg's scaler stores for white in 16 bits: 255 × 256."""

LEVEL = 8
GRID = LEVEL**2
"""Points of the table along each of red, green and blue; as a picture it has `LEVEL`³ columns."""

PEAK_NITS, REFERENCE_WHITE_NITS = 1000.0, 203.0
KNEE = 0.5
"""Light up to this share of reference white keeps its brightness."""

HLG_GAMMA = 1.2
SCREEN_GAMMA = 2.4

BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)
"""Linear RGB with the primaries of BT.2020 to linear RGB with those of BT.709."""

BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593])

Values = NDArray[np.float64]


def tone_mapped(picture: VideoFrame, hdr: Hdr) -> VideoFrame:
    """Return an HDR picture of the format `FORMAT` as BT.709, in the same format.

    Raises:
        av.FFmpegError: FFmpeg cannot convert it.
    """
    graph = Graph()
    graph.threads = 1
    mapping, sink = graph.add("haldclut", "clut=first"), graph.add("buffersink")
    mapping.link_to(sink)
    inputs = picture, VideoFrame.from_ndarray(_table(hdr), format=FORMAT)
    buffers = [
        graph.add_buffer(
            width=image.width, height=image.height, format=image.format, time_base=TIME_BASE
        )
        for image in inputs
    ]
    for place, buffer in enumerate(buffers):
        buffer.link_to(mapping, 0, place)
    graph.configure()
    for buffer, image in zip(buffers, inputs, strict=True):
        image.pts, image.time_base = 0, TIME_BASE
        buffer.push(image)
        buffer.push(None)
    mapped = sink.pull()
    assert isinstance(mapped, VideoFrame)
    return mapped


def to_bt709(encoded: Values, hdr: Hdr) -> Values:
    """Convert HDR colours, `... c`, RGB, 0 to 1 as encoded, to BT.709, 0 to 1 as encoded."""
    nits = _pq_nits(encoded) if hdr == "pq" else _hlg_nits(encoded)
    light = np.maximum(nits @ BT2020_TO_BT709.T, 0) / REFERENCE_WHITE_NITS
    brightest = light.max(axis=-1, keepdims=True)
    toned = light * (_compressed(brightest) / np.maximum(brightest, 1e-9))
    return np.asarray(np.clip(toned, 0, 1) ** (1 / SCREEN_GAMMA))


def _compressed(light: Values) -> Values:
    """Compress light above `KNEE`; `PEAK_NITS` become 1, and the slope has no step."""
    room, excess = 1 - KNEE, PEAK_NITS / REFERENCE_WHITE_NITS - KNEE
    share = np.clip((light - KNEE) / excess, 0, 1)
    bend = excess / room - 1
    return np.where(light <= KNEE, light, KNEE + room * share * (1 + bend) / (1 + bend * share))


def _pq_nits(encoded: Values) -> Values:
    """Decode PQ. Source: ITU-R BT.2100, table 4."""
    m1, m2 = 2610 / 16384, 2523 / 32
    c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
    power = encoded ** (1 / m2)
    return np.asarray(10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1))


def _hlg_nits(encoded: Values) -> Values:
    """Decode HLG, as a display of `PEAK_NITS` shows it. Source: ITU-R BT.2100, table 5."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(encoded <= 0.5, encoded**2 / 3, (np.exp((encoded - c) / a) + b) / 12)
    luminance = (scene @ BT2020_LUMA)[..., None]
    return np.asarray(PEAK_NITS * luminance ** (HLG_GAMMA - 1) * scene)


@cache
def _table(hdr: Hdr) -> NDArray[np.uint16]:
    """Return the table as the picture that `haldclut` reads, uint16 `H W c`: red varies fastest."""
    values = np.minimum(np.linspace(0, 0xFFFF / WHITE, GRID), 1)
    blue, green, red = np.meshgrid(values, values, values, indexing="ij")
    colours = to_bt709(np.stack([red, green, blue], axis=-1), hdr)
    return np.asarray(np.rint(WHITE * colours), np.uint16).reshape(LEVEL**3, LEVEL**3, 3)
