"""Reads the part of the stored frame that a container wants shown: `clap` in MP4, crop in Matroska.

FFmpeg reads both but applies neither, and PyAV does not hand them on. The file is untrusted: only
the headers of boxes and a few short fields are read, of at most `MAX_BOXES` boxes, and what is
damaged is ignored.
"""

import struct
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

MAX_BOXES = 20_000
"""Boxes or elements that are looked at in one file."""

SAMPLE_ENTRY_BYTES = 78
"""Fields of a video sample entry before its boxes. Source: ISO/IEC 14496-12, 12.1.3."""

EBML = bytes.fromhex("1a45dfa3")
SEGMENT, TRACKS, TRACK = 0x18538067, 0x1654AE6B, 0xAE
TRACK_TYPE, VIDEO = 0x83, 0xE0
PIXEL_WIDTH, PIXEL_HEIGHT = 0xB0, 0xBA
CROP_LEFT, CROP_TOP, CROP_RIGHT, CROP_BOTTOM = 0x54CC, 0x54BB, 0x54DD, 0x54AA
DISPLAY_WIDTH, DISPLAY_HEIGHT = 0x54B0, 0x54BA
"""Ids of Matroska elements. Source: RFC 9559."""

VIDEO_TRACK = 1


class Aperture(NamedTuple):
    """What to cut from each side of the stored frame, in pixels.

    `pixel_aspect` is the width by height of a pixel, or None where cutting does not change what
    FFmpeg makes of the file.
    """

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0
    pixel_aspect: Fraction | None = None

    def within(self, width: int, height: int) -> "Aperture":
        """Return this aperture, or one that cuts nothing if it does not fit a stored frame."""
        fits = (
            min(self.left, self.top, self.right, self.bottom) >= 0
            and self.left + self.right < width
            and self.top + self.bottom < height
        )
        return self if fits else WHOLE


WHOLE = Aperture()


class _Box(NamedTuple):
    """A box or element: its kind, and where its content begins and ends in the file."""

    kind: int | bytes
    begin: int
    end: int


def read_aperture(path: Path, *, track_id: int, place: int) -> Aperture:
    """Return the aperture of a video track; `WHOLE` if the file states no usable one.

    Args:
        track_id: id of the track in an MP4 file.
        place: position among the video tracks of a Matroska file, from 0.
    """
    with path.open("rb") as file:
        is_matroska = file.read(4) == EBML
        reader = _Reader(file, file.seek(0, 2))
        try:
            return reader.matroska(place) if is_matroska else reader.mp4(track_id)
        except (struct.error, LookupError, StopIteration, ZeroDivisionError):
            return WHOLE


