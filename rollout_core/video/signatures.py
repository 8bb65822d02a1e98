"""Recognises the containers that are supported by the first bytes of a file.

Needs no FFmpeg: the service checks an upload with it before it accepts the rest.
"""

HEAD_BYTES = 2048
"""Bytes at the start of a file that `is_video_container` needs."""

_MP4_BOXES = frozenset(
    b"ftyp moov mdat moof styp sidx emsg wide free skip pnot junk uuid udta prfl pict".split()
)

_EBML = b"\x1a\x45\xdf\xa3"

_AVI_FORMS = (b"AVI ", b"AVIX", b"AVI\x19")

_SYNC_BYTE = 0x47

PACKET_BYTES = (188, 192, 204)
"""Length of an MPEG-TS packet: alone, after a time stamp, and before error correction."""

TIME_STAMP_BYTES = 4
"""Bytes before the sync byte of a packet of 192 bytes."""

SURE_PACKETS = 5
"""This many packets in a row show a transport stream, wherever the first one begins."""


def is_video_container(head: bytes) -> bool:
    """Return whether a file that begins with `head` may be in a supported container.

    Supported: MP4, MOV, Matroska, WebM, AVI, MPEG-TS. A transport stream may begin in the middle
    of a packet, as a recording does.
    """
    return (
        head[4:8] in _MP4_BOXES
        or head.startswith(_EBML)
        or (head.startswith(b"RIFF") and head[8:12] in _AVI_FORMS)
        or _begins_with_packets(head)
        or packet_layout(head) is not None
    )


def packet_layout(head: bytes) -> tuple[int, int] | None:
    """Return the length of a transport stream's packets and the offset of the first sync byte.

    Return None if `head` does not have `SURE_PACKETS` packets in a row.
    """
    for offset in range(len(head)):
        for length in PACKET_BYTES:
            if offset + (SURE_PACKETS - 1) * length + 4 > len(head):
                continue
            if all(_is_packet(head, offset + n * length) for n in range(SURE_PACKETS)):
                return length, offset
    return None


def _begins_with_packets(head: bytes) -> bool:
    """Return whether a file is whole packets from its first byte on; it may be a short one."""
    for length in PACKET_BYTES:
        offset = TIME_STAMP_BYTES if length == 192 else 0
        starts = range(offset, min(len(head) - 3, offset + 2 * length + 1), length)
        if len(head) >= length and all(_is_packet(head, start) for start in starts):
            return True
    return False


def _is_packet(head: bytes, start: int) -> bool:
    """Return whether a packet may begin here. It has an adaptation field, a payload, or both."""
    return head[start] == _SYNC_BYTE and bool(head[start + 3] & 0x30)
