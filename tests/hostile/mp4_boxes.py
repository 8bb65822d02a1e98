"""Parts of containers: parse them, build them, and build them with wrong fields."""

import struct
from collections.abc import Callable, Iterator

Change = Callable[[bytes], bytes]


def box(kind: bytes, *content: bytes, size: int | None = None) -> bytes:
    """Make an MP4 box; `size` replaces the right size in its header."""
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body) if size is None else size) + kind + body


def boxes(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, begin and end of each box of a level."""
    place = 0
    while place + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        yield kind, place, place + size
        place += size


def edit(content: bytes, path: str, change: Change) -> bytes:
    """Change the body of the boxes at a path such as `moov/trak/tkhd`."""
    kind, _, rest = path.partition("/")
    edited = []
    for name, begin, end in boxes(content):
        body = content[begin + 8 : end]
        if name == kind.encode():
            body = edit(body, rest, change) if rest else change(body)
        edited.append(box(name, body))
    return b"".join(edited)


def replaced(content: bytes, path: str, with_what: bytes) -> bytes:
    """Replace a box by other boxes, or remove it."""
    parent, _, kind = path.rpartition("/")

    def change(body: bytes) -> bytes:
        return b"".join(
            with_what if name == kind.encode() else body[begin:end]
            for name, begin, end in boxes(body)
        )

    return edit(content, parent, change) if parent else change(content)


def patched(content: bytes, path: str, place: int, value: bytes) -> bytes:
    """Overwrite bytes at a place in the body of the boxes at a path."""

    def change(body: bytes) -> bytes:
        return body[:place] + value + body[place + len(value) :]

    return edit(content, path, change)


def body_of(content: bytes, path: str) -> bytes:
    """Return the body of the first box at a path."""
    kind, _, rest = path.partition("/")
    body = next(content[b + 8 : e] for name, b, e in boxes(content) if name == kind.encode())
    return body_of(body, rest) if rest else body


def box_ends(content: bytes) -> dict[str, int]:
    """Return where the header of each box ends, at every depth, by its path."""
    ends = {}
    for kind, begin, end in boxes(content):
        name = kind.decode("latin-1")
        ends[name] = begin + 8
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl", b"edts"):
            inner = box_ends(content[begin + 8 : end])
            ends |= {f"{name}-{path}": begin + 8 + place for path, place in inner.items()}
    return ends


def element(identifier: str, content: bytes, size: int | None = None) -> bytes:
    """Make a Matroska element with a size field of eight bytes; `size` replaces the right one."""
    claimed = len(content) if size is None else size
    return bytes.fromhex(identifier) + (claimed | 1 << 56).to_bytes(8, "big") + content


def elements(content: bytes, place: int = 0) -> Iterator[tuple[str, int, int, int]]:
    """Yield the id, the begin, the begin of the content and the end of each Matroska element.

    All are of one level, except that the elements of a segment follow it.
    """
    while place < len(content):
        begin, length = place, 9 - content[place].bit_length()
        identifier = content[place : place + length].hex()
        place += length
        length = 9 - content[place].bit_length()
        size = int.from_bytes(content[place : place + length], "big") & (1 << 7 * length) - 1
        place += length
        yield identifier, begin, place, place + size
        place += 0 if identifier == "18538067" else size


def chunk(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    """Make a RIFF chunk; `size` replaces the right size in its header."""
    return kind + struct.pack("<I", len(content) if size is None else size) + content


def ts_packet(pid: int, payload: bytes, *, start: bool = True) -> bytes:
    """Make an MPEG-TS packet, padded to 188 bytes."""
    head = struct.pack(">BHB", 0x47, (0x4000 if start else 0) | pid, 0x10)
    return (head + payload).ljust(188, b"\xff")[:188]
