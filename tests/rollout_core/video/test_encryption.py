import av
import pytest

from rollout_core.errors import VideoEncrypted
from rollout_core.video.clips import Limits, probe
from tests.rollout_core import films

KEYS = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "00112233445566778899aabbccddeeff",
    "encryption_kid": "112233445566778899aabbccddeeff00",
}


def test_encrypted_mp4_is_refused(film):
    path = film("film.mp4", container_options=KEYS)
    with pytest.raises(VideoEncrypted, match="100%"):
        probe(path, Limits())


def scramble(path, packets: slice):
    """Mark the packets of the video as scrambled, and make their content noise."""
    with av.open(path) as container:
        pid = container.streams.video[0].id
    content = bytearray(path.read_bytes())
    own = [
        at
        for at in range(0, len(content), 188)
        if int.from_bytes(content[at + 1 : at + 3]) & 0x1FFF == pid
    ]
    for at in own[packets]:
        content[at + 3] |= 0xC0
        content[at + 8 : at + 188] = bytes((7 * index) % 251 for index in range(180))
    path.write_bytes(content)


@pytest.mark.parametrize("packets", [slice(None), slice(20, None)])
def test_scrambled_transport_stream_is_refused(film, packets):
    path = film("film.ts", frames=60, options={"g": "5"}, picture=films.corner)
    scramble(path, packets)
    with pytest.raises(VideoEncrypted):
        probe(path, Limits())


def element(name: str, content: bytes) -> bytes:
    return bytes.fromhex(name) + bytes([0x80 | len(content)]) + content


@pytest.mark.parametrize("encodings", ["with key", "without key"])
def test_encrypted_matroska_is_refused(film, encodings):
    path = film("film.mkv")
    content = path.read_bytes()
    key = element("47E2", b"0123456789abcdef") if encodings == "with key" else b""
    encryption = element("5035", element("47E1", b"\x05") + key)
    encoding = element("6240", element("5033", b"\x01") + encryption)
    added = element("6D80", encoding)
    tracks = content.rindex(bytes.fromhex("1654AE6B"))
    track = content.index(b"\xae\x01\0\0", tracks)
    # Lengthen the track and its parents; the muxer writes their lengths with eight bytes.
    content = bytearray(content)
    for at in (tracks + 4, track + 1, content.index(bytes.fromhex("18538067")) + 4):
        size = 9 - content[at].bit_length()
        value = int.from_bytes(content[at : at + size]) + len(added)
        content[at : at + size] = value.to_bytes(size)
    size = 9 - content[track + 1].bit_length()
    start = track + 1 + size
    content[start:start] = added
    path.write_bytes(content)
    with pytest.raises(VideoEncrypted):
        probe(path, Limits())
