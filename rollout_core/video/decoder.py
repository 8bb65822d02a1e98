"""Opens and decodes untrusted videos within limits.

The values in the headers are checked against the limits before decoding, and the decoded frames
are checked again. Nothing here limits decoding time: run it in a process that can be killed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from rollout_core.errors import VideoTooLarge, VideoTooLong, VideoUndecodable
from rollout_core.video.convert import DecodingError
from rollout_core.video.decoding import Doubt, Packet, Ticks, at_once, one_by_one
from rollout_core.video.display import Display, display_of
from rollout_core.video.geometry import MAX_SIDE_PIXELS, Box
from rollout_core.video.opening import Limits, OpenFile
from rollout_core.video.streams import describe_streams, video_streams

__all__ = ["Decoder", "Frame", "Heartbeat", "Limits", "no_heartbeat", "open_video"]

BACKWARD_JUMP_SECONDS = 1.0
"""Timestamps that go back by more than this have restarted: concatenated recordings do that."""

FORWARD_JUMP_SECONDS = 10.0
"""In a format whose timestamps may jump, a longer gap is a jump and not a pause, as for ffmpeg."""

JUMPING_FORMATS = ("mpegts",)
"""Formats whose timestamps may jump; the length in their headers is an estimate from these."""

DEFAULT_RATE_HZ = Fraction(25)

Heartbeat = Callable[[], None]
"""Called for every packet that is read, whether or not it yields a frame."""


def no_heartbeat() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        index: position among the decoded frames, from 0.
        ticks: display time in units of the stream's time base, counted from the first frame.
        pts_seconds: display time in seconds, counted from the first frame.
        duration_ticks: display duration; 0 if the file does not state it.
        picture: the pixels as stored in the file.
        display: how they are displayed.
        is_damaged: the decoder had to guess a part of it.
    """

    index: int
    ticks: int
    pts_seconds: float
    duration_ticks: int
    picture: VideoFrame
    display: Display
    is_damaged: bool = False

    @property
    def displayed_size(self) -> tuple[int, int]:
        """Width and height of the displayed frame, in square pixels."""
        return self.display.size

    def rgb(self, part: Box | None = None) -> NDArray[np.uint8]:
        """Return the displayed frame, or a part of it, uint8 `H W c`, RGB.

        Raises:
            VideoUndecodable: the pixels cannot be converted.
        """
        return self.display.rgb(self.picture, part)


