"""How much of a span of a video could be decoded, and what follows from it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from rollout_core.contract import COMPLETE_SHARE, ExplainRequest, VideoWarning
from rollout_core.errors import VideoIncomplete
from rollout_core.video.decoder import Decoder, Frame
from rollout_core.video.timeline import Interval, Timeline

NOTABLE_SECONDS = 1e-6
"""Less than this is rounding."""


@dataclass
class Tally:
    """Counts what can be decoded of a span while its frames are read.

    Attributes:
        start_seconds, end_seconds: the span, half open.
        frames: number of undamaged frames that begin in the span, or are on display as it begins.
        damaged: the parts of the video whose packets could not be decoded.
    """

    start_seconds: float
    end_seconds: float
    frames: int = 0
    damaged: list[Interval] = field(default_factory=list)

    def watch(self, decoder: Decoder) -> Iterator[Frame]:
        """Yield the decoder's frames up to the end of the span, and count them."""
        before = 0
        for frame in decoder.frames():
            if frame.pts_seconds >= self.end_seconds:
                break
            sound = int(not frame.is_damaged)
            if frame.pts_seconds <= self.start_seconds:
                before = sound
            else:
                self.frames += sound
            yield frame
        self.frames += before
        self.damaged = [*decoder.damaged_seconds()]


@dataclass(frozen=True)
class Coverage:
    """How much of a span is there.

    Attributes:
        decodable_seconds, promised_seconds: what is there, and the length of the span.
        frames, promised_frames: the same in frames; None where it is not known.
    """

    decodable_seconds: float
    promised_seconds: float
    frames: int
    promised_frames: int | None

    @classmethod
    def of(
        cls,
        timeline: Timeline,
        request: ExplainRequest,
        *,
        damaged: Sequence[Interval] = (),
        frames: int | None = None,
    ) -> Self:
        """Return the coverage of the span that a request asks for.

        Args:
            damaged: parts that are in the file but could not be decoded.
            frames: number of frames of the span that could be decoded. Default: all packets.
        """
        lost = [*timeline.missing, *damaged]
        end = max(timeline.duration_seconds, *(stop for _, stop in lost), 0.0)
        is_whole_video = request.start_seconds is None and request.end_seconds is None
        start = request.start_seconds or min(0.0, *(begin for begin, _ in lost), 0.0)
        end = min(end, request.end_seconds or end)
        length = max(0.0, end - start)
        return cls(
            decodable_seconds=length - _length(lost, start, end),
            promised_seconds=length,
            frames=timeline.frames if frames is None else frames,
            promised_frames=timeline.frames_promised if is_whole_video else None,
        )

    def check(self, *, allow_incomplete: bool) -> tuple[VideoWarning, ...]:
        """Return a warning if a part of the span is not there.

        Raises:
            VideoIncomplete: less than `COMPLETE_SHARE` is there, and this is not allowed.
        """
        if self.promised_seconds - self.decodable_seconds < NOTABLE_SECONDS:
            return ()
        is_enough = self.decodable_seconds >= COMPLETE_SHARE * self.promised_seconds
        if not is_enough and not allow_incomplete:
            raise VideoIncomplete(
                f"{self}. Send the whole file, or allow_incomplete to explain what is there"
            )
        return (VideoWarning(code=VideoIncomplete.code, detail=str(self)),)

    def __str__(self) -> str:
        frames = f" ({self.frames} of {self.promised_frames} frames)" * bool(self.promised_frames)
        return (
            f"only {self.decodable_seconds:.3f} s of {self.promised_seconds:.3f} s{frames} can be "
            "decoded: the file was cut off or damaged"
        )


def _length(intervals: Iterable[Interval], start: float, end: float) -> float:
    """Return how much of a span the intervals cover together."""
    covered, reached = 0.0, start
    for begin, stop in sorted(intervals):
        begin, stop = max(begin, reached), min(stop, end)
        if stop > begin:
            covered, reached = covered + stop - begin, stop
    return covered
