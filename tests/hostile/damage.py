"""Films with a broken structure: wrong fields, a missing end, flipped bits."""

import struct
from collections.abc import Iterator
from random import Random

from tests.hostile.codes import BROKEN, CONTAINER, ENCRYPTED, INCOMPLETE, NO_STREAM, OK, Entry
from tests.hostile.header_claims import CLUSTER, LARGEST, MATROSKA, SEGMENT, TABLES, TRACKS
from tests.hostile.maker import Maker
from tests.hostile.mp4_boxes import (
    body_of,
    box,
    box_ends,
    chunk,
    edit,
    element,
    elements,
    patched,
    replaced,
)

CUES = "1c53bb6b"


def wrong_boxes(maker: Maker) -> Iterator[Entry]:
    """Yield MP4s whose boxes claim a wrong size or are nested thousands of levels deep."""
    begin = maker.mp4[: maker.mp4.index(b"moov") - 4]
    moov = body_of(maker.mp4, "moov")
    for size, code in ((0, OK), (1, NO_STREAM), (LARGEST, OK)):
        yield f"mp4-size-{size}", begin + box(b"moov", moov, size=size), code
    huge = struct.pack(">I4sQ", 1, b"mdat", 2**63 - 1)
    yield "mp4-size-64-bits", maker.mp4[:32] + huge + maker.mp4[32:], INCOMPLETE
    nested = b""
    for _ in range(3000):
        nested = box(b"moov", nested)
    yield "mp4-nested", maker.mp4[:32] + nested, CONTAINER
    entry = struct.pack(">II", 0, 1) + box(b"avc1", bytes(9), size=LARGEST)
    yield "mp4-description-cut", edit(maker.mp4, f"{TABLES}/stsd", lambda _: entry), CONTAINER
    yield "mp4-no-parameters", maker.mp4.replace(b"avcC", b"free"), CONTAINER
    recipe = {"container_options": {"movflags": "frag_keyframe+empty_moov"}}
    fragments = maker.film("fragments.mp4", **recipe)
    place = fragments.index(b"trun") + 8
    many = fragments[:place] + struct.pack(">I", LARGEST) + fragments[place + 4 :]
    yield "mp4-fragments-of-many", many, CONTAINER


def wrong_tables(maker: Maker) -> Iterator[Entry]:
    """Yield MP4s whose tables have too many entries or point beyond the end of the file."""
    tables = {
        "stts": (CONTAINER, BROKEN),
        "stsc": (CONTAINER, BROKEN),
        "stsz": (CONTAINER, BROKEN),
        "stco": (OK, BROKEN),
        "stss": (CONTAINER, OK),
    }
    for table, (many, missing) in tables.items():
        place = 8 if table == "stsz" else 4
        lying = patched(maker.mp4, f"{TABLES}/{table}", place, struct.pack(">I", LARGEST))
        yield f"mp4-{table}-of-many", lying, many
        yield f"mp4-{table}-missing", replaced(maker.mp4, f"{TABLES}/{table}", b""), missing
    sizes = struct.pack(">II", 2**31 - 1, 10)
    yield "mp4-huge-samples", patched(maker.mp4, f"{TABLES}/stsz", 4, sizes), BROKEN
    yield "mp4-no-samples", edit(maker.mp4, f"{TABLES}/stsz", lambda _: bytes(12)), BROKEN
    for name, offset in {"in-header": 0, "beyond-end": 2**31}.items():
        moved = patched(maker.mp4, f"{TABLES}/stco", 8, struct.pack(">I", offset))
        yield f"mp4-samples-{name}", moved, BROKEN


def wrong_elements(maker: Maker) -> Iterator[Entry]:
    """Yield Matroska files with endless elements, and with an index that points to itself."""
    yield "mkv-head-only", MATROSKA, CONTAINER
    yield "mkv-id-too-long", MATROSKA + bytes(64), CONTAINER
    yield "mkv-size-largest", MATROSKA + element(SEGMENT, b"", size=(1 << 56) - 2), CONTAINER
    seek = element("4dbb", element("53ab", bytes.fromhex("114d9b74")) + element("53ac", b"\0"))
    circle = element(SEGMENT, element("114d9b74", seek * 500))
    yield "mkv-seek-in-circles", MATROSKA + circle, CONTAINER
    yield "mkv-other-type", maker.mkv.replace(b"matroska", b"hamburgr"), OK
    nested = b""
    for _ in range(2000):
        nested = element("ae", nested)
    yield "mkv-nested", MATROSKA + element(SEGMENT, element(TRACKS, nested)), CONTAINER
    file = element("466e", b"../../../etc/passwd\0") + element("465c", bytes(1000), size=1 << 40)
    yield "mkv-attachment", maker.mkv + element("1941a469", element("61a7", file)), OK


