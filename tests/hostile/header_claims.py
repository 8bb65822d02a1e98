"""Films with false claims in their headers, and small films that decode to a lot of data."""

import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from tests.hostile.codes import BROKEN, CONTAINER, LARGE, LONG, NO_STREAM, OK, WORK, Entry
from tests.hostile.maker import Maker
from tests.hostile.mp4_boxes import (
    body_of,
    box,
    edit,
    element,
    elements,
    patched,
    replaced,
    ts_packet,
)
from tests.rollout_core import films

MEDIA = "moov/trak/mdia/mdhd"
TABLES = "moov/trak/mdia/minf/stbl"
REFERENCES = "moov/trak/mdia/minf/dinf/dref"

TEN_YEARS_SECONDS = 315_360_000
LARGEST = 0xFFFF_FFFF

MATROSKA = element("1a45dfa3", element("4282", b"matroska"))
SEGMENT, TRACKS, CLUSTER = "18538067", "1654ae6b", "1f43b675"


def references(maker: Maker, secret: Path) -> Iterator[Entry]:
    """Yield films whose headers say that the frames are in another file."""
    urls = {
        "absolute": f"file://{secret}",
        "relative": "../../secret/upload/video",
        "remote": "http://127.0.0.1:9/film.mp4",
    }
    for name, url in urls.items():
        yield f"reference-url-{name}", refer(maker.mp4, b"url ", url.encode() + b"\0"), OK
    yield "reference-alias", refer(maker.mp4, b"alis", alias(secret, levels=0)), BROKEN
    yield "reference-alias-relative", refer(maker.mp4, b"alis", alias(secret, levels=2)), BROKEN
    many = struct.pack(">II", 0, LARGEST)
    yield "reference-many", edit(maker.mp4, REFERENCES, lambda body: many + body[8:]), CONTAINER
    yield "reference-to-none", patched(maker.mp4, f"{TABLES}/stsd", 22, b"\xff\xff"), OK
    target = box(b"rdrf", bytes(4), b"url ", struct.pack(">I", 99), str(secret).encode())
    movie = box(b"moov", box(b"rmra", box(b"rmda", target)))
    yield "reference-movie", maker.mp4[:32] + movie, NO_STREAM


def refer(mp4: bytes, kind: bytes, target: bytes) -> bytes:
    """Make an MP4's track refer to another file."""
    entry = struct.pack(">II", 0, 1) + box(kind, bytes(4), target)
    return edit(mp4, REFERENCES, lambda _: entry)


def alias(target: Path, *, levels: int) -> bytes:
    """Make a Macintosh alias as QuickTime stores it: absolute, or relative by `levels`."""
    path = str(target).encode()
    volume, name = b"\x04disk".ljust(28, b"\0"), b"\x05video".ljust(64, b"\0")
    head = bytes(10) + volume + bytes(12) + name + bytes(16) + struct.pack(">hh", levels, levels)
    names = struct.pack(">hH", 2, len(path)) + path + b"\0" * (len(path) % 2)
    return (head + bytes(16) + names + struct.pack(">hH", -1, 0)).ljust(200, b"\0")


