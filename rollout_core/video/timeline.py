"""What the packets of a video tell of its length, and what of it is missing."""

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.stream import VideoStream

from rollout_core.video import structure
from rollout_core.video.decoder import Decoder, Heartbeat
from rollout_core.video.decoding import Packet
from rollout_core.video.transport_stream import continuity_breaks

GAP_PERIODS = 3
"""Where packets are known to be missing, a gap is longer than this many usual distances."""

LEAST_SHARE = 0.001
"""Bounds the length that is estimated from the bytes of a broken file."""

NEAR_PACKETS = 8
"""Where packets of a transport stream are missing, FFmpeg marks one this close in the file.

It marks one or two packets too early, and the frames may be stored in another order.
"""

FOREIGN_TOLERANCE_SECONDS = 0.5
"""A length that is stated for sound and video together may exceed that of the video by this."""

_DURATION_TAG = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")

Interval = tuple[float, float]
"""Start and end in seconds since the first frame; half open."""


@dataclass(frozen=True)
class Timeline:
    """The length of a video.

    Attributes:
        duration_seconds: from the start of the first frame to the end of the last one. A video
            that stands still at its end lasts as long as its container states.
        frames: number of whole packets from the first frame on. Each has one frame, as a rule.
        promised_seconds, frames_promised: what the container states; None if it states nothing.
        missing: the parts of the video that are not in the file. One that belongs before the
            first frame has negative times.
    """

    duration_seconds: float
    frames: int
    promised_seconds: float | None
    frames_promised: int | None
    missing: tuple[Interval, ...]


@dataclass(frozen=True)
class Promise:
    """What a container states of the length of its video stream.

    Attributes:
        end_ticks: timestamp of the end; None if nothing is stated.
        frames: number of frames; None if nothing is stated.
        tolerance_ticks: a difference to the packets that means nothing.
        is_table: whether each frame is listed, with its duration.
        is_fragmented: whether this table is in parts, each before its frames.
    """

    end_ticks: int | None
    frames: int | None
    tolerance_ticks: int
    is_table: bool = False
    is_fragmented: bool = False

    @classmethod
    def of(cls, decoder: Decoder) -> "Promise":
        """Return what an open container states. In fragments, this grows as they are read."""
        stream, period = decoder.stream, decoder.period_ticks
        start = stream.start_time or 0
        if decoder.container_name.startswith("mov"):
            end = start + stream.duration if stream.duration else None
            count = len(stream.index_entries) or None
            return cls(end, count, period, is_table=True, is_fragmented=not stream.frames)
        if decoder.container_name == "avi":
            return cls(stream.frames * period or None, stream.frames or None, period)
        if decoder.container_name.startswith("matroska"):
            return cls._of_matroska(decoder)
        return cls(None, None, period)

    @classmethod
    def _of_matroska(cls, decoder: Decoder) -> "Promise":
        """Return the stream's own length if a tag states it, else that of the whole file."""
        per_second = 1 / decoder.time_base
        frames = _tag(decoder.stream, "NUMBER_OF_FRAMES")
        count = int(frames) if frames.isdecimal() else None
        stated = _DURATION_TAG.fullmatch(_tag(decoder.stream, "DURATION"))
        if stated is not None:
            hours, minutes, seconds = stated.groups()
            own = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
            return cls(round(own * per_second), count, decoder.period_ticks)
        if not decoder.container.duration:
            return cls(None, count, decoder.period_ticks)
        is_alone = len(decoder.container.streams) == 1
        tolerance = 0 if is_alone else round(FOREIGN_TOLERANCE_SECONDS * per_second)
        end = round(decoder.container.duration * per_second / av.time_base)
        return cls(end, count, max(tolerance, decoder.period_ticks))


class _Note(NamedTuple):
    """What is kept of a packet: times in ticks, and its place in the file in bytes."""

    time: int | None
    duration: int
    is_torn: bool
    is_hidden: bool
    place: int


