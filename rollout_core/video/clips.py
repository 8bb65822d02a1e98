"""From a video to the clips that a model sees."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rollout_core.contract import ExplainRequest
from rollout_core.errors import UnsupportedContainer, VideoIncomplete, VideoUndecodable
from rollout_core.model.specs import ModelSpec, Resampling
from rollout_core.video import sampling
from rollout_core.video.convert import Plane
from rollout_core.video.coverage import Coverage, Tally
from rollout_core.video.decoder import Decoder, Frame, Heartbeat, Limits, no_heartbeat, open_video
from rollout_core.video.decoding import Packet
from rollout_core.video.display import Display
from rollout_core.video.encryption import check_clear
from rollout_core.video.geometry import Box
from rollout_core.video.sampling import Plan
from rollout_core.video.structure import cut_before_index
from rollout_core.video.timeline import PacketLog, Timeline

__all__ = [
    "Clip",
    "Crop",
    "Limits",
    "OpenedVideo",
    "VideoInfo",
    "crop_of",
    "open_clips",
    "probe",
    "read_clips",
    "resize",
]

TIMESTAMP_TOLERANCE_SECONDS = 0.0005
"""Matroska rounds timestamps to milliseconds, so a frame may seem to begin this much too late."""

Keep = Callable[[Frame, Plane], None]
"""Takes a sampled frame, and the part of it that the model sees, uint8 `H W c`, RGB."""


class Crop(NamedTuple):
    """The part of a frame that the model sees, in pixels of the displayed frame."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video.

    Attributes:
        stream: index of the chosen video stream in the file.
        streams: all video streams, for people; None if there is only one.
        display: how the first frame is displayed.
        timeline: the length of the video, and what is missing.
    """

    codec: str
    container: str
    stream: int
    streams: str | None
    display: Display
    timeline: Timeline

    @property
    def width(self) -> int:
        """Pixels as displayed."""
        return self.display.size[0]

    @property
    def height(self) -> int:
        """Pixels as displayed."""
        return self.display.size[1]

    @property
    def rotation(self) -> int:
        """Degrees counterclockwise from the stored to the displayed frame."""
        return self.display.rotation

    @property
    def duration_seconds(self) -> float:
        """From the start of the first frame to the end of the last one."""
        return self.timeline.duration_seconds

    @property
    def frames(self) -> int:
        """Number of frames, unless some cannot be decoded."""
        return self.timeline.frames

    @property
    def frame_rate_hz(self) -> float:
        """Mean frame rate; frames may have different durations."""
        return max(self.frames, 1) / self.duration_seconds


@dataclass(frozen=True)
class Clip:
    """The frames of one forward.

    Attributes:
        frames: uint8 `t H W c`, RGB, in the model's input size.
        pts_seconds: float64 `t`, counted from the first frame of the video.
        frame_index: int64 `t`, counted from the first frame of the video.
    """

    frames: NDArray[np.uint8]
    pts_seconds: NDArray[np.float64]
    frame_index: NDArray[np.int64]


@dataclass(frozen=True)
class OpenedVideo:
    """What is known of a video before its clips are read.

    Attributes:
        plan: the moments to sample.
        crop: the part of each frame that the model sees.
    """

    info: VideoInfo
    plan: Plan
    crop: Crop


def open_clips(
    path: Path,
    request: ExplainRequest,
    spec: ModelSpec,
    limits: Limits,
    heartbeat: Heartbeat = no_heartbeat,
) -> OpenedVideo:
    """Probe a video, plan the clips that a request needs, and choose the crop.

    Raises:
        VideoIncomplete: less of the span than `COMPLETE_SHARE` is in the file.
        VideoError: the video cannot be used; see `probe` and `sampling.plan`.
    """
    info = probe(path, limits, heartbeat, stream=request.stream)
    Coverage.of(info.timeline, request).check(allow_incomplete=request.allow_incomplete)
    plan = sampling.plan(info.duration_seconds, request, spec)
    crop = crop_of(
        info, height=spec.height, width=spec.width, stretch=spec.stretch, share=spec.crop_share
    )
    return OpenedVideo(info, plan, crop)


def probe(
    path: Path,
    limits: Limits,
    heartbeat: Heartbeat = no_heartbeat,
    *,
    stream: int | None = None,
) -> VideoInfo:
    """Return a video's properties: decode its first frame and read the times of all packets.

    The duration comes from the packets, because headers may be wrong or lack it. Packets before
    the first decodable frame are ignored.

    Args:
        stream: index of the video stream. Default: see `choose_stream`.
    Raises:
        VideoEncrypted: the frames are encrypted.
        VideoIncomplete: an MP4 file ends before its index, so nothing of it can be decoded.
        VideoError: the video cannot be used; see `decoder.open_video` and `Decoder.frames`.
    """
    try:
        with open_video(path, limits, heartbeat, stream=stream) as decoder:
            return _info_of(decoder, path, heartbeat)
    except UnsupportedContainer as error:
        promised = cut_before_index(path)
        if promised is None:
            raise
        size = path.stat().st_size
        raise VideoIncomplete(
            f"only {size} of at least {promised} bytes are there: the file was cut off before its "
            "index, so nothing of it can be decoded. Send the whole file"
        ) from error


def _info_of(decoder: Decoder, path: Path, heartbeat: Heartbeat) -> VideoInfo:
    """Return a video's properties; reads it to its end."""
    log = PacketLog(decoder)
    packets = log.watch(decoder.packets())
    first = _first_frame(decoder, packets)
    log.begin(first.picture.pts if isinstance(first, Frame) else None)
    for _ in packets:
        pass
    check_clear(decoder, log.packets, path, heartbeat)
    if isinstance(first, VideoUndecodable):
        raise first
    return VideoInfo(
        codec=decoder.codec_name,
        container=decoder.container_name,
        stream=decoder.stream.index,
        streams=decoder.streams_text,
        display=first.display,
        timeline=log.timeline(path, heartbeat),
    )


