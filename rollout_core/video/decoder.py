"""Opens and decodes videos that strangers made, within limits.

A video is a program for its decoder. Only a few formats and codecs are let in, a file can name
no other file, what headers claim is checked before anything is decoded, and everything is
counted again while decoding. None of this bounds time: only a process that can be killed does.
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

from rollout_core.errors import (
    NoVideoStream,
    UnsupportedContainer,
    VideoTooLarge,
    VideoTooLong,
    VideoUndecodable,
)

FORMATS = ("mov", "mp4", "matroska", "webm", "avi", "mpegts")
CODECS = ("h264", "hevc", "vp8", "vp9", "libdav1d", "av1", "mpeg4")
"""Names of FFmpeg's decoders."""

MAX_STREAMS = 200
"""To open a thousand takes seconds; fonts in a Matroska file count, too."""

DECODER_THREADS = 2
CODED_SIZE_FACTOR = 2
"""Codecs pad a frame up to whole blocks, and FFmpeg's own limit counts the padding."""

MAX_SIDE_PIXELS = 8192
"""Side by side, an overlay is twice as wide as its source; libx264 stops at 16,384."""

BACKWARD_JUMP_SECONDS = 1.0
"""Time that runs back by more than this began anew: recordings that were joined byte by byte."""

DEFAULT_RATE_HZ = Fraction(25)

av.logging.set_level(None)

DecodingError = (av.FFmpegError, IndexError)

Heartbeat = Callable[[], None]
"""Called for every packet that is read, whether or not a frame comes of it."""


