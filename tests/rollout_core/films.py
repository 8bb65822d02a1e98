"""Encodes small videos whose frames can be told apart after decoding."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags

LEVEL_STEP = 18
FASTEST = {
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:frame-threads=1"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "13", "svtav1-params": "lp=1"},
    "mpeg4": {},
}

TIMES_AS_GIVEN = {"avoid_negative_ts": "disabled"}
"""Container options that keep negative timestamps."""

Picture = Callable[[int, int, int], np.ndarray]
"""Returns the pixels `H W c` for an index, a width and a height."""


def grey(index: int, width: int, height: int) -> np.ndarray:
    """Return a frame, `H W c`, whose brightness encodes its index modulo 13."""
    return np.full((height, width, 3), 10 + LEVEL_STEP * (index % 13), np.uint8)


def index_of(pixels: np.ndarray) -> int:
    """Return the index of a frame made by `grey`, modulo 13."""
    return round((float(pixels.mean()) - 10) / LEVEL_STEP)


def corner(index: int, width: int, height: int) -> np.ndarray:
    """Return a dark frame whose top left quarter, as stored, is bright."""
    frame = np.full((height, width, 3), 20, np.uint8)
    frame[: height // 2, : width // 2] = 230
    return frame


def encode(
    path: Path,
    *,
    frames: int = 10,
    width: int = 64,
    height: int = 48,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    container: str | None = None,
    rate: int = 25,
    ticks: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    last_ticks: int = 1,
    rotation: int = 0,
    display_matrix: Sequence[int] | None = None,
    pixel_aspect: Fraction | None = None,
    picture: Picture = grey,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Encode a video without sound, and return its path.

    `ticks` are the timestamps of the frames in `time_base`; the last frame lasts `last_ticks`.
    """
    time_base = time_base or Fraction(1, rate)
    ticks = list(range(frames)) if ticks is None else list(ticks)
    options_of_file = container_options or {}
    with (
        _same_scheduling(),
        av.open(path, "w", format=container, options=options_of_file) as output,
    ):
        output.metadata.update(metadata or {})
        stream = output.add_stream(
            codec,
            rate=rate,
            width=width,
            height=height,
            pix_fmt=pix_fmt,
            time_base=time_base,
            options={**FASTEST.get(codec, {}), **(options or {})},
        )
        stream.codec_context.flags |= Flags.frame_duration
        stream.codec_context.thread_count = 1
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation:
            stream.set_display_rotation(rotation)
        if display_matrix:
            stream.set_display_matrix(display_matrix)
        for index, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(picture(index, width, height))
            frame.pts, frame.time_base = tick, time_base
            following = ticks[index + 1] if index + 1 < len(ticks) else tick + last_ticks
            frame.duration = following - tick
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def decode(path: Path) -> list[av.VideoFrame]:
    """Decode all frames of a trusted video."""
    with av.open(path) as container:
        return list(container.decode(video=0))


@contextmanager
def _same_scheduling() -> Iterator[None]:
    """Keep the scheduling policy of this process.

    SVT-AV1 sets real-time priority 99 if root runs it. Every process that is started afterwards
    would inherit that, and busy ones would stop all others on the machine.
    """
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)
