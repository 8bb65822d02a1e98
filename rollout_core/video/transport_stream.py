"""Finds where packets of an MPEG transport stream are missing: by their counters, all of them.

Each packet of an elementary stream carries a counter of 4 bits. FFmpeg marks only the video packets
whose own counter breaks, so a loss of a multiple of 16 packets goes unnoticed. The same loss breaks
the counters of sound and tables too, and where it is not a multiple of a packet, the packets' grid.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rollout_core.video.decoder import Heartbeat
from rollout_core.video.signatures import HEAD_BYTES, packet_layout

PACKETS_PER_READ = 50_000

MAX_BREAKS = 10_000
"""Reading stops after this many breaks: a stream with more is damaged everywhere."""

NULL_STREAM = 0x1FFF
STREAMS = 1 << 13
NO_COUNTER = -1
SYNC_BYTE = 0x47
HEADER_BYTES = 6

Packets = NDArray[np.uint8]
"""Rows of whole packets, each from its sync byte on."""


class _Headers(NamedTuple):
    """What the headers of the packets with a payload say, in the order of the file."""

    rows: NDArray[np.int64]
    streams: NDArray[np.int64]
    counters: NDArray[np.int64]
    is_announced: NDArray[np.bool_]


def continuity_breaks(path: Path, heartbeat: Heartbeat) -> list[int]:
    """Return the places in the file, in bytes, where packets are missing before."""
    breaks: list[int] = []
    latest = np.full(STREAMS, NO_COUNTER, np.int64)
    with path.open("rb") as file:
        at = 0
        while len(breaks) < MAX_BREAKS:
            file.seek(at)
            layout = packet_layout(file.read(HEAD_BYTES))
            if layout is None:
                return breaks
            length, offset = layout
            if at:
                breaks.append(at)
            at += offset
            file.seek(at)
            while (block := file.read(length * PACKETS_PER_READ)) and len(block) >= length:
                heartbeat()
                packets = _packets_of(block, length)
                breaks += [at + length * row for row in _breaks(packets, latest)]
                at += length * len(packets)
                if len(packets) < len(block) // length:
                    break  # the grid is lost here
            else:
                return breaks
    return breaks[:MAX_BREAKS]


def _packets_of(block: bytes, length: int) -> Packets:
    """Return the packets at the start of a block, up to one that does not begin as a packet."""
    whole = len(block) - len(block) % length
    packets = np.frombuffer(block[:whole], np.uint8).reshape(-1, length)[:, :HEADER_BYTES]
    lost = np.flatnonzero(packets[:, 0] != SYNC_BYTE)
    return packets[: lost[0]] if len(lost) else packets


def _breaks(packets: Packets, latest: NDArray[np.int64]) -> list[int]:
    """Return the rows whose counter does not follow the one before in the same stream.

    Args:
        latest: the last counter of each stream; updated.
    """
    headers = _headers(packets)
    order = np.argsort(headers.streams, kind="stable")
    streams, counters = headers.streams[order], headers.counters[order]
    is_first = np.diff(streams, prepend=-1) != 0
    before = np.where(is_first, latest[streams], np.roll(counters, 1))
    steps = (counters - before) % 16
    is_break = (before != NO_COUNTER) & (steps > 1) & ~headers.is_announced[order]
    latest[streams] = counters  # of several values for one index, the last one stays
    return sorted(headers.rows[order][is_break].tolist())


def _headers(packets: Packets) -> _Headers:
    wide = packets.astype(np.int64)
    streams = (wide[:, 1] & 0x1F) << 8 | wide[:, 2]
    rows = np.flatnonzero((wide[:, 3] & 0x10 != 0) & (streams != NULL_STREAM))
    kept = wide[rows]
    has_field = (kept[:, 3] & 0x20 != 0) & (kept[:, 4] > 0)
    return _Headers(rows, streams[rows], kept[:, 3] & 0x0F, has_field & (kept[:, 5] & 0x80 != 0))