class _Reader:
    """Walks through the boxes of an MP4 file, or the elements of a Matroska file."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file = file
        self._whole = _Box(b"", 0, length)
        self._left = MAX_BOXES

    def mp4(self, track_id: int) -> Aperture:
        """Return the aperture of the MP4 track with this id."""
        for track in self._boxes(self._whole, b"moov", b"trak"):
            header = next(self._boxes(track, b"tkhd"))
            wide = self._bytes(header, 0, 1) == b"\1"
            if self._numbers(header, ">I", 20 if wide else 12)[0] == track_id:
                shown = self._numbers(header, ">II", 88 if wide else 76)
                return self._clean_aperture(track, shown)
        return WHOLE

    def matroska(self, place: int) -> Aperture:
        """Return the aperture of the video track at this place."""
        tracks = (
            track
            for track in self._elements(self._whole, SEGMENT, TRACKS, TRACK)
            if self._values(track).get(TRACK_TYPE) == VIDEO_TRACK
        )
        for track in islice(tracks, place, place + 1):
            for video in self._elements(track, VIDEO):
                return _of_matroska(self._values(video))
        return WHOLE

    def _clean_aperture(self, track: _Box, shown: tuple[int, ...]) -> Aperture:
        """Return the aperture of the track's first sample entry.

        `shown` is the size of the track as displayed, in 1/65536 pixels.
        """
        table = next(self._boxes(track, b"mdia", b"minf", b"stbl", b"stsd"))
        entry = next(self._children(table._replace(begin=table.begin + 8)))
        width, height = self._numbers(entry, ">HH", 24)
        inside = entry._replace(begin=entry.begin + SAMPLE_ENTRY_BYTES)
        boxes = {box.kind: box for box in self._children(inside)}
        if b"clap" not in boxes:
            return WHOLE
        fields = self._numbers(boxes[b"clap"], ">IIIIiIiI", 0)
        kept_width, kept_height, x, y = (Fraction(*fields[k : k + 2]) for k in range(0, 8, 2))
        left, top = round((width - kept_width) / 2 + x), round((height - kept_height) / 2 + y)
        aspect = None
        if b"pasp" not in boxes and all(shown) and shown != (width << 16, height << 16):
            aspect = Fraction(shown[0], shown[1]) * kept_height / kept_width
        right, bottom = width - left - round(kept_width), height - top - round(kept_height)
        return Aperture(left, top, right, bottom, aspect)

    def _boxes(self, parent: _Box, *kinds: bytes) -> Iterator[_Box]:
        """Yield the boxes at a path below `parent`."""
        for box in self._children(parent):
            if box.kind == kinds[0]:
                if len(kinds) == 1:
                    yield box
                else:
                    yield from self._boxes(box, *kinds[1:])

    def _children(self, parent: _Box) -> Iterator[_Box]:
        place = parent.begin
        while place + 8 <= parent.end and self._left > 0:
            self._left -= 1
            size, kind = self._numbers(parent._replace(begin=place), ">I4s", 0)
            header = 8
            if size == 1:
                header, size = 16, self._numbers(parent._replace(begin=place), ">Q", 8)[0]
            end = min(place + size, parent.end) if size else parent.end
            if end < place + header:
                return
            yield _Box(kind, place + header, end)
            place = end

    def _elements(self, parent: _Box, *kinds: int) -> Iterator[_Box]:
        """Yield the Matroska elements at a path below `parent`."""
        place = parent.begin
        while place + 2 <= parent.end and self._left > 0:
            self._left -= 1
            kind, begin = self._number(place, keep_marker=True)
            size, begin = self._number(begin, keep_marker=False)
            end = parent.end if size is None else min(begin + size, parent.end)
            if not kinds:
                yield _Box(kind or 0, begin, end)
            elif kind == kinds[0]:
                found = _Box(kinds[0], begin, end)
                yield from self._elements(found, *kinds[1:]) if kinds[1:] else (found,)
            place = end

    def _number(self, place: int, *, keep_marker: bool) -> tuple[int | None, int]:
        """Return a number of variable length, None if it means "unknown", and where it ends."""
        head = self._read(place, 8)
        length = 9 - head[0].bit_length()
        if length > len(head):
            raise IndexError(place)
        value = int.from_bytes(head[:length], "big")
        bare = value & (1 << 7 * length) - 1
        unknown = bare == (1 << 7 * length) - 1 and not keep_marker
        return (None if unknown else value if keep_marker else bare), place + length

    def _values(self, parent: _Box) -> dict[int | bytes, int]:
        """Return the short elements below `parent` as unsigned numbers."""
        return {
            element.kind: int.from_bytes(self._bytes(element, 0, 8), "big")
            for element in self._elements(parent)
            if element.end - element.begin <= 8
        }

    def _numbers(self, box: _Box, form: str, offset: int) -> tuple[int, ...]:
        return struct.unpack(form, self._bytes(box, offset, struct.calcsize(form)))

    def _bytes(self, box: _Box, offset: int, length: int) -> bytes:
        begin = box.begin + offset
        return self._read(begin, max(0, min(length, box.end - begin)))

    def _read(self, place: int, length: int) -> bytes:
        self._file.seek(place)
        return self._file.read(length)


def _of_matroska(values: dict[int | bytes, int]) -> Aperture:
    """Return the aperture of the values of a `Video` element."""
    left, top, right, bottom = (
        values.get(kind, 0) for kind in (CROP_LEFT, CROP_TOP, CROP_RIGHT, CROP_BOTTOM)
    )
    if not any((left, top, right, bottom)):
        return WHOLE
    width, height = values[PIXEL_WIDTH] - left - right, values[PIXEL_HEIGHT] - top - bottom
    aspect = None
    if {DISPLAY_WIDTH, DISPLAY_HEIGHT} <= values.keys():
        aspect = Fraction(values[DISPLAY_WIDTH] * height, values[DISPLAY_HEIGHT] * width)
    return Aperture(left, top, right, bottom, aspect)