class Decoder:
    """The video stream of an open container.

    Attributes:
        rate_hz: the frame rate; a guess where the file does not state it.
        time_base: seconds per tick.
        period_ticks: ticks per frame at `rate_hz`, at least 1.
        origin_ticks: timestamp of the first frame, once `frames` has yielded it.
        encrypted: number of packets read so far that an MP4 file marks as encrypted.
        damaged: start and end, in timestamps, of what the frames read so far lack: packets that
            could not be decoded, and frames that the decoder had to guess.
    """

    def __init__(
        self, open_file: Callable[[], OpenFile], limits: Limits, heartbeat: Heartbeat
    ) -> None:
        """Open the file; `open_file` is called again where it must be read again."""
        self._open = open_file
        self._file = open_file()
        self._limits = limits
        self._heartbeat = heartbeat
        stream, container = self.stream, self.container
        self.rate_hz = stream.average_rate or stream.guessed_rate or DEFAULT_RATE_HZ
        self.time_base: Fraction = stream.time_base or Fraction(1, 90_000)
        self.period_ticks = max(1, round(1 / (self.rate_hz * self.time_base)))
        self.container_name = container.format.name
        self.has_jumps = self.container_name in JUMPING_FORMATS
        self.origin_ticks = 0
        self.encrypted = 0
        self.damaged: list[Ticks] = []
        self.codec_name = stream.codec_context.codec.canonical_name
        self._codec_aspect: Fraction | None = None

    @property
    def stream(self) -> VideoStream:
        """The stream that is decoded."""
        return self._file.stream

    @property
    def container(self) -> InputContainer:
        """The open file."""
        return self._file.container

    @property
    def streams_text(self) -> str | None:
        """All video streams, for people; None if there is only one."""
        several = len(video_streams(self.container)) > 1
        return describe_streams(self.container) if several else None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def packets(self) -> Iterator[Packet]:
        """Yield the packets in file order, up to the first one that cannot be read.

        Where timestamps restart or jump, the following ones are shifted to continue from the last.
        In AVI, which has no presentation timestamps, `pts` is removed: FFmpeg's guesses are wrong
        for reordered frames.
        """
        shift, latest = 0, None
        back = BACKWARD_JUMP_SECONDS / self.time_base
        ahead = FORWARD_JUMP_SECONDS / self.time_base if self.has_jumps else float("inf")
        try:
            for packet in self.container.demux(self.stream):
                self._heartbeat()
                if packet.size == 0:
                    continue
                self.encrypted += packet.has_sidedata("encryption_info")
                if packet.dts is not None:
                    if latest is not None and not -back <= packet.dts + shift - latest <= ahead:
                        shift = latest + self.period_ticks - packet.dts
                    latest = packet.dts + shift
                _shift(packet, shift)
                if self.container_name == "avi":
                    packet.pts = None
                yield packet
        except DecodingError:
            return

    def frames(self) -> Iterator[Frame]:
        """Yield every decodable frame in display order.

        All frames have the displayed size of the first one: later frames of another size are
        scaled, with black bars if their shape differs. Presentation times strictly increase.

        Raises:
            VideoUndecodable: no frame can be decoded.
            VideoTooLong, VideoTooLarge: the decoded frames exceed the limits.
        """
        return self._frames(self._pictures())

    def first_frame(self, packets: Iterator[Packet]) -> Frame:
        """Return the first decodable frame, and read no more packets than needed.

        Raises:
            VideoUndecodable, VideoTooLarge: as for `frames`.
        """
        return next(self._frames(self._pictures_one_by_one(packets)))

    def _frames(self, pictures: Iterator[VideoFrame]) -> Iterator[Frame]:
        first: Frame | None = None
        origin, latest = 0, -1
        for index, picture in enumerate(pictures):
            time = picture.dts if picture.pts is None else picture.pts
            if first is None:
                self.origin_ticks = origin = time or 0
                start = 0
            else:
                start = latest + self.period_ticks if time is None else time - origin
            latest = max(start, latest + 1)  # equal times would lose a frame
            frame = self._checked(index, latest, picture)
            first = first or frame
            yield replace(frame, display=frame.display.fitted(first.displayed_size))
        if first is None:
            raise VideoUndecodable("no frame of the video could be decoded")

    def damaged_seconds(self) -> Iterator[tuple[float, float]]:
        """Yield what is `damaged`, in seconds since the first frame.

        What comes before the first frame does not count where a recording may begin anywhere.
        """
        for start, end in self.damaged:
            begin, stop = (
                float((tick - self.origin_ticks) * self.time_base) for tick in (start, end)
            )
            if begin >= 0 or not self.has_jumps:
                yield begin, stop

    def check_length(self, frames: int, seconds: float) -> None:
        """Check a number of frames and a length against the limits.

        Raises:
            VideoTooLong: one of them exceeds its limit.
        """
        if frames > self._limits.max_frames:
            raise VideoTooLong(f"the video has more than {self._limits.max_frames} frames")
        if seconds > self._limits.max_seconds:
            raise VideoTooLong(f"the video lasts more than {self._limits.max_seconds:g} s")

    def check_size(self, width: int, height: int) -> None:
        """Check a frame's width and height in pixels against the limits.

        Raises:
            VideoTooLarge: the frame has too many pixels or too long a side.
        """
        if width * height > self._limits.max_pixels:
            limit = self._limits.max_pixels
            raise VideoTooLarge(f"frames of {width}×{height} have more than {limit} pixels")
        if max(width, height) > MAX_SIDE_PIXELS:
            raise VideoTooLarge(
                f"frames of {width}×{height} have a side of more than {MAX_SIDE_PIXELS} pixels"
            )

    def check_headers(self) -> None:
        """Check the length and the frame size stated in the headers against the limits.

        A length that was estimated from timestamps that jump is not checked here.

        Raises:
            VideoTooLong, VideoTooLarge: a header states more than the limits allow.
        """
        stated = self.stream.duration
        seconds = float(stated * self.time_base) if stated else 0.0
        if self.container.duration and not stated:
            seconds = self.container.duration / av.time_base
        self.check_length(self.stream.frames, 0.0 if self.has_jumps else seconds)
        self.check_size(self.stream.codec_context.width, self.stream.codec_context.height)

    def _pictures(self) -> Iterator[VideoFrame]:
        """Decode several packets at once; from a sign of damage on, one by one.

        A decoder cannot go back, so the file is opened again and read from its beginning.
        """
        yielded = 0
        try:
            for picture in at_once(self.stream, self.packets()):
                yield picture
                yielded += 1
            return
        except Doubt:
            self.close()
            self._file = self._open()
        yield from islice(self._pictures_one_by_one(self.packets()), yielded, None)

    def _pictures_one_by_one(self, packets: Iterator[Packet]) -> Iterator[VideoFrame]:
        return one_by_one(
            self.stream, packets, period_ticks=self.period_ticks, damaged=self.damaged
        )

    def _checked(self, index: int, ticks: int, picture: VideoFrame) -> Frame:
        """Return the frame after checking it against the limits."""
        seconds = float(ticks * self.time_base)
        self.check_length(index + 1, seconds)
        self.check_size(picture.width, picture.height)
        if picture.is_corrupt:
            start = ticks + self.origin_ticks
            self.damaged.append((start, start + (picture.duration or self.period_ticks)))
        display = display_of(
            picture,
            pixel_aspect=self._pixel_aspect(),
            aperture=self._file.aperture,
            max_pixels=self._limits.max_pixels,
        )
        duration = picture.duration or 0
        return Frame(index, ticks, seconds, duration, picture, display, picture.is_corrupt)

    def _pixel_aspect(self) -> Fraction:
        """Return the width by height of a pixel of the latest frame.

        The container prevails. If it says the same as the codec did first, or nothing, the codec
        is followed, which may change.
        """
        codec = self.stream.codec_context.sample_aspect_ratio
        if self._codec_aspect is None:
            self._codec_aspect = codec
        stated = self.stream.sample_aspect_ratio
        return (stated if stated != self._codec_aspect else codec) or Fraction(1)


@contextmanager
def open_video(
    path: Path,
    limits: Limits,
    heartbeat: Heartbeat = no_heartbeat,
    *,
    stream: int | None = None,
) -> Iterator[Decoder]:
    """Open a video for one pass; close it when the context ends.

    Raises:
        VideoTooLarge, VideoTooLong: the headers state more than the limits allow.
        VideoError, OSError: the file cannot be opened; see `OpenFile.open`.
    """
    decoder = Decoder(partial(OpenFile.open, path, limits, stream), limits, heartbeat)
    try:
        decoder.check_headers()
        yield decoder
    finally:
        decoder.close()


def _shift(packet: Packet, shift: int) -> None:
    """Add `shift` ticks to the packet's timestamps."""
    if shift and packet.dts is not None:
        packet.dts += shift
    if shift and packet.pts is not None:
        packet.pts += shift