def no_heartbeat() -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that a video may hold."""

    max_seconds: float = 600.0
    max_pixels: int = 4096 * 2304
    """Of one frame."""
    max_frames: int = 40_000


@dataclass(frozen=True)
class Frame:
    """One decoded frame, still as it is stored.

    Attributes:
        index: of all frames that were decoded.
        ticks: when it is shown, in the stream's time base, counted from the first frame.
        pts_seconds: the same in seconds.
        duration_ticks: how long, or 0 where the file does not say.
        quarter_turns: counterclockwise, to how it is displayed.
    """

    index: int
    ticks: int
    pts_seconds: float
    duration_ticks: int
    quarter_turns: int
    picture: VideoFrame

    @property
    def displayed_size(self) -> tuple[int, int]:
        """Width and height after turning."""
        return _turned((self.picture.width, self.picture.height), self.quarter_turns)

    def rgb(self) -> NDArray[np.uint8]:
        """Return the frame as it is displayed, uint8 `H W c`."""
        with _undecodable():
            pixels = self.picture.to_ndarray(format="rgb24", threads=1)
        return np.rot90(pixels.astype(np.uint8, copy=False), self.quarter_turns)


class Decoder:
    """The video stream of an open container."""

    def __init__(
        self, container: InputContainer, stream: VideoStream, limits: Limits, heartbeat: Heartbeat
    ) -> None:
        self._container = container
        self._stream = stream
        self._limits = limits
        self._heartbeat = heartbeat
        self.rate_hz = stream.average_rate or stream.guessed_rate or DEFAULT_RATE_HZ
        self.time_base: Fraction = stream.time_base or Fraction(1, 90_000)
        self.period_ticks = max(1, round(1 / (self.rate_hz * self.time_base)))
        self.container_name = container.format.name
        self.codec_name = stream.codec_context.codec.canonical_name
        self.sample_aspect_ratio = stream.sample_aspect_ratio or Fraction(1)

    def packets(self) -> Iterator["av.Packet[VideoStream]"]:
        """Yield the packets in the file's order; where the file is damaged, it ends.

        Timestamps that begin anew are moved to go on. Times of display are only those that the
        file holds: AVI has none, and FFmpeg's guesses are wrong where frames are reordered.
        """
        shift, latest = 0, None
        jump = BACKWARD_JUMP_SECONDS / self.time_base
        try:
            for packet in self._container.demux(self._stream):
                self._heartbeat()
                if packet.size == 0:
                    continue
                if packet.dts is not None:
                    if latest is not None and packet.dts + shift < latest - jump:
                        shift = latest + self.period_ticks - packet.dts
                    latest = packet.dts + shift
                _move(packet, shift)
                if self.container_name == "avi":
                    packet.pts = None
                yield packet
        except DecodingError:
            return

    def frames(self) -> Iterator[Frame]:
        """Yield every frame that can be decoded, in the order of display.

        All have the displayed size of the first: a stream that changes its size is scaled.

        Raises:
            VideoUndecodable: there is none.
            VideoTooLong, VideoTooLarge: there is more than the limits allow.
        """
        first: Frame | None = None
        origin, latest = 0, -1
        for index, picture in enumerate(self._pictures()):
            time = picture.dts if picture.pts is None else picture.pts
            if first is None:
                origin, start = time or 0, 0
            else:
                start = latest + self.period_ticks if time is None else time - origin
            latest = max(start, latest + 1)  # frames shown at the same time would be lost
            frame = self._checked(index, latest, picture)
            first = first or frame
            yield _resized(frame, first.displayed_size)
        if first is None:
            raise VideoUndecodable("no frame of the video could be decoded")

    def check_length(self, frames: int, seconds: float) -> None:
        """Refuse more than the limits allow.

        Raises:
            VideoTooLong: it is more.
        """
        if frames > self._limits.max_frames:
            raise VideoTooLong(f"the video has more than {self._limits.max_frames} frames")
        if seconds > self._limits.max_seconds:
            raise VideoTooLong(f"the video lasts more than {self._limits.max_seconds:g} s")

    def check_size(self, width: int, height: int) -> None:
        """Refuse larger frames than the limits allow.

        Raises:
            VideoTooLarge: they are larger.
        """
        if width * height > self._limits.max_pixels:
            limit = self._limits.max_pixels
            raise VideoTooLarge(f"frames of {width}×{height} have more than {limit} pixels")
        if max(width, height) > MAX_SIDE_PIXELS:
            raise VideoTooLarge(f"frames of {width}×{height} are longer than {MAX_SIDE_PIXELS}")

    def check_claims(self) -> None:
        """Refuse what the headers already say is too much."""
        claimed = self._stream.duration
        seconds = float(claimed * self.time_base) if claimed else 0.0
        if self._container.duration and not claimed:
            seconds = self._container.duration / av.time_base
        self.check_length(self._stream.frames, seconds)
        self.check_size(self._stream.codec_context.width, self._stream.codec_context.height)

    def _pictures(self) -> Iterator[VideoFrame]:
        """Decode packet by packet, going on after those that cannot be."""
        for packet in chain(self.packets(), (None,)):
            try:
                pictures = self._stream.decode(packet)
            except DecodingError:
                continue
            yield from pictures

    def _checked(self, index: int, ticks: int, picture: VideoFrame) -> Frame:
        seconds = float(ticks * self.time_base)
        self.check_length(index + 1, seconds)
        self.check_size(picture.width, picture.height)
        turns = round(picture.rotation / 90) % 4
        return Frame(index, ticks, seconds, picture.duration or 0, turns, picture)


@contextmanager
def open_video(
    path: Path, limits: Limits, heartbeat: Heartbeat = no_heartbeat
) -> Iterator[Decoder]:
    """Open a video for one pass.

    Raises:
        UnsupportedContainer, NoVideoStream, VideoUndecodable: it cannot be opened as a video.
        VideoTooLarge, VideoTooLong: its headers claim more than the limits allow.
    """
    container = _open_container(path, limits)
    try:
        stream = _video_stream(container)
        context = stream.codec_context
        context.options = _codec_options(limits)
        context.thread_type = "SLICE"
        context.thread_count = DECODER_THREADS
        decoder = Decoder(container, stream, limits, heartbeat)
        decoder.check_claims()
        yield decoder
    finally:
        container.close()


def _open_container(path: Path, limits: Limits) -> InputContainer:
    options = {
        "format_whitelist": ",".join(FORMATS),
        "protocol_whitelist": "file",
        "max_streams": str(MAX_STREAMS),
        **_codec_options(limits),  # for the decoders with which FFmpeg finds out the parameters
    }
    try:
        return av.open(f"file:{path}", options=options, metadata_errors="replace")
    except (FileNotFoundError, PermissionError):
        raise
    except DecodingError as error:
        known = ", ".join(FORMATS)
        raise UnsupportedContainer(f"not a whole file of a known container ({known})") from error


def _codec_options(limits: Limits) -> dict[str, str]:
    return {
        "codec_whitelist": ",".join(CODECS),
        "max_pixels": str(CODED_SIZE_FACTOR * limits.max_pixels),
    }


def _video_stream(container: InputContainer) -> VideoStream:
    """Return the first stream of moving pictures that may be decoded; a cover picture is none."""
    attached = av.stream.Disposition.attached_pic
    refused = []
    for stream in container.streams.video:
        if stream.disposition & attached:
            continue
        name = stream.codec_context.name if stream.codec_context else "unknown"
        if name in CODECS:
            return stream
        refused.append(name)
    if refused:
        raise VideoUndecodable(f"videos of the codec {refused[0]} are not decoded")
    raise NoVideoStream("the file holds no video stream")


def _move(packet: "av.Packet[VideoStream]", shift: int) -> None:
    if shift and packet.dts is not None:
        packet.dts += shift
    if shift and packet.pts is not None:
        packet.pts += shift


def _turned(size: tuple[int, int], quarter_turns: int) -> tuple[int, int]:
    width, height = size
    return (height, width) if quarter_turns % 2 else (width, height)


def _resized(frame: Frame, displayed_size: tuple[int, int]) -> Frame:
    if frame.displayed_size == displayed_size:
        return frame
    width, height = _turned(displayed_size, frame.quarter_turns)
    with _undecodable():
        picture = frame.picture.reformat(width=width, height=height, threads=1)
    return replace(frame, picture=picture)


@contextmanager
def _undecodable() -> Iterator[None]:
    try:
        yield
    except DecodingError as error:
        raise VideoUndecodable("a frame of the video could not be converted") from error
