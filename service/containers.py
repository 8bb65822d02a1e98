"""Tells from a file's first bytes whether it may be a video container that workers open.

It is a courtesy to whoever sends the wrong file, not a safeguard: the worker opens no other
container than these, and confines the process that does.
"""

HEAD_BYTES = 512
"""How much of a file `is_video_container` wants to see."""

_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_EBML = b"\x1a\x45\xdf\xa3"
_SYNC_BYTE = 0x47
_PACKETS = ((188, 0), (192, 4))
"""Length of an MPEG-TS packet, and where its sync byte stands: plain, or with a time stamp."""


def is_video_container(head: bytes) -> bool:
    """Whether a file beginning with `head` may be MP4, MOV, Matroska, WebM, AVI or MPEG-TS."""
    return (
        head[4:8] in _MP4_BOXES
        or head.startswith(_EBML)
        or (head.startswith(b"RIFF") and head[8:12] == b"AVI ")
        or any(_has_sync_bytes(head, length, offset) for length, offset in _PACKETS)
    )


def _has_sync_bytes(head: bytes, length: int, offset: int) -> bool:
    """Whether the first three packets, or all that a shorter file has, begin with a sync byte."""
    starts = head[offset : offset + 2 * length + 1 : length]
    return len(head) >= length and set(starts) == {_SYNC_BYTE}
