"""Renders all pictures of a result that show frames, in one pass over the video."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from rollout_core.contract import (
    OVERLAY_NAME,
    PREVIEW_NAME,
    SHEET_NAME,
    THUMBNAILS_NAME,
    Caption,
    Overlay,
    ThumbnailSheet,
)
from rollout_core.pictures.encoder import planes_of
from rollout_core.pictures.heat import HeatTrack, heat_track
from rollout_core.pictures.overlay import write_overlay
from rollout_core.pictures.preview import write_preview
from rollout_core.pictures.sheet import (
    Column,
    HeatMap,
    choose_frames,
    draw_sheet,
    save_sheet,
    thumbnail_size,
)
from rollout_core.pictures.thumbnails import Thumbnails
from rollout_core.video.clips import Crop, resize
from rollout_core.video.convert import Plane
from rollout_core.video.decoder import Decoder, Frame, Heartbeat, Limits, no_heartbeat, open_video
from rollout_core.video.geometry import Box

NO_CAPTION = Caption()


def render(
    source: Path,
    *,
    pts_seconds: NDArray[np.float64],
    frame_index: NDArray[np.int64],
    relevance: NDArray[np.float32],
    temporal_rollout: NDArray[np.float32] | None = None,
    crop: Crop,
    overlay: Overlay | None,
    preview: ThumbnailSheet | None = None,
    kept: Mapping[int, Plane] = MappingProxyType({}),
    caption: Caption = NO_CAPTION,
    folder: Path,
    limits: Limits,
    frames: int,
    stream: int | None = None,
    progress: Callable[[int, int], None],
    heartbeat: Heartbeat = no_heartbeat,
) -> None:
    """Write `sheet.png` into `folder`, and the other pictures that are asked for.

    Args:
        pts_seconds, frame_index: `clip t`, of the sampled frames.
        relevance: `clip t h w`; see `heat_track` for its scaling.
        temporal_rollout: `clip t t`; a sheet of one clip shows it. None where the method gives
            none.
        overlay: how `overlay.mp4` looks; None for none.
        preview: the tiles of `thumbnails.jpg`, which is written with `preview.mp4`; None for none.
        caption: what stands above the sheet, and below the pictures of the overlay.
        kept: thumbnails by the index of their frame, see `KeptThumbnails`. Where they are all that
            is drawn of the source, it is not read.
        frames: approximate number of frames of the source.
        stream: index of the source's video stream. Default: see `choose_stream`.
        progress: called after every frame with the number of frames done and the estimated total.
    Raises:
        InvalidRequest: the colormap is unknown.
        VideoError: the source cannot be used; see `decoder.open_video` and `Decoder.frames`.
    """
    track = heat_track(
        relevance,
        pts_seconds=pts_seconds,
        frame_index=frame_index,
        overlay=overlay or Overlay(),
    )
    when = temporal_rollout[0] if temporal_rollout is not None and len(relevance) == 1 else None
    last = int(track.frame_index[-1])
    has_video = overlay is not None or preview is not None
    total = frames if has_video else last + 1
    collector = _Collector([track], crop, kept)
    if collector.is_complete and not has_video:
        collector.save(folder / SHEET_NAME, Overlay(), caption, when=when)
        progress(1, 1)
        return
    thumbnails = None if preview is None else Thumbnails(preview)
    with open_video(source, limits, heartbeat, stream=stream) as decoder:
        decoded = decoder.frames()
        first = next(decoded)
        with write_videos(
            folder,
            decoder,
            first,
            overlay=overlay,
            preview=preview is not None,
            crop=crop,
            track=track,
            caption=caption,
        ) as write:
            for frame in chain((first,), decoded):
                write(frame)
                collector.add(frame)
                if thumbnails is not None:
                    thumbnails.add(frame)
                progress(frame.index + 1, max(total, frame.index + 1))
                if not has_video and frame.index == last:
                    break
    collector.save(folder / SHEET_NAME, overlay or Overlay(), caption, when=when)
    if thumbnails is not None:
        thumbnails.save(folder / THUMBNAILS_NAME)


@contextmanager
def write_videos(
    folder: Path,
    decoder: Decoder,
    first: Frame,
    *,
    overlay: Overlay | None,
    preview: bool,
    crop: Crop,
    track: HeatTrack,
    caption: Caption = NO_CAPTION,
) -> Iterator[Callable[[Frame], None]]:
    """Write the videos that are asked for into `folder`; see `write_overlay`.

    Call the yielded function for every frame.
    """
    planes = lru_cache(maxsize=1)(planes_of)  # videos of the same size share them
    with ExitStack() as stack:
        writers: list[Callable[[Frame], None]] = []
        if overlay is not None:
            video = write_overlay(
                folder / OVERLAY_NAME,
                decoder,
                first,
                overlay=overlay,
                crop=crop,
                track=track,
                caption=caption,
                planes=planes,
            )
            writers.append(stack.enter_context(video))
        if preview:
            copy = write_preview(folder / PREVIEW_NAME, decoder, first, planes=planes)
            writers.append(stack.enter_context(copy))

        def write(frame: Frame) -> None:
            for writer in writers:
                writer(frame)

        yield write


def render_comparison(
    source: Path,
    *,
    pts_seconds: NDArray[np.float64],
    frame_index: NDArray[np.int64],
    relevance: Mapping[str, NDArray[np.float32]],
    crop: Crop,
    overlay: Overlay,
    caption: Caption = NO_CAPTION,
    path: Path,
    limits: Limits,
    stream: int | None = None,
) -> None:
    """Write a contact sheet with several maps of the same frames, one row each, to `path`.

    Args:
        pts_seconds, frame_index, limits, stream: as for `render`.
        relevance: name of a row → `clip t h w`; each row is scaled separately.
        caption: what stands above.
    Raises:
        InvalidRequest, VideoError: as for `render`.
    """
    tracks = [
        heat_track(maps, pts_seconds=pts_seconds, frame_index=frame_index, overlay=overlay)
        for maps in relevance.values()
    ]
    collector = _Collector(tracks, crop)
    with open_video(source, limits, stream=stream) as decoder:
        for frame in decoder.frames():
            collector.add(frame)
            if frame.index == int(tracks[0].frame_index[-1]):
                break
    collector.save(path, overlay, caption, names=list(relevance))


class _Collector:
    """Collects the columns of the sheet from the decoded frames.

    All tracks belong to the same frames; each track is a row of the sheet.
    """

    def __init__(
        self,
        tracks: Sequence[HeatTrack],
        crop: Crop,
        kept: Mapping[int, Plane] = MappingProxyType({}),
    ) -> None:
        indices = tracks[0].frame_index
        places = choose_frames(len(indices))
        self.columns: list[Column] = []
        self._places = {int(indices[place]): place for place in places}
        self._tracks = tracks
        self._crop = crop
        self._width, self._height = thumbnail_size(crop)
        if self._places.keys() <= kept.keys():
            for index, place in self._places.items():
                self._add(place, kept[index])

    @property
    def is_complete(self) -> bool:
        """Whether all columns are there."""
        return len(self.columns) == len(self._places)

    def save(
        self,
        path: Path,
        overlay: Overlay,
        caption: Caption,
        *,
        names: Sequence[str] = ("",),
        when: NDArray[np.float32] | None = None,
    ) -> None:
        """Draw the sheet, and write it as PNG."""
        sampled = len(self._tracks[0].frame_index)
        sheet = draw_sheet(self.columns, overlay, caption, sampled=sampled, names=names, when=when)
        save_sheet(sheet, path)

    def add(self, frame: Frame) -> None:
        """Add a column if the frame is one of the sheet's, and is not there yet."""
        place = self._places.get(frame.index)
        if place is not None and not self.is_complete:
            seen = frame.rgb(Box(*self._crop))
            self._add(place, resize(seen, height=self._height, width=self._width))

    def _add(self, place: int, thumbnail: Plane) -> None:
        self.columns.append(
            Column(
                thumbnail=thumbnail,
                pts_seconds=float(self._tracks[0].pts_seconds[place]),
                maps=[
                    HeatMap(heat=track.heat[place], share=float(track.share[place]))
                    for track in self._tracks
                ],
            )
        )