def sizes(maker: Maker) -> Iterator[Entry]:
    """Yield films with frames that are too large or have an unusual shape."""
    claim = struct.pack(">HH", 30_000, 30_000)
    yield "size-claim-mp4", patched(maker.mp4, f"{TABLES}/stsd", 40, claim), OK
    parameters = _parameters(30_000 // 16, 30_000 // 16)
    claim = edit(maker.mp4, f"{TABLES}/stsd", lambda body: _with_parameters(body, parameters))
    yield "size-claim-h264", claim, BROKEN
    place = maker.avi.index(b"strf") + 12
    for name, side, code in (("claim-avi", 30_000, OK), ("negative-avi", -(2**31), CONTAINER)):
        yield f"size-{name}", _at(maker.avi, place, struct.pack("<ii", side, side)), code
    vp9 = maker.film("claim.mkv", codec="libvpx-vp9", width=300, height=300)
    claim = vp9.replace(bytes.fromhex("b082012cba82012c"), bytes.fromhex("b0827530ba827530"))
    yield "size-claim-mkv", claim, OK
    vp8 = maker.film("film.webm", codec="libvpx")
    place = vp8.index(b"\x9d\x01\x2a") + 3
    yield "size-claim-vp8", _at(vp8, place, struct.pack("<HH", 16_383, 16_383)), BROKEN
    shapes = {
        "long-side": (8194, 16, LARGE),
        "too-many-pixels": (4200, 2400, LARGE),
        "one-pixel": (1, 1, OK),
        "line": (4096, 1, OK),
        "column": (1, 4096, OK),
    }
    for name, (width, height, code) in shapes.items():
        recipe = {"codec": "libvpx-vp9", "width": width, "height": height, "frames": 1}
        yield f"size-{name}", maker.film(f"{name}.webm", **recipe), code
    yield "size-aspect", maker.film("aspect.mp4", pixel_aspect=Fraction(1, 65535)), OK
    matrices = {"zeros": bytes(36), "ones": b"\xff" * 36, "shear": struct.pack(">9i", *[9] * 9)}
    for name, matrix in matrices.items():
        yield f"size-matrix-of-{name}", patched(maker.mp4, "moov/trak/tkhd", 40, matrix), OK


def _parameters(width: int, height: int) -> bytes:
    """Make an H.264 sequence parameter set; sizes in macroblocks. ITU-T H.264, 7.3.2.1."""
    codes = (0, 0, 2, 1)  # id, bits of the frame number, order of display, reference frames
    bits = "".join(map(_exp_golomb, codes)) + "0"
    bits += _exp_golomb(width - 1) + _exp_golomb(height - 1) + "11001"
    bits += "0" * (-len(bits) % 8)
    return b"\x67\x42\x00\x33" + int(bits, 2).to_bytes(len(bits) // 8, "big")


def _exp_golomb(value: int) -> str:
    digits = f"{value + 1:b}"
    return "0" * (len(digits) - 1) + digits


def _with_parameters(body: bytes, parameters: bytes) -> bytes:
    """Put a parameter set into the `avcC` of a sample description."""
    old = body[body.index(b"avcC") + 4 :]
    place = 8 + int.from_bytes(old[6:8], "big")
    record = old[:6] + struct.pack(">H", len(parameters)) + parameters + old[place:]
    inner = body[16 : body.index(b"avcC") - 4] + box(b"avcC", record)
    return body[:8] + box(body[12:16], inner)


def lengths(maker: Maker) -> Iterator[Entry]:
    """Yield films with wrong time scales and durations, or with too many frames."""
    plain = replaced(maker.mp4, "moov/trak/edts", b"")
    years = {"ticks": [0, TEN_YEARS_SECONDS], "time_base": Fraction(1, 1), "rate": 1}
    yield "length-ten-years-mkv", maker.film("years.mkv", **years), LONG
    one = patched(plain, MEDIA, 12, struct.pack(">I", 1))
    yield "length-ten-years-mp4", _with_delta(one, TEN_YEARS_SECONDS // 10), LONG
    claim = struct.pack(">II", 1, TEN_YEARS_SECONDS)
    yield "length-claim-of-movie", patched(plain, "moov/mvhd", 12, claim), OK
    yield "length-claim-of-track", patched(plain, MEDIA, 12, claim), LONG
    scales = {"zero": (0, LONG), "one": (1, LONG), "largest": (LARGEST, LONG)}
    for name, (scale, code) in scales.items():
        yield f"length-scale-{name}", patched(plain, MEDIA, 12, struct.pack(">I", scale)), code
        scaled = patched(maker.mp4, "moov/mvhd", 12, struct.pack(">I", scale))
        yield f"length-movie-scale-{name}", scaled, OK
    for name, delta, code in (("zero", 0, OK), ("largest", LARGEST, OK), ("long", 2**30, LONG)):
        yield f"length-delta-{name}", _with_delta(plain, delta), code
    yield from _edit_lists(maker.mp4)
    place = maker.avi.index(b"strh") + 28
    rates = {"zero": (0, 0, OK), "fast": (1, LARGEST, OK), "slow": (LARGEST, 1, LONG)}
    for name, (scale, rate, code) in rates.items():
        yield f"length-avi-{name}", _at(maker.avi, place, struct.pack("<II", scale, rate)), code
    place = maker.mkv.index(bytes.fromhex("2ad7b183")) + 4
    for name, scale in {"zero": bytes(3), "largest": b"\xff" * 3}.items():
        yield f"length-mkv-scale-{name}", _at(maker.mkv, place, scale), OK
    yield "length-many-frames", maker.repeated("many.mkv", 40_001, picture=films.corner), LONG


def _with_delta(mp4: bytes, delta: int) -> bytes:
    """Set the duration of each of the ten frames, in ticks."""
    return edit(mp4, f"{TABLES}/stts", lambda _: struct.pack(">IIII", 0, 1, 10, delta))


def _edit_lists(mp4: bytes) -> Iterator[Entry]:
    lists = {
        "long": ([(LARGEST, 0)], OK),
        "many": ([(9, 0)] * 500, OK),
        "beyond-end": ([(100, 2**31 - 1)], BROKEN),
    }
    for name, (edits, code) in lists.items():
        body = struct.pack(">II", 0, len(edits))
        body += b"".join(struct.pack(">IiI", *entry, 1 << 16) for entry in edits)
        yield f"length-edits-{name}", edit(mp4, "moov/trak/edts/elst", lambda _, b=body: b), code


def streams(maker: Maker) -> Iterator[Entry]:
    """Yield files with too many streams, with none, and with unsupported codecs."""
    for suffix in ("mp4", "mkv", "ts", "avi"):
        yield f"stream-sound-only-{suffix}", maker.muxed(f"sound.{suffix}", "aac"), NO_STREAM
    codecs = {
        "mjpeg": ("yuvj420p", "mp4"),
        "png": ("rgb24", "mov"),
        "rawvideo": ("yuv420p", "avi"),
        "ffv1": ("yuv420p", "mkv"),
        "huffyuv": ("yuv422p", "avi"),
        "mpeg2video": ("yuv420p", "mkv"),
        "prores": ("yuv422p10le", "mov"),
        "qtrle": ("rgb24", "mov"),
    }
    for codec, (pix_fmt, suffix) in codecs.items():
        yield f"stream-{codec}", maker.muxed(f"{codec}.{suffix}", codec, pix_fmt=pix_fmt), BROKEN
    track = box(b"trak", body_of(maker.mp4, "moov/trak"))
    for count, code in ((150, OK), (1000, CONTAINER)):
        many = edit(maker.mp4, "moov", lambda body, count=count: body + track * count)
        yield f"stream-{count}-mp4", many, code
    yield "stream-1000-mkv", _many_tracks(maker.mkv), OK
    yield "stream-none-mp4", replaced(maker.mp4, "moov/trak", b""), NO_STREAM
    yield "stream-none-mkv", MATROSKA + element(SEGMENT, b""), CONTAINER
    tables = maker.ts[: 3 * 188]
    yield "stream-empty-ts", tables * 50, BROKEN
    yield "stream-none-ts", (tables[:188] + ts_packet(0x1FFF, b"")) * 50, CONTAINER


def _many_tracks(mkv: bytes) -> bytes:
    """Repeat the track of a Matroska file a thousand times."""
    places = {identifier: place for identifier, *place in elements(mkv)}
    _, begin, end = places[TRACKS]
    cluster, *_ = places[CLUSTER]
    tracks = element(TRACKS, mkv[begin:end] * 1000)
    return MATROSKA + element(SEGMENT, tracks + mkv[cluster:])


def bombs(maker: Maker) -> Iterator[Entry]:
    """Yield small files that decode to a lot of data or take long."""
    large = {"width": 4096, "height": 2304, "picture": films.corner}
    yield "bomb-large-frames", maker.repeated("bomb.mkv", 30_000, **large), WORK
    zeros = bytes(100_000_000)
    for size, code in ((len(zeros), NO_STREAM), (2**31 - 1, NO_STREAM), (LARGEST, CONTAINER)):
        header = struct.pack(">I", size) + zlib.compress(zeros)
        packed = box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", header))
        yield f"bomb-header-{size}", maker.mp4[:32] + box(b"moov", packed), code
    packing = element("6d80", element("6240", element("5034", element("4254", b"\0"))))
    block = element("a3", b"\x81\0\0\x80" + zlib.compress(zeros, 9))
    yield "bomb-packed-frame", _matroska(packing, block), BROKEN
    lace = element("a3", b"\x81\0\0\x02\xff" + b"\xff" * 60_000)
    yield "bomb-laces", _matroska(b"", lace * 20), BROKEN
    moov = maker.mp4.index(b"moov") - 4
    yield "bomb-boxes", maker.mp4[:moov] + box(b"free") * 100_000 + maker.mp4[moov:], OK
    voids = element("ec", b"") * 200_000
    yield "bomb-elements", MATROSKA + element(SEGMENT, voids), CONTAINER
    tags = element("7373", element("67c8", element("45a3", b"N" * 4096))) * 2000
    yield "bomb-tags", maker.mkv + element("1254c367", tags), OK


def _matroska(settings: bytes, blocks: bytes) -> bytes:
    """Make a Matroska file with one MPEG-4 track and one cluster."""
    video = element("e0", element("b0", b"\x40") + element("ba", b"\x30"))
    track = element("d7", b"\1") + element("83", b"\1") + element("86", b"V_MPEG4/ISO/ASP")
    tracks = element(TRACKS, element("ae", track + video + settings))
    return MATROSKA + element(SEGMENT, tracks + element(CLUSTER, element("e7", b"\0") + blocks))


def changes(maker: Maker) -> Iterator[Entry]:
    """Yield films whose format changes midway, and one with hostile metadata."""
    small = maker.ts
    yield "change-of-size", small + maker.film("l.ts", width=640, height=480) + small, OK
    huge = maker.film("huge.ts", width=4200, height=2400, frames=1)
    yield "change-to-too-large", small + huge, LARGE
    yield "change-of-codec", small + maker.film("hevc.ts", codec="libx265"), BROKEN
    yield "change-of-depth", small + maker.film("deep.ts", pix_fmt="yuv420p10le"), OK
    yield "change-of-container", small + maker.mp4 + maker.avi, OK
    yield "change-two-movies", maker.mp4 + maker.mp4, OK
    names = {"title": "../" * 20 + "etc/passwd", "artist": "\u202e雪" * 99, "comment": "N" * 4096}
    named = maker.film("named.mp4", metadata=names | {"album": "ZZZZZZ"})
    yield "change-names", named.replace(b"ZZZZZZ", b"a\0b\xff\xfe\0"), OK


def _at(content: bytes, place: int, value: bytes) -> bytes:
    return content[:place] + value + content[place + len(value) :]
