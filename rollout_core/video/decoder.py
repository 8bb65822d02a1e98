"""Opens and decodes untrusted videos within limits.

Only the listed formats and codecs are accepted, and a file cannot refer to another file. The
values in the headers are checked against the limits before decoding, and the decoded frames are
checked again. Nothing here limits decoding time: run it in a process that can be killed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from rollout_core.contract import MAX_VIDEO_PIXELS, MAX_VIDEO_SECONDS
from rollout_core.errors import (
    UnsupportedContainer,
    VideoTooLarge,
    VideoTooLong,
    VideoUndecodable,
)
from rollout_core.video.aperture import Aperture, read_aperture
from rollout_core.video.convert import DecodingError
from rollout_core.video.display import Display, display_of
from rollout_core.video.geometry import MAX_SIDE_PIXELS
from rollout_core.video.streams import CODECS, choose_stream, describe_streams, video_streams

FORMATS = ("mov", "mp4", "matroska", "webm", "avi", "mpegts")

MAX_STREAMS = 200
"""Opening a file with 1,000 streams takes seconds; fonts in a Matroska file count as streams."""

DECODER_THREADS = 2
CODED_SIZE_FACTOR = 2
"""FFmpeg's own limit includes the padding of frames to whole blocks, so it is set higher."""

BACKWARD_JUMP_SECONDS = 1.0
"""Timestamps that go back by more than this have restarted: concatenated recordings do that."""

FORWARD_JUMP_SECONDS = 10.0
"""In a format whose timestamps may jump, a longer gap is a jump and not a pause, as for ffmpeg."""

JUMPING_FORMATS = ("mpegts",)
"""Formats whose timestamps may jump; the length in their headers is an estimate from these."""

MAX_DELAY_PACKETS = 64
"""No decoder holds back the frames of more packets than this."""

DEFAULT_RATE_HZ = Fraction(25)

av.logging.set_level(None)

Heartbeat = Callable[[], None]
"""Called for every packet that is read, whether or not it yields a frame."""


