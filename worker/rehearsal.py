"""Measures on the first frames how long a video takes to decode and draw on this machine."""

import math
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np

from rollout_core.contract import OVERLAY_NAME, PREVIEW_NAME, ExplainRequest
from rollout_core.pictures.encoder import even_size
from rollout_core.pictures.heat import heat_track
from rollout_core.pictures.preview import preview_size
from rollout_core.pictures.render import write_videos
from rollout_core.video.clips import OpenedVideo
from rollout_core.video.decoder import Frame, Heartbeat, Limits, open_video

SLOW_SECONDS_PER_PIXEL = 60e-9
"""Decoding and drawing takes less than this for a pixel: two busy cores took 39e-9."""

STARTING_FRAMES = 8
"""Frames that are not measured: decoder and encoder first fill their buffers."""

MEASURED_FRAMES = 16
MAX_SECONDS = 5.0
"""A measurement ends after this time, if two frames are measured."""


def media_seconds(
    path: Path,
    video: OpenedVideo,
    request: ExplainRequest,
    folder: Path,
    *,
    limits: Limits,
    seconds_left: float,
    heartbeat: Heartbeat,
) -> float:
    """Estimate the time to decode a video for its clips and to draw its videos, in seconds.

    Return 0 without a measurement if this surely ends within half of `seconds_left`.

    Args:
        folder: where the videos are written for a moment.
    """
    info = video.info
    pixels = math.prod(info.display.stored_size) + _drawn_pixels(video, request)
    if info.frames * pixels * SLOW_SECONDS_PER_PIXEL < seconds_left / 2:
        return 0.0
    share = min(1.0, video.plan.end_seconds / info.duration_seconds)
    with open_video(path, limits, heartbeat, stream=info.stream) as decoder:
        seconds = share * info.frames * _frame_seconds(decoder.frames(), lambda _: None)
    if request.overlay is not None or request.preview:
        seconds += info.frames * _drawing_seconds(path, video, request, folder, limits, heartbeat)
    return seconds


def _drawn_pixels(video: OpenedVideo, request: ExplainRequest) -> int:
    """Return the number of pixels of a frame of all videos that are drawn."""
    displayed, overlay, pixels = video.info.display.size, request.overlay, 0
    if overlay is not None:
        halves = 2 if overlay.layout == "side_by_side" else 1
        pixels += halves * math.prod(even_size(displayed, overlay.max_height))
    if request.preview:
        pixels += math.prod(preview_size(displayed))
    return pixels


def _drawing_seconds(
    path: Path,
    video: OpenedVideo,
    request: ExplainRequest,
    folder: Path,
    limits: Limits,
    heartbeat: Heartbeat,
) -> float:
    """Return the seconds to decode, draw and encode one frame."""
    blank = heat_track(
        np.ones((1, 1, 1, 1), np.float32),
        pts_seconds=np.zeros((1, 1)),
        frame_index=np.zeros((1, 1), np.int64),
    )
    try:
        with open_video(path, limits, heartbeat, stream=video.info.stream) as decoder:
            frames = decoder.frames()
            first = next(frames)
            with write_videos(
                folder,
                decoder,
                first,
                overlay=request.overlay,
                preview=request.preview,
                crop=video.crop,
                track=blank,
            ) as write:
                return _frame_seconds(chain((first,), frames), write)
    finally:
        for name in (OVERLAY_NAME, PREVIEW_NAME):
            (folder / name).unlink(missing_ok=True)


def _frame_seconds(frames: Iterator[Frame], use: Callable[[Frame], None]) -> float:
    """Return the seconds for one frame: to decode it and to use it. 0 if there are too few.

    Where other processes take the cores, the CPU time is less than the time that passes; where
    several threads work, it is more. The lesser one is what the job may need.
    """
    for frame in islice(frames, STARTING_FRAMES):
        use(frame)
    began, began_cpu, count = time.monotonic(), time.process_time(), 0
    for frame in islice(frames, MEASURED_FRAMES):
        use(frame)
        count += 1
        if count > 1 and time.monotonic() - began > MAX_SECONDS:
            break
    passed = min(time.monotonic() - began, time.process_time() - began_cpu)
    return passed / count if count else 0.0
