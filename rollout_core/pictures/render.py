"""Renders relevance as the overlay video and the contact sheet in one pass over the video."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rollout_core.contract import OVERLAY_NAME, SHEET_NAME, Overlay
from rollout_core.pictures.heat import HeatTrack, heat_track
from rollout_core.pictures.overlay import write_overlay
from rollout_core.pictures.sheet import Column, HeatMap, choose_columns, draw_sheet, thumbnail_size
from rollout_core.video.clips import Crop, crop_and_resize
from rollout_core.video.decoder import Decoder, Frame, Heartbeat, Limits, no_heartbeat, open_video


def render(
    source: Path,
    *,
    pts_seconds: NDArray[np.float64],
    frame_index: NDArray[np.int64],
    relevance: NDArray[np.float32],
    crop: Crop,
    overlay: Overlay | None,
    folder: Path,
    limits: Limits,
    frames: int,
    stream: int | None = None,
    progress: Callable[[int, int], None],
    heartbeat: Heartbeat = no_heartbeat,
) -> None:
    """Write `sheet.png` and, unless `overlay` is None, `overlay.mp4` into `folder`.

    Args:
        pts_seconds, frame_index: `clip t`, of the sampled frames.
        relevance: `clip t h w`; see `heat_track` for its scaling.
        frames: approximate number of frames of the source.
        stream: index of the source's video stream. Default: see `choose_stream`.
        progress: called after every frame with the number of frames done and the estimated total.
    Raises:
        InvalidRequest: the colormap is unknown.
        VideoError: the source cannot be used; see `decoder.open_video` and `Decoder.frames`.
    """
    track = heat_track(relevance, pts_seconds=pts_seconds, frame_index=frame_index)
    last = int(track.frame_index[-1])
    total = last + 1 if overlay is None else frames
    collector = _Collector([track], crop)
    with open_video(source, limits, heartbeat, stream=stream) as decoder:
        decoded = decoder.frames()
        first = next(decoded)
        with _painting(overlay, folder, decoder, first, crop=crop, track=track) as paint:
            for frame in chain((first,), decoded):
                paint(frame)
                collector.add(frame)
                progress(frame.index + 1, max(total, frame.index + 1))
                if overlay is None and frame.index == last:
                    break
    draw_sheet(collector.columns, overlay or Overlay()).save(folder / SHEET_NAME)


def render_comparison(
    source: Path,
    *,
    pts_seconds: NDArray[np.float64],
    frame_index: NDArray[np.int64],
    relevance: Mapping[str, NDArray[np.float32]],
    crop: Crop,
    overlay: Overlay,
    path: Path,
    limits: Limits,
    stream: int | None = None,
) -> None:
    """Write a contact sheet with several maps of the same frames, one row each, to `path`.

    Args:
        pts_seconds, frame_index, limits, stream: as for `render`.
        relevance: name of a row → `clip t h w`; each row is scaled separately.
    Raises:
        InvalidRequest, VideoError: as for `render`.
    """
    tracks = [
        heat_track(maps, pts_seconds=pts_seconds, frame_index=frame_index)
        for maps in relevance.values()
    ]
    collector = _Collector(tracks, crop)
    with open_video(source, limits, stream=stream) as decoder:
        for frame in decoder.frames():
            collector.add(frame)
            if frame.index == int(tracks[0].frame_index[-1]):
                break
    draw_sheet(collector.columns, overlay, names=list(relevance)).save(path)


class _Collector:
    """Collects the columns of the sheet from the decoded frames.

    All tracks belong to the same frames; each track is a row of the sheet.
    """

    def __init__(self, tracks: Sequence[HeatTrack], crop: Crop) -> None:
        indices = tracks[0].frame_index
        places = choose_columns(len(indices))
        self.columns: list[Column] = []
        self._places = {int(indices[place]): place for place in places}
        self._tracks = tracks
        self._crop = crop
        self._width, self._height = thumbnail_size(crop, len(places))

    def add(self, frame: Frame) -> None:
        """Add a column if the frame is one of the sheet's."""
        place = self._places.get(frame.index)
        if place is None:
            return
        self.columns.append(
            Column(
                thumbnail=crop_and_resize(
                    frame.rgb(), self._crop, height=self._height, width=self._width
                ),
                pts_seconds=frame.pts_seconds,
                maps=[
                    HeatMap(heat=track.heat[place], share=float(track.share[place]))
                    for track in self._tracks
                ],
            )
        )


def _painting(
    overlay: Overlay | None,
    folder: Path,
    decoder: Decoder,
    first: Frame,
    *,
    crop: Crop,
    track: HeatTrack,
) -> AbstractContextManager[Callable[[Frame], None]]:
    """Return `write_overlay`'s context, or one that ignores the frames if `overlay` is None."""
    if overlay is None:
        return nullcontext(lambda _: None)
    path = folder / OVERLAY_NAME
    return write_overlay(path, decoder, first, overlay=overlay, crop=crop, track=track)
