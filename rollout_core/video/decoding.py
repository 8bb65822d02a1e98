"""Decodes packets into pictures: one by one, or several at once on several cores.

Both give the same pictures of a sound video. Only one by one is it known which packet could not be
decoded, so `at_once` gives up at the first sign of damage.
"""

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import TypeAlias

import av
from av.codec.context import ThreadType
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from rollout_core.video.convert import DecodingError

SLICE_THREADS = 2
FRAME_THREADS = 4
"""Most packets that are decoded at once. Each one more keeps a frame more in memory."""

PIXELS_AT_ONCE = 1 << 24
"""Of larger frames, fewer are decoded at once, but two."""

SILENT_CODECS = ("vp8",)
"""With several threads, their decoders do not tell what they could not decode."""

MAX_DELAY_PACKETS = 64
"""No decoder holds back the frames of more packets than this."""

Packet: TypeAlias = "av.Packet[VideoStream]"
Ticks = tuple[int, int]
"""Start and end of a frame, as timestamps of its stream."""


class Doubt(Exception):
    """Decoding several packets at once may not give what decoding them one by one gives."""


def one_by_one(
    stream: VideoStream, packets: Iterator[Packet], *, period_ticks: int, damaged: list[Ticks]
) -> Iterator[VideoFrame]:
    """Yield every picture that can be decoded, in display order.

    Args:
        period_ticks: duration of a frame whose packet states none.
        damaged: gets the times of the packets that could not be decoded.
    """
    _use_threads(stream, ThreadType.SLICE, SLICE_THREADS)
    silent: list[Ticks] = []  # packets since the last picture
    for packet in chain(packets, (None,)):
        span = None if packet is None else _span_of(packet, period_ticks)
        try:
            pictures = stream.decode(packet)
        except DecodingError:
            if span is not None:
                damaged.append(span)
            continue
        if pictures or packet is None:
            damaged += silent[:-MAX_DELAY_PACKETS]
            silent = []
        elif span is not None:
            silent.append(span)
        yield from pictures


def at_once(stream: VideoStream, packets: Iterator[Packet]) -> Iterator[VideoFrame]:
    """Yield the same pictures as `one_by_one`, while further packets are being decoded.

    At the end of the video, PyAV drops an error that follows a picture, and all that comes after
    it. So the last packets must have their pictures among the last ones.

    Raises:
        Doubt: a packet is damaged or has no time of display; all pictures before are yielded.
    """
    if stream.codec_context.name in SILENT_CODECS:
        raise Doubt
    _use_threads(stream, ThreadType.FRAME, frame_threads(stream.width, stream.height))
    stream.codec_context.options |= {"err_detect": "explode"}
    silent = 0  # packets since the last picture
    sent: deque[int | None] = deque(maxlen=FRAME_THREADS)
    shown: deque[int | None] = deque(maxlen=MAX_DELAY_PACKETS)
    for packet in chain(packets, (None,)):
        if packet is not None and (packet.is_corrupt or packet.pts is None):
            raise Doubt
        try:
            pictures = stream.decode(packet)
        except DecodingError as error:
            raise Doubt from error
        if packet is not None and not packet.is_discard:
            sent.append(packet.pts)
            silent += 1
        silent = 0 if pictures else silent
        if silent > MAX_DELAY_PACKETS or any(picture.is_corrupt for picture in pictures):
            raise Doubt
        shown += (picture.pts for picture in pictures)
        yield from pictures
    if not {*sent} <= {*shown}:
        raise Doubt


def frame_threads(width: int, height: int) -> int:
    """Return how many frames of this size to decode at once."""
    return max(2, min(FRAME_THREADS, PIXELS_AT_ONCE // max(width * height, 1)))


def _use_threads(stream: VideoStream, kind: ThreadType, count: int) -> None:
    """Choose the threads of a decoder that has not decoded anything yet."""
    stream.codec_context.thread_type = kind
    stream.codec_context.thread_count = count


def _span_of(packet: Packet, period_ticks: int) -> Ticks | None:
    """Return the times of a packet's frame; None if they are unknown, or an edit list hides it."""
    start = packet.dts if packet.pts is None else packet.pts
    if start is None or packet.is_discard:
        return None
    return start, start + (packet.duration or period_ticks)
