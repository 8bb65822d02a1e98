"""Losses that the counter of the video packets alone does not show."""

from pathlib import Path

import pytest

from rollout_core.video.decoder import no_heartbeat
from rollout_core.video.transport_stream import continuity_breaks

LENGTH = 188
VIDEO, SOUND = 0x100, 0x101


def packet(stream: int, counter: int, *, field: bytes = b"", payload: bool = True) -> bytes:
    control = (0x20 if field else 0) | (0x10 if payload else 0)
    adaptation = bytes([len(field)]) + field if field else b""
    head = bytes([0x47, stream >> 8, stream & 0xFF, control | counter % 16])
    return (head + adaptation).ljust(LENGTH, b"\xff")


def stream_of(count: int) -> list[bytes]:
    """Return three packets of video, one of sound, and so on, with right counters."""
    found = []
    for number in range(count):
        found += [packet(VIDEO, 3 * number + at) for at in range(3)]
        found.append(packet(SOUND, number))
    return found


@pytest.fixture
def breaks(tmp_path: Path):
    def breaks(packets: list[bytes]) -> list[int]:
        path = tmp_path / "film.ts"
        path.write_bytes(b"".join(packets))
        return continuity_breaks(path, no_heartbeat)

    return breaks


def test_whole_stream_has_no_break(breaks):
    assert breaks(stream_of(50)) == []


def test_loss_of_sixteen_video_packets_breaks_the_counter_of_the_sound(breaks):
    packets = stream_of(50)
    lost = packets[:40] + packets[40 + 4 * 16 // 3 :]
    assert [place // LENGTH for place in breaks(lost)] != []
    video = [item for item in packets if item[1] << 8 | item[2] == VIDEO]
    assert breaks(video[:20] + video[36:]) == []  # nothing else shows it


def test_loss_that_is_no_multiple_of_a_packet_breaks_the_grid(breaks):
    packets = stream_of(50)
    assert breaks([*packets[:40], packets[40][:100], *packets[104:]]) != []


def test_what_may_be_so_is_no_break(breaks):
    packets = stream_of(20)
    repeated = [*packets[:8], packets[7], *packets[8:]]
    assert breaks(repeated) == []
    announced = packet(SOUND, 11, field=b"\x80")
    assert breaks([*packets[:3], announced]) == []
    empty = packet(VIDEO, 5, field=b"\x00", payload=False)
    assert breaks([*packets[:8], empty, *packets[8:]]) == []
    nothing = packet(0x1FFF, 7)
    assert breaks([*packets[:8], nothing, packet(0x1FFF, 3), *packets[8:]]) == []


@pytest.mark.parametrize("content", [b"", b"\x47", bytes(5000), b"G" * 5000])
def test_file_without_packets_has_no_break(tmp_path, content):
    path = tmp_path / "film.ts"
    path.write_bytes(content)
    assert continuity_breaks(path, no_heartbeat) == []
