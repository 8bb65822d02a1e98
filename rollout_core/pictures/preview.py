"""Writes the preview video: a copy of the displayed video that browsers play and seek fast."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from rollout_core.pictures.encoder import MakePlanes, VideoFormat, even_size, planes_of, write_video
from rollout_core.video.convert import Planes
from rollout_core.video.decoder import Decoder, Frame
from rollout_core.video.geometry import Size

PREVIEW_LINES = 720
RATE_FACTOR = 26

KEY_FRAME_SECONDS = 1.0
"""A browser decodes all frames from the key frame before the one that it seeks."""


def write_preview(
    path: Path, decoder: Decoder, first: Frame, *, planes: MakePlanes = planes_of
) -> AbstractContextManager[Callable[[Frame], None]]:
    """Write an MP4 file. Call the yielded function for every frame.

    Args:
        decoder, first: the source and its first frame.
        planes: makes the planes of a frame.
    """
    size, color = preview_size(first.displayed_size), first.display.painted_color

    def draw(frame: Frame, target: Planes) -> None:
        for plane, drawn in zip(planes(frame, size, color), target, strict=True):
            np.copyto(drawn, plane)

    form = VideoFormat(size, color, RATE_FACTOR, KEY_FRAME_SECONDS)
    return write_video(path, decoder, form, draw)


def preview_size(displayed: Size) -> Size:
    """Return width and height of the preview of a video."""
    return even_size(displayed, PREVIEW_LINES)
