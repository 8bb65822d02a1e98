import pytest

from service.containers import HEAD_BYTES, is_video_container


def transport_stream(packets, *, stamped=False):
    """Packets of a sync byte and 187 others, each after a 4-byte time stamp if it is stamped."""
    return b"".join((bytes(4) if stamped else b"") + b"\x47" + bytes(187) for _ in range(packets))


@pytest.mark.parametrize(
    "head",
    [
        b"\0\0\0\x20ftypisom",
        b"\0\0\0\x14ftypqt  ",
        b"\0\0\0\x08wide\0\0\0\0mdat",
        b"\0\0\1\0moov",
        b"\0\0\0\x08free",
        b"\x1a\x45\xdf\xa3\x01\0\0\0",
        b"RIFF\x24\0\0\0AVI LIST",
        transport_stream(3),
        transport_stream(3, stamped=True),
        transport_stream(1),
    ],
)
def test_containers_that_workers_open(head):
    assert is_video_container(head)


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
        b"G" + bytes(511),
        bytes(512),
        b"PK\x03\x04",
        b"<html>",
    ],
)
def test_what_is_no_video_container(head):
    assert not is_video_container(head)


def test_one_packet_out_of_step_is_no_transport_stream():
    packets = bytearray(transport_stream(3))
    packets[188] = 0

    assert not is_video_container(bytes(packets))


def test_the_head_holds_the_sync_bytes_of_three_packets():
    assert len(transport_stream(2, stamped=True)) + 5 <= HEAD_BYTES