class PacketLog:
    """Collects the times of a video's packets.

    Attributes:
        packets: number of whole packets.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._begin: int | None = None
        self._waiting: list[_Note] | None = []
        self._last = 0, 0
        self._starts = array("q")
        self._torn = array("b")
        self._places = array("q")
        self._hidden = 0
        self.packets = 0

    def watch(self, packets: Iterator[Packet]) -> Iterator[Packet]:
        """Yield the packets, and note each. One that is cut off does not count.

        Raises:
            VideoTooLong: the packets exceed a limit.
        """
        for packet in packets:
            if self._decoder.has_jumps or not packet.is_corrupt:
                self.packets += 1
                self._note(
                    _Note(
                        time=packet.dts if packet.pts is None else packet.pts,
                        duration=packet.duration or self._decoder.period_ticks,
                        is_torn=packet.is_corrupt,
                        is_hidden=packet.is_discard,
                        place=-1 if packet.pos is None else packet.pos,
                    )
                )
            yield packet

    def begin(self, ticks: int | None) -> None:
        """Count from the timestamp of the first frame; None: from the first packet.

        Packets before the first frame do not count.

        Raises:
            VideoTooLong: the packets so far exceed a limit.
        """
        self._begin = ticks
        waiting, self._waiting = self._waiting or [], None
        for note in waiting:
            self._note(note)

    def _note(self, note: _Note) -> None:
        if self._waiting is not None:
            self._waiting.append(note)
            self._decoder.check_length(len(self._waiting), 0.0)
            return
        time, self._begin = note.time, note.time if self._begin is None else self._begin
        start = sum(self._last) if time is None or self._begin is None else time - self._begin
        if note.is_hidden or start < 0:
            self._hidden += 1
            return
        self._last = max(self._last, (start, note.duration))
        self._starts.append(start)
        self._torn.append(note.is_torn)
        self._places.append(note.place)
        self._decoder.check_length(len(self._starts), self._seconds(sum(self._last)))

    def timeline(self, path: Path, heartbeat: Heartbeat) -> Timeline:
        """Return what all packets tell; where they leave a doubt, follow the file's structure."""
        decoder, promise = self._decoder, Promise.of(self._decoder)
        end = max(sum(self._last), 1)
        stated = -1 if promise.end_ticks is None else promise.end_ticks - (self._begin or 0)
        is_short = stated > end + promise.tolerance_ticks
        if decoder.has_jumps:
            self._mark_breaks(path, heartbeat)
        missing = [] if promise.is_table and not promise.is_fragmented else self._holes()
        is_open = promise.end_ticks is None or promise.is_fragmented
        broken_share = 0.0
        if not decoder.has_jumps and (is_short or missing or is_open):
            broken_share = structure.broken_share(path, decoder.container_name, heartbeat)
            missing = missing if broken_share else []
        lacking = (promise.frames or 0) - self.packets if promise.is_table else 0
        if lacking > 0:
            missing.append((end, max(stated, end + lacking * decoder.period_ticks)))
        elif is_short and not broken_share and not promise.is_fragmented:
            end = stated
        elif is_short:
            missing.append((end, stated))
        elif broken_share and is_open and not missing:
            missing.append((end, round(end / max(1 - broken_share, LEAST_SHARE))))
        return Timeline(
            duration_seconds=self._seconds(end),
            frames=len(self._starts),
            promised_seconds=None if stated < 0 else self._seconds(max(stated, end)),
            frames_promised=self._frames_promised(promise, is_whole=not missing),
            missing=tuple((self._seconds(a), self._seconds(b)) for a, b in missing),
        )

    def _frames_promised(self, promise: Promise, *, is_whole: bool) -> int | None:
        """Return the number of frames that the container states, without those that it hides.

        None if the file is whole and has another number: some files state fields, not frames.
        """
        if promise.frames is None or (is_whole and promise.frames != self.packets):
            return None
        return promise.frames - self._hidden

    def _mark_breaks(self, path: Path, heartbeat: Heartbeat) -> None:
        """Mark the packets beside the places where packets of any elementary stream are missing."""
        places = np.array(self._places, np.int64)
        for place in continuity_breaks(path, heartbeat) if len(places) else ():
            after = int(np.searchsorted(places, place))
            for at in (after - 1, after):
                if 0 <= at < len(places):
                    self._torn[at] = True

    def _holes(self) -> list[tuple[int, int]]:
        """Return the parts of the timeline where packets may be missing.

        Where timestamps may jump, only those beside a packet that is marked as damaged.
        """
        order = np.argsort(self._starts, kind="stable")
        starts = np.array(self._starts, np.int64)[order]
        steps = np.diff(starts)
        if not steps.any():
            return []
        usual = max(int(np.median(steps[steps > 0])), 1)  # packets may share a time
        is_hole = steps > GAP_PERIODS * usual
        if self._decoder.has_jumps:
            torn = np.convolve(np.array(self._torn, float), np.ones(2 * NEAR_PACKETS + 1))
            near = torn[NEAR_PACKETS : NEAR_PACKETS + len(starts)][order] > 0
            is_hole &= near[:-1] | near[1:]
        found = [(int(starts[at]) + usual, int(starts[at + 1])) for at in np.flatnonzero(is_hole)]
        begin = self._begin or 0
        if self._decoder.container_name.startswith("matroska") and begin > GAP_PERIODS * usual:
            found.insert(0, (-begin, 0))
        return found

    def _seconds(self, ticks: int) -> float:
        return float(ticks * self._decoder.time_base)


def _tag(stream: VideoStream, name: str) -> str:
    """Return a tag of a stream, in any language; empty if there is none."""
    values = (value for key, value in stream.metadata.items() if key.split("-")[0] == name)
    return next(values, "")
