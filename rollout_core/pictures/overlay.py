"""Writes the overlay video: the source's frames and timestamps, with heat maps blended in.

Below the picture is a band with the caption.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from rollout_core.contract import Caption, Overlay
from rollout_core.pictures.caption_band import CaptionBand, band_lines
from rollout_core.pictures.encoder import MakePlanes, VideoFormat, even_size, planes_of, write_video
from rollout_core.pictures.heat import HeatTrack
from rollout_core.pictures.painter import Painter
from rollout_core.video.clips import Crop
from rollout_core.video.convert import Planes
from rollout_core.video.decoder import Decoder, Frame
from rollout_core.video.geometry import Size

RATE_FACTOR = 24
NO_CAPTION = Caption()


def write_overlay(
    path: Path,
    decoder: Decoder,
    first: Frame,
    *,
    overlay: Overlay,
    crop: Crop,
    track: HeatTrack,
    caption: Caption = NO_CAPTION,
    planes: MakePlanes = planes_of,
) -> AbstractContextManager[Callable[[Frame], None]]:
    """Write an MP4 file. Call the yielded function for every frame.

    Args:
        decoder, first: the source and its first frame.
        crop: where the heat maps are drawn; the rest is dimmed.
        caption: what stands below the picture, if the overlay has a caption.
        planes: makes the planes of a frame.
    """
    color = first.display.painted_color
    size = even_size(first.displayed_size, overlay.max_height)
    is_doubled = overlay.layout == "side_by_side"
    painter = Painter(overlay, scaled_crop(crop, first.displayed_size, size), color)

    width, height = size[0] * (2 if is_doubled else 1), size[1]
    lines = band_lines(size) if overlay.caption else 0
    band = CaptionBand(width, lines, color, caption, overlay) if lines else None

    def draw(frame: Frame, target: Planes) -> None:
        source = planes(frame, size, color)
        if band is not None:
            band.draw(target, frame.pts_seconds)
            target = [plane[: len(part)] for plane, part in zip(target, source, strict=True)]
        if is_doubled:
            for left, plane in zip(target, source, strict=True):
                left[:, : plane.shape[1]] = plane
            target = _right_halves(target)
        painter.paint(source, target, track.at(frame.pts_seconds))

    form = VideoFormat((width, height + lines), color, RATE_FACTOR)
    return write_video(path, decoder, form, draw)


def scaled_crop(crop: Crop, displayed: Size, size: Size) -> Crop:
    """Return the crop in pixels of an overlay; as it is if the overlay is not scaled."""
    if all(before - after in (0, 1) for before, after in zip(displayed, size, strict=True)):
        return crop
    across, down = (after / before for before, after in zip(displayed, size, strict=True))
    left, right = (round(across * edge) for edge in (crop.x, crop.x + crop.width))
    top, bottom = (round(down * edge) for edge in (crop.y, crop.y + crop.height))
    return Crop(left, top, max(1, right - left), max(1, bottom - top))


def _right_halves(planes: Planes) -> Planes:
    """Return the right half of each plane."""
    return [plane[:, plane.shape[1] // 2 :] for plane in planes]
