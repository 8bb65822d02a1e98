from random import Random

import av
import pytest

from rollout_core.video.signatures import HEAD_BYTES, is_video_container, packet_layout

PACKET = b"G\x01\x00\x10" + bytes(184)


def transport_stream(packets: int, length: int = 188) -> bytes:
    """Return packets of MPEG-TS: alone, after a time stamp, or before error correction."""
    before = bytes(4) if length == 192 else b""
    return (before + PACKET).ljust(length, b"\0") * packets


@pytest.mark.parametrize(
    "head",
    [
        b"\0\0\0\x20ftypisom",
        b"\0\0\0\x14ftypqt  ",
        b"\0\0\0\x08wide\0\0\0\0mdat",
        b"\0\0\1\0moov",
        b"\0\0\0\x08free",
        b"\0\0\0\x18stypmsdh",
        b"\0\0\0\x2csidx",
        b"\x1a\x45\xdf\xa3\x01\0\0\0",
        b"RIFF\x24\0\0\0AVI LIST",
        transport_stream(3),
        transport_stream(3, 192),
        transport_stream(3, 204),
        transport_stream(1),
    ],
)
def test_supported_containers_are_recognized(head):
    assert is_video_container(head)


@pytest.mark.parametrize("length", [188, 192, 204])
@pytest.mark.parametrize("cut", [1, 100, 187])
def test_transport_stream_may_begin_in_the_middle_of_a_packet(length, cut):
    content = transport_stream(20, length)[cut:]
    offset = length - cut + (4 if length == 192 else 0)
    assert packet_layout(content[:HEAD_BYTES]) == (length, offset % length)
    assert is_video_container(content[:HEAD_BYTES])


@pytest.mark.parametrize("cut", [0, 1, 100, 187, 500])
def test_ffmpeg_reads_what_begins_in_the_middle_of_a_packet(film, tmp_path, cut):
    content = film("film.ts", frames=60).read_bytes()[cut:]
    path = tmp_path / "cut.ts"
    path.write_bytes(content)
    with av.open(path) as container:
        assert container.format.name == "mpegts"
        assert len(container.streams.video) == 1
    assert is_video_container(content[:HEAD_BYTES])


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\0\0\0\x18",
        b"ftyp",
        b"ffconcat version 1.0\nfile 'video'\n",
        b"#EXTM3U\n#EXT-X-VERSION:3\n",
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"GIF89a",
        b"G" * 100,
        b"G" * HEAD_BYTES,
        b"G" + bytes(511),
        bytes(HEAD_BYTES),
        b"PK\x03\x04",
        b"<html>",
    ],
)
def test_other_files_are_not_video_containers(head):
    assert not is_video_container(head)


def test_random_bytes_are_not_a_transport_stream():
    assert not any(is_video_container(Random(seed).randbytes(HEAD_BYTES)) for seed in range(50))


def test_misplaced_sync_byte_is_not_a_transport_stream():
    packets = bytearray(transport_stream(3))
    packets[188] = 0
    assert not is_video_container(bytes(packets))