def wrong_chunks(maker: Maker) -> Iterator[Entry]:
    """Yield AVIs whose chunks claim a wrong size or number."""
    avi, largest = maker.avi, struct.pack("<I", LARGEST)
    yield "avi-head-only", chunk(b"RIFF", b"AVI ", size=LARGEST), CONTAINER
    place = avi.index(b"avih") + 32
    yield "avi-many-streams", avi[:place] + largest + avi[place + 4 :], OK
    place = avi.index(b"idx1") + 4
    yield "avi-index-lies", avi[:place] + largest + b"00dc" + b"\xff" * 12_000, OK
    place = avi.index(b"strf") + 4
    yield "avi-format-of-many", avi[:place] + struct.pack("<I", 2**31) + avi[place + 4 :], OK
    nested = b""
    for _ in range(2000):
        nested = chunk(b"LIST", b"hdrl" + nested)
    yield "avi-nested", chunk(b"RIFF", b"AVI " + nested), CONTAINER


def misplaced_packets(maker: Maker) -> Iterator[Entry]:
    """Yield MPEG-TS with packets that are scrambled, out of order or repeated."""
    packets = [maker.ts[place : place + 188] for place in range(0, len(maker.ts), 188)]
    scrambled = b"".join(packet[:3] + bytes([packet[3] | 0xC0]) + packet[4:] for packet in packets)
    yield "ts-scrambled", scrambled, ENCRYPTED
    yield "ts-backwards", b"".join(reversed(packets)), INCOMPLETE
    yield "ts-shuffled", b"".join(Random(1).sample(packets, len(packets))), OK
    yield "ts-hundredfold", maker.ts * 100, OK


def cut_files(maker: Maker) -> Iterator[Entry]:
    """Yield films cut after the header of each box, element, chunk and packet."""
    early = maker.film("early.mp4", container_options={"movflags": "+faststart"})
    for path, end in box_ends(early).items():
        yield f"cut-mp4-{path}", early[:end], CUT_MP4.get(path.rpartition("-")[2], BROKEN)
    for number, (identifier, _, begin, _) in enumerate(elements(maker.mkv)):
        cut = maker.mkv[:begin]
        yield f"cut-mkv-{number}-{identifier}", cut, CUT_MKV.get(identifier, CONTAINER)
    for kind in (b"hdrl", b"strh", b"strf", b"movi"):
        cut = maker.avi[: maker.avi.index(kind) + 4]
        yield f"cut-avi-{kind.decode()}", cut, BROKEN if kind == b"movi" else CONTAINER
    for packets in (1, 2, 3, 4):
        cut = maker.ts[: 188 * packets]
        yield f"cut-ts-{packets}", cut, CONTAINER if packets < 3 else BROKEN


CUT_MP4 = (
    dict.fromkeys(("ftyp", "dref", "stsd", "stts", "stsc", "stsz"), CONTAINER)
    | dict.fromkeys(("moov", "mvhd", "trak", "tkhd", "edts"), NO_STREAM)
    | dict.fromkeys(("elst", "mdia", "mdhd", "hdlr"), NO_STREAM)
)
"""Kind of the last box → code; the default is `BROKEN`."""


CUT_MKV = {CLUSTER: BROKEN, CUES: OK}
"""Id of the last element → code; the default is `CONTAINER`."""


def flipped_bits(maker: Maker) -> Iterator[Entry]:
    """Yield films in which about one bit in a hundred is flipped."""
    films = {"mp4": NO_STREAM, "mkv": NO_STREAM, "avi": NO_STREAM, "ts": OK}
    for suffix, code in films.items():
        content, random = bytearray(getattr(maker, suffix)), Random(suffix)
        for _ in range(len(content) // 12):
            content[random.randrange(64, len(content))] ^= 1 << random.randrange(8)
        yield f"flipped-{suffix}", bytes(content), code
