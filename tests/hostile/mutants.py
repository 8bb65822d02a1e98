"""Random damage to valid files, anywhere and in the size fields of containers."""

import re
from collections.abc import Callable, Sequence
from random import Random

MAX_CHANGES = 4
INTERESTING = (0, 1, 7, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Values at which integers overflow, and counts that are too large or too small."""

BOX = re.compile(
    rb"....(?:ftyp|moov|mvhd|trak|tkhd|edts|elst|mdia|mdhd|hdlr|minf|dinf|dref|stbl|stsd|avc1|avcC"
    rb"|hvc1|hvcC|av01|av1C|stts|ctts|stss|stsc|stsz|stco|co64|moof|traf|tfhd|trun|mvex|trex|mdat"
    rb"|udta|meta|LIST|RIFF|avih|strh|strf|idx1|movi)",
    re.DOTALL,
)
"""An MP4 box, which begins with its size, or an AVI chunk, whose size follows."""

EBML = re.compile(
    rb"\x1a\x45\xdf\xa3|\x18\x53\x80\x67|\x15\x49\xa9\x66|\x16\x54\xae\x6b|\x1f\x43\xb6\x75"
    rb"|\x1c\x53\xbb\x6b|\x11\x4d\x9b\x74|\xae|\xe0|\xb0|\xba|\xa3|\xa0|\xa1|\x63\xa2"
)
"""Ids of Matroska's elements; each is followed by its size."""

Change = Callable[[Random, bytearray, Sequence[bytes]], None]


def mutate(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Return the file with 1 to `MAX_CHANGES` changes; `splice` inserts parts of `others`."""
    mutant = bytearray(content)
    for _ in range(random.randint(1, MAX_CHANGES)):
        random.choice(CHANGES)(random, mutant, others)
        mutant = mutant or bytearray(1)
    return bytes(mutant)


def flip_bits(random: Random, mutant: bytearray, others: Sequence[bytes]) -> None:
    for _ in range(random.choice((1, 2, 8, 64))):
        mutant[random.randrange(len(mutant))] ^= 1 << random.randrange(8)


def set_bytes(random: Random, mutant: bytearray, others: Sequence[bytes]) -> None:
    for _ in range(random.choice((1, 2, 8, 64))):
        mutant[random.randrange(len(mutant))] = random.choice((0, 1, 0x7F, 0x80, 0xFF))


def set_integer(random: Random, mutant: bytearray, others: Sequence[bytes]) -> None:
    _write(random, mutant, random.randrange(len(mutant)))


def edit_box(random: Random, mutant: bytearray, others: Sequence[bytes]) -> None:
    """Change the size of a box or one of its first fields."""
    places = [match.start() for match in BOX.finditer(mutant)]
    if places:
        _write(random, mutant, random.choice(places) + 4 * random.choice((0, 0, 2, 3, 4, 5, 6)))


def edit_element(random: Random, mutant: bytearray, others: Sequence[bytes]) -> None:
    """Change the size of an element or its first bytes."""
    places = [match.end() for match in EBML.finditer(mutant)]
    if places:
        place = random.choice(places) + random.randrange(4)
        mutant[place : place + 1] = bytes([random.randrange(256)])


def truncate(random: Random, mutant: bytearray, others: Sequence[bytes]) -> None:
    del mutant[random.randrange(1, len(mutant) + 1) :]


def remove(random: Random, mutant: bytearray, others: Sequence[bytes]) -> None:
    begin, end = _slice(random, mutant)
    del mutant[begin:end]


def repeat(random: Random, mutant: bytearray, others: Sequence[bytes]) -> None:
    begin, end = _slice(random, mutant)
    place = random.randrange(len(mutant) + 1)
    mutant[place:place] = mutant[begin:end] * random.choice((1, 1, 2, 16))


def splice(random: Random, mutant: bytearray, others: Sequence[bytes]) -> None:
    other = random.choice(others)
    begin, end = _slice(random, other)
    place = random.randrange(len(mutant) + 1)
    mutant[place : place + random.choice((0, end - begin))] = other[begin:end]


CHANGES: tuple[Change, ...] = (
    flip_bits,
    set_bytes,
    set_integer,
    edit_box,
    edit_box,
    edit_element,
    truncate,
    remove,
    repeat,
    splice,
)


def _slice(random: Random, content: bytes | bytearray) -> tuple[int, int]:
    begin = random.randrange(len(content))
    return begin, min(len(content), begin + random.choice((1, 4, 16, 188, 1000, 10_000)))


def _write(random: Random, mutant: bytearray, place: int) -> None:
    size = random.choice((1, 2, 4, 4, 4, 8))
    value = random.choice((*INTERESTING, random.getrandbits(32))) & ((1 << 8 * size) - 1)
    mutant[place : place + size] = value.to_bytes(size, random.choice(("big", "big", "little")))
