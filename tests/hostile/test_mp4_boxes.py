import pytest

from tests.hostile.mp4_boxes import (
    body_of,
    box,
    box_ends,
    boxes,
    chunk,
    edit,
    element,
    elements,
    patched,
    replaced,
    ts_packet,
)

MP4 = box(b"ftyp", b"isom") + box(b"moov", box(b"mvhd", b"abcd"), box(b"trak", b"x"))


def test_a_box_begins_with_its_size_or_with_the_one_given():
    assert box(b"free", b"ab", b"c") == b"\0\0\0\x0bfreeabc"
    assert box(b"free", size=1) == b"\0\0\0\x01free"


def test_boxes_are_found_at_their_places():
    assert [*boxes(MP4)] == [(b"ftyp", 0, 12), (b"moov", 12, 41)]
    assert body_of(MP4, "moov/mvhd") == b"abcd"
    assert box_ends(MP4) == {"ftyp": 8, "moov": 20, "moov-mvhd": 28, "moov-trak": 40}


def test_sizes_follow_when_a_body_grows():
    edited = edit(MP4, "moov/mvhd", lambda body: body * 3)
    assert body_of(edited, "moov/mvhd") == b"abcd" * 3
    assert len(edited) == len(MP4) + 8
    assert edit(MP4, "moov/none", lambda body: b"") == MP4


def test_bytes_are_overwritten_and_boxes_removed():
    assert body_of(patched(MP4, "moov/mvhd", 1, b"XY"), "moov/mvhd") == b"aXYd"
    without = replaced(MP4, "moov/mvhd", b"")
    assert [name for name, *_ in boxes(body_of(without, "moov"))] == [b"trak"]
    with pytest.raises(StopIteration):
        body_of(without, "moov/mvhd")


def test_elements_with_size_fields_of_any_length_are_found():
    inner = element("ec", b"ab") + b"\xae\x81x"
    content = element("1a45dfa3", b"") + element("18538067", inner)
    assert [*elements(content)] == [
        ("1a45dfa3", 0, 12, 12),
        ("18538067", 12, 24, 24 + len(inner)),
        ("ec", 24, 33, 35),
        ("ae", 35, 37, 38),
    ]


def test_elements_chunks_and_packets_have_their_own_headers():
    assert element("ec", b"ab") == b"\xec\x01\0\0\0\0\0\0\x02ab"
    assert chunk(b"RIFF", b"ab") == b"RIFF\x02\0\0\0ab"
    assert chunk(b"RIFF", b"ab", size=1) == b"RIFF\x01\0\0\0ab"
    assert ts_packet(256, b"ab")[:6] == b"\x47\x41\0\x10ab"
    assert len(ts_packet(256, bytes(999))) == 188
