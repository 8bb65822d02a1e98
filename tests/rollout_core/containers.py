"""Writes fields into films that the muxers at hand cannot write."""

import struct
from fractions import Fraction
from pathlib import Path

from tests.hostile.mp4_boxes import box, boxes, edit, element, elements


def clap(width, height, x=0, y=0) -> bytes:
    """Return a clean aperture: its size, and the offset of its centre, in pixels."""
    fields = [
        part for value in (width, height, x, y) for part in Fraction(value).as_integer_ratio()
    ]
    return box(b"clap", struct.pack(">IIIIiIiI", *fields))


def pasp(width: int, height: int) -> bytes:
    """Return the shape of a pixel."""
    return box(b"pasp", struct.pack(">II", width, height))


def with_sample_boxes(path: Path, *added: bytes) -> Path:
    """Add boxes to the video sample entry of an MP4 film whose index follows its frames.

    Boxes that the entry has of the same kinds, and its `pasp`, are removed.
    """

    def change(body: bytes) -> bytes:
        ((kind, begin, _),) = boxes(body[8:])
        entry = body[8 + begin + 8 :]
        kinds = {b"pasp", *(extra[4:8] for extra in added)}
        kept = [entry[78:][b:e] for name, b, e in boxes(entry[78:]) if name not in kinds]
        return body[:8] + box(kind, entry[:78], *kept, *added)

    path.write_bytes(edit(path.read_bytes(), "moov/trak/mdia/minf/stbl/stsd", change))
    return path


def with_track_size(path: Path, width: int, height: int) -> Path:
    """Write another displayed size into the track header of an MP4 film."""

    def change(body: bytes) -> bytes:
        return body[:76] + struct.pack(">II", width << 16, height << 16) + body[84:]

    path.write_bytes(edit(path.read_bytes(), "moov/trak/tkhd", change))
    return path


def with_video_elements(path: Path, values: dict[str, int]) -> Path:
    """Set elements, by their ids in hexadecimal, of the video track of a Matroska film."""
    content = path.read_bytes()
    header, tracks = b"", b""
    clusters = []
    for kind, begin, inner, end in elements(content):
        if kind == "1a45dfa3":
            header = content[begin:end]
        elif kind == "1654ae6b":
            tracks = element(kind, _rewritten(content[inner:end], values))
        elif kind in ("1549a966", "1f43b675"):
            clusters.append(content[begin:end])
    path.write_bytes(header + element("18538067", clusters[0] + tracks + b"".join(clusters[1:])))
    return path


def _rewritten(content: bytes, values: dict[str, int]) -> bytes:
    """Return the content of `Tracks` or `TrackEntry` with the elements set inside `Video`."""
    parts = []
    for kind, begin, inner, end in elements(content):
        body = content[inner:end]
        if kind == "ae":
            parts.append(element(kind, _rewritten(body, values)))
        elif kind == "e0":
            kept = [body[b:e] for name, b, _, e in elements(body) if name not in values]
            added = [element(name, value.to_bytes(2, "big")) for name, value in values.items()]
            parts.append(element(kind, b"".join(kept + added)))
        else:
            parts.append(content[begin:end])
    return b"".join(parts)
