"""Follows the structure of a file to its end, to see whether a part of it is missing.

FFmpeg stops at the end of what it can read without a word. Here the elements that a container is
made of are followed by their stated lengths; nothing is decoded.
"""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rollout_core.video.decoder import Heartbeat
from rollout_core.video.signatures import HEAD_BYTES, packet_layout

MAX_ELEMENTS = 2_000_000
"""A file with more elements counts as not whole. Ten minutes have about 100,000."""

ELEMENTS_PER_HEARTBEAT = 1000
PACKETS_PER_READ = 50_000

_EBML_HEADER = 0x1A45DFA3
_SEGMENT = 0x18538067
_CLUSTER = 0x1F43B675
_TRACKS, _TRACK = 0x1654AE6B, 0xAE
_ENCODINGS, _ENCODING, _ENCODING_TYPE, _ENCRYPTION = 0x6D80, 0x6240, 0x5033, 0x5035
_PARENTS = {_SEGMENT, _CLUSTER}
_KNOWN = {
    *(_EBML_HEADER, _SEGMENT, _CLUSTER, _TRACKS, 0xEC, 0xBF),  # void and checksum
    *(0x114D9B74, 0x1549A966, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367),  # of a segment
    *(0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0x5854, 0xAF),  # of a cluster
}
"""Matroska's elements that may follow each other at the levels that are walked."""

_RIFF_PARENTS = (b"RIFF", b"LIST")

Walk = Iterator[tuple[int, int | None]]
"""Start and end of each element, in the order of the file; None where no element begins."""


def broken_share(path: Path, container: str, heartbeat: Heartbeat) -> float:
    """Return which share of a file comes after the first element that is damaged or cut off.

    It is 0 if every element ends where the file says that it does. Of a transport stream this
    cannot be said: it counts as whole.

    Args:
        container: FFmpeg's name.
    """
    walks = {"matroska": _walk_matroska, "avi": _walk_avi, "mov": _walk_mp4}
    walk = walks.get(container.split(",")[0])
    if walk is None:
        return 0.0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        sound, is_cut = 0, False
        for count, (start, end) in enumerate(walk(file, size)):
            sound = start
            if count % ELEMENTS_PER_HEARTBEAT == 0:
                heartbeat()
            if end is None or count >= MAX_ELEMENTS:
                is_cut = True
                break
            is_cut |= end > size
    return (size - sound) / size if is_cut else 0.0


def cut_before_index(path: Path) -> int | None:
    """Return how long an MP4 file must be at least, if it ends in its frames, before its index."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for start, end in islice(_walk_mp4(file, size), MAX_ELEMENTS):
            file.seek(start + 4)
            name = file.read(4)
            if name == b"moov" or end is None:
                return None
            if name == b"mdat" and end > size:
                return end
    return None


def scrambled_share(path: Path, pid: int, heartbeat: Heartbeat) -> float:
    """Return which share of a transport stream's packets of one elementary stream is scrambled."""
    with path.open("rb") as file:
        layout = packet_layout(file.read(HEAD_BYTES))
        if layout is None:
            return 0.0
        length, offset = layout
        file.seek(offset)
        scrambled = found = 0
        while block := file.read(length * PACKETS_PER_READ):
            heartbeat()
            whole = len(block) - len(block) % length
            head = np.frombuffer(block[:whole], np.uint8).reshape(-1, length)[:, :4].astype(int)
            own = (head[:, 0] == 0x47) & (((head[:, 1] & 0x1F) << 8 | head[:, 2]) == pid)
            found += int(own.sum())
            scrambled += int((own & (head[:, 3] >= 0x80)).sum())
    return scrambled / found if found else 0.0


def has_encrypted_track(path: Path) -> bool:
    """Return whether a Matroska file has a track whose frames are encrypted."""
    inside = {_SEGMENT, _TRACKS, _TRACK, _ENCODINGS, _ENCODING}
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for count, (name, _, start, length) in enumerate(_elements(file, size, inside)):
            if name == _CLUSTER or count > ELEMENTS_PER_HEARTBEAT:
                return False
            file.seek(start)
            if name == _ENCRYPTION or (
                name == _ENCODING_TYPE and any(file.read(min(length or 0, 8)))
            ):
                return True
    return False


def _walk_matroska(file: BinaryIO, size: int) -> Walk:
    for name, at, start, length in _elements(file, size, _PARENTS):
        if name not in _KNOWN or (length is None and name not in _PARENTS):
            yield at, None
        else:
            yield at, start + (length or 0)


def _elements(
    file: BinaryIO, size: int, inside: set[int]
) -> Iterator[tuple[int, int, int, int | None]]:
    """Yield name, start, start of the content and its length; enter the elements in `inside`.

    The length is None if it is not known. The name is 0 where no element begins.
    """
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(12)
        name_bytes = _ebml_bytes(head[:1], most=4)
        length_bytes = _ebml_bytes(head[name_bytes : name_bytes + 1], most=8)
        if not name_bytes or not length_bytes or name_bytes + length_bytes > len(head):
            yield 0, at, at, 0
            return
        name = int.from_bytes(head[:name_bytes])
        mask = (1 << 7 * length_bytes) - 1
        stated = int.from_bytes(head[name_bytes : name_bytes + length_bytes]) & mask
        length = None if stated == mask else stated
        start = at + name_bytes + length_bytes
        yield name, at, start, length
        at = start if name in inside or length is None else start + length


def _ebml_bytes(first: bytes, *, most: int) -> int:
    """Return the length of a number from its first byte, 0 if it is not valid."""
    count = 9 - first[0].bit_length() if first else 0
    return count if count <= most else 0


def _walk_avi(file: BinaryIO, size: int) -> Walk:
    at, ends_at = 0, 0
    while at + 8 <= size:
        file.seek(at)
        name, length = file.read(4), int.from_bytes(file.read(4), "little")
        if name == b"RIFF":
            ends_at = at + 8 + length
        elif at >= ends_at:
            return  # anything may follow the last list
        is_name = all(0x20 <= letter < 0x7F for letter in name)
        yield at, at + 8 + length if is_name else None
        at += 12 if name in _RIFF_PARENTS else 8 + length + length % 2


def _walk_mp4(file: BinaryIO, size: int) -> Walk:
    at = 0
    while at + 8 <= size:
        file.seek(at)
        length, name = int.from_bytes(file.read(4)), file.read(4)
        if length == 1:
            length = int.from_bytes(file.read(8))
        elif length == 0:
            length = size - at
        is_box = length >= 8 and all(0x20 <= letter < 0x7F or letter == 0xA9 for letter in name)
        yield at, at + length if is_box else None
        at += length if is_box else size