def no_heartbeat() -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest video that is accepted.

    Attributes:
        max_seconds: length of the video.
        max_pixels: width × height of a frame.
        max_frames: number of frames.
    """

    max_seconds: float = MAX_VIDEO_SECONDS
    max_pixels: int = MAX_VIDEO_PIXELS
    max_frames: int = 40_000


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

    def rgb(self) -> NDArray[np.uint8]:
        """Return the displayed frame, uint8 `H W c`, RGB.

        Raises:
            VideoUndecodable: the pixels cannot be converted.
        """
        return self.display.rgb(self.picture)


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
        self,
        container: InputContainer,
        stream: VideoStream,
        limits: Limits,
        heartbeat: Heartbeat,
        aperture: Aperture,
    ) -> None:
        self._container = container
        self._stream = stream
        self._limits = limits
        self._heartbeat = heartbeat
        self.rate_hz = stream.average_rate or stream.guessed_rate or DEFAULT_RATE_HZ
        self.time_base: Fraction = stream.time_base or Fraction(1, 90_000)
        self.period_ticks = max(1, round(1 / (self.rate_hz * self.time_base)))
        self.container_name = container.format.name
        self.has_jumps = self.container_name in JUMPING_FORMATS
        self.origin_ticks = 0
        self.encrypted = 0
        self.damaged: list[tuple[int, int]] = []
        self.codec_name = stream.codec_context.codec.canonical_name
        self._aperture = aperture
        self._codec_aspect: Fraction | None = None

    @property
    def stream(self) -> VideoStream:
        """The stream that is decoded."""
        return self._stream

    @property
    def container(self) -> InputContainer:
        """The open file."""
        return self._container

    @property
    def streams_text(self) -> str | None:
        """All video streams, for people; None if there is only one."""
        several = len(video_streams(self._container)) > 1
        return describe_streams(self._container) if several else None

    def packets(self) -> Iterator["av.Packet[VideoStream]"]:
        """Yield the packets in file order, up to the first one that cannot be read.

        Where timestamps restart or jump, the following ones are shifted to continue from the last.
        In AVI, which has no presentation timestamps, `pts` is removed: FFmpeg's guesses are wrong
        for reordered frames.
        """
        shift, latest = 0, None
        back = BACKWARD_JUMP_SECONDS / self.time_base
        ahead = FORWARD_JUMP_SECONDS / self.time_base if self.has_jumps else float("inf")
        try:
            for packet in self._container.demux(self._stream):
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
        first: Frame | None = None
        origin, latest = 0, -1
        for index, picture in enumerate(self._pictures()):
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
        stated = self._stream.duration
        seconds = float(stated * self.time_base) if stated else 0.0
        if self._container.duration and not stated:
            seconds = self._container.duration / av.time_base
        self.check_length(self._stream.frames, 0.0 if self.has_jumps else seconds)
        self.check_size(self._stream.codec_context.width, self._stream.codec_context.height)

    def _pictures(self) -> Iterator[VideoFrame]:
        """Decode packet by packet, skipping packets that cannot be decoded."""
        silent: list[tuple[int, int]] = []  # packets since the last frame
        for packet in chain(self.packets(), (None,)):
            is_hidden = packet is None or packet.is_discard  # by the file's edit list
            span = None if packet is None or is_hidden else self._span_of(packet)
            try:
                pictures = self._stream.decode(packet)
            except DecodingError:
                if span is not None:
                    self.damaged.append(span)
                continue
            if pictures or packet is None:
                self.damaged += silent[:-MAX_DELAY_PACKETS]
                silent = []
            elif span is not None:
                silent.append(span)
            yield from pictures

    def _span_of(self, packet: "av.Packet[VideoStream]") -> tuple[int, int] | None:
        """Return start and end of a packet's frame in ticks, None if it has no timestamp."""
        start = packet.dts if packet.pts is None else packet.pts
        return None if start is None else (start, start + (packet.duration or self.period_ticks))

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
            aperture=self._aperture,
            max_pixels=self._limits.max_pixels,
        )
        duration = picture.duration or 0
        return Frame(index, ticks, seconds, duration, picture, display, picture.is_corrupt)

    def _pixel_aspect(self) -> Fraction:
        """Return the width by height of a pixel of the latest frame.

        The container prevails. If it says the same as the codec did first, or nothing, the codec
        is followed, which may change.
        """
        codec = self._stream.codec_context.sample_aspect_ratio
        if self._codec_aspect is None:
            self._codec_aspect = codec
        stated = self._stream.sample_aspect_ratio
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

    Args:
        stream: index of the video stream. Default: see `choose_stream`.
    Raises:
        UnsupportedContainer: the file is not of a supported container format, or is damaged.
        NoVideoStream: the file has no video stream, or not this one.
        VideoUndecodable: the codec is not supported.
        VideoTooLarge, VideoTooLong: the headers state more than the limits allow.
        FileNotFoundError, PermissionError: the file cannot be read.
    """
    container = _open_container(path, limits)
    try:
        chosen = choose_stream(container, stream)
        context = chosen.codec_context
        context.options = _codec_options(limits)
        context.thread_type = "SLICE"
        context.thread_count = DECODER_THREADS
        place = container.streams.video.index(chosen)
        aperture = read_aperture(path, track_id=chosen.id, place=place)
        decoder = Decoder(container, chosen, limits, heartbeat, aperture)
        decoder.check_headers()
        yield decoder
    finally:
        container.close()


def _open_container(path: Path, limits: Limits) -> InputContainer:
    options = {
        "format_whitelist": ",".join(FORMATS),
        "protocol_whitelist": "file",
        "max_streams": str(MAX_STREAMS),
        **_codec_options(limits),  # for the decoders that FFmpeg runs to detect parameters
    }
    try:
        return av.open(f"file:{path}", options=options, metadata_errors="replace")
    except (FileNotFoundError, PermissionError):
        raise
    except DecodingError as error:
        known = ", ".join(FORMATS)
        raise UnsupportedContainer(
            f"the file is damaged or not of a known container ({known})"
        ) from error


def _codec_options(limits: Limits) -> dict[str, str]:
    return {
        "codec_whitelist": ",".join(CODECS),
        "max_pixels": str(CODED_SIZE_FACTOR * limits.max_pixels),
    }


def _shift(packet: "av.Packet[VideoStream]", shift: int) -> None:
    """Add `shift` ticks to the packet's timestamps."""
    if shift and packet.dts is not None:
        packet.dts += shift
    if shift and packet.pts is not None:
        packet.pts += shift
