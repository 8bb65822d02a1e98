"""The least that a job must do to a video: decode what is sampled, and encode it once."""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import av

BARE_ENCODER = {"preset": "veryfast"}
"""The baseline of all overlays: libx264's veryfast preset at its own quality (crf 23)."""


def decode_all(source: Path) -> None:
    """Decode every frame, with as many threads as FFmpeg likes."""
    with _opened(source) as container:
        for _ in container.decode(video=0):
            pass


def decode_until(source: Path, seconds: Sequence[float]) -> None:
    """Decode from the start to the last of these times."""
    with _opened(source) as container:
        for frame in container.decode(video=0):
            if frame.time >= seconds[-1]:
                break


def decode_by_seeking(source: Path, seconds: Sequence[float]) -> None:
    """Decode up to each of these times, and skip to the last key frame before it."""
    with _opened(source) as container:
        stream = container.streams.video[0]
        keys = [packet.pts for packet in container.demux(stream) if packet.is_keyframe]
        at = -1
        for wanted in (round(second / stream.time_base) for second in seconds):
            key = keys[max(0, bisect_right(keys, wanted) - 1)]
            if at < key:
                container.seek(key, stream=stream)
                frames = container.decode(stream)
            while at < wanted:
                at = next(frames).pts


def reencode(source: Path, target: Path) -> None:
    """Decode every frame and encode it unchanged."""
    with _opened(source) as container, av.open(target, "w") as output:
        given = container.streams.video[0]
        stream = output.add_stream("libx264", rate=given.average_rate, options=BARE_ENCODER)
        stream.width, stream.height, stream.pix_fmt = given.width, given.height, "yuv420p"
        for frame in container.decode(given):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def _opened(source: Path) -> av.container.InputContainer:
    container = av.open(source)
    container.streams.video[0].thread_type = "AUTO"
    return container