def _first_frame(decoder: Decoder, packets: Iterator[Packet]) -> Frame | VideoUndecodable:
    """Return the first frame, or why there is none."""
    try:
        return decoder.first_frame(packets)
    except VideoUndecodable as error:
        return error


def crop_of(
    info: VideoInfo, *, height: int, width: int, stretch: bool = False, share: float = 1.0
) -> Crop:
    """Return the largest centred crop with the aspect ratio of `width` by `height`.

    Args:
        stretch: start with the whole frame, whatever its aspect ratio.
        share: side of the crop, relative to the largest one.
    """
    if stretch:
        crop_width, crop_height = info.width, info.height
    elif info.width * height > info.height * width:
        crop_width, crop_height = max(1, round(info.height * width / height)), info.height
    else:
        crop_width, crop_height = info.width, max(1, round(info.width * height / width))
    crop_width, crop_height = (max(1, round(side * share)) for side in (crop_width, crop_height))
    x, y = (info.width - crop_width) // 2, (info.height - crop_height) // 2
    return Crop(x, y, crop_width, crop_height)


def read_clips(
    path: Path,
    plan: Plan,
    crop: Crop,
    *,
    height: int,
    width: int,
    limits: Limits,
    resample: Resampling = "bilinear",
    heartbeat: Heartbeat = no_heartbeat,
    stream: int | None = None,
    tally: Tally | None = None,
    keep: Keep = lambda *_: None,
) -> Iterator[Clip]:
    """Yield the plan's clips in one pass over the video, one clip in memory at a time.

    For each moment of the plan the clip holds the frame on display at that time.

    Args:
        height, width: the model's input size, in pixels.
        stream: index of the video stream. Default: see `choose_stream`.
        tally: if given, the pass goes on to the end of its span, and the tally is complete once
            all clips are yielded.
        keep: called once for every sampled frame.
    Raises:
        VideoError: the video cannot be used; see `decoder.open_video` and `Decoder.frames`.
    """
    frames_per_clip = plan.times_seconds.shape[1]
    with open_video(path, limits, heartbeat, stream=stream) as decoder:
        decoded = decoder.frames() if tally is None else tally.watch(decoder)
        shown = displayed_at(decoded, plan.times_seconds.ravel())
        samples = _resize_each(
            shown, crop, height=height, width=width, resample=resample, keep=keep
        )
        while batch := list(islice(samples, frames_per_clip)):
            frames, pixels = zip(*batch, strict=True)
            yield Clip(
                frames=np.stack(pixels),
                pts_seconds=np.array([frame.pts_seconds for frame in frames]),
                frame_index=np.array([frame.index for frame in frames], dtype=np.int64),
            )
        if tally is not None:
            for _ in decoded:
                pass


def displayed_at(frames: Iterable[Frame], times_seconds: NDArray[np.float64]) -> Iterator[Frame]:
    """Yield the frame on display at each of `times_seconds`: the last frame that began by then.

    Times before the first frame get the first one. `frames` is read only as far as needed.

    Args:
        times_seconds: float64, sorted.
    """
    waiting = list(times_seconds[::-1])
    current: Frame | None = None
    for frame in frames:
        while (
            waiting
            and current is not None
            and frame.pts_seconds > waiting[-1] + TIMESTAMP_TOLERANCE_SECONDS
        ):
            waiting.pop()
            yield current
        if not waiting:
            return
        current = frame
    if current is not None:
        yield from (current for _ in waiting)


def resize(pixels: Plane, *, height: int, width: int, resample: Resampling = "bilinear") -> Plane:
    """Return the crop of a frame, uint8 `H W c`, scaled to `height` by `width` pixels.

    The published preprocessing resizes the short side and then crops the centre. Here the crop is
    resized, with antialiasing, by the filter `resample`.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling[resample.upper()]))


def _resize_each(
    frames: Iterable[Frame],
    crop: Crop,
    *,
    height: int,
    width: int,
    resample: Resampling,
    keep: Keep,
) -> Iterator[tuple[Frame, Plane]]:
    """Yield each frame with its model input; a repeated frame is converted once."""
    last: tuple[int, Plane] | None = None
    for frame in frames:
        if last is None or last[0] != frame.index:
            seen = frame.rgb(Box(*crop))
            keep(frame, seen)
            last = frame.index, resize(seen, height=height, width=width, resample=resample)
        yield frame, last[1]
