"""Decoding several packets at once gives what decoding them one by one gives."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from rollout_core.video import decoder
from rollout_core.video.decoder import Limits, open_video
from rollout_core.video.decoding import FRAME_THREADS, Doubt, at_once, frame_threads, one_by_one
from tests.rollout_core import films

FRAMES = 50
INDEX_FIRST = {"movflags": "+faststart"}
"""Where an MP4 file is damaged, its index is whole."""

REORDERED = {"options": {"preset": "medium", "bf": "3", "g": "10"}}
FILMS: dict[str, dict[str, Any]] = {
    "reordered.mp4": REORDERED,
    "reordered.ts": REORDERED,
    "open.mkv": {"options": {**REORDERED["options"], "x264-params": "open-gop=1"}},
    "film.mp4": {},
    "hevc.mkv": {"codec": "libx265"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "av1.mp4": {"codec": "libsvtav1"},
    "mpeg4.mp4": {"codec": "mpeg4"},
}
TIMELESS = {"film.avi": {}, "vp8.webm": {"codec": "libvpx"}}
"""An AVI file has no times of display; the decoder of VP8 is silent about damage."""

STOP_EARLY = """
import sys
from pathlib import Path
import av
from rollout_core.video.decoder import Limits, open_video
av.logging.set_level(av.logging.ERROR)
for stop in range(100):
    with open_video(Path(sys.argv[1]), Limits()) as video:
        for frame in video.frames():
            if frame.index == stop % 20:
                break
"""


def moving(index: int, width: int, height: int) -> np.ndarray:
    """Return a frame of a texture that moves."""
    cells = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return np.roll(cells.repeat(8, axis=0).repeat(8, axis=1), 3 * index, axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for name, options in (FILMS | TIMELESS).items():
        known = {"options": {"g": "10"}, "container_options": INDEX_FIRST} | options
        films.encode(folder / name, frames=FRAMES, picture=moving, width=160, height=96, **known)
    return folder


@pytest.fixture
def one_by_one_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[Any]]:
    """Return a function that reads a video without decoding several packets at once."""

    def doubt(*_: object) -> Iterator[av.VideoFrame]:
        raise Doubt
        yield

    def read(path: Path) -> list[Any]:
        with monkeypatch.context() as patch:
            patch.setattr(decoder, "at_once", doubt)
            return answers(path)

    return read


def answers(path: Path) -> list[Any]:
    """Return everything about a video's frames except their pixels."""
    with open_video(path, Limits()) as video:
        frames = [(f.index, f.ticks, f.duration_ticks, f.is_damaged) for f in video.frames()]
        return [frames, video.damaged, [*video.damaged_seconds()]]


def digest(picture: av.VideoFrame) -> str:
    return sha256(picture.to_ndarray().tobytes()).hexdigest()


def mutants(content: bytes) -> Iterator[bytes]:
    """Yield copies of a video that are damaged in different ways."""
    random = np.random.default_rng(0)
    for _ in range(3):
        begin = int(random.integers(len(content) // 4, len(content)))
        length = int(random.integers(20, 2000))
        yield content[:begin] + bytes(length) + content[begin + length :]
        yield content[:begin] + random.bytes(length) + content[begin + length :]
        yield content[:begin] + content[begin + length :]
        yield content[:begin]
        yield content[:begin] + bytes([content[begin] ^ 0x55]) + content[begin + 1 :]


@pytest.mark.parametrize("name", FILMS)
def test_sound_video_gives_the_same_pictures(folder, name):
    found = []
    for decode in (at_once, lambda *a: one_by_one(*a, period_ticks=1, damaged=[])):
        with open_video(folder / name, Limits()) as video:
            pictures = [*decode(video.stream, video.packets())]
            found.append([(each.pts, each.duration, digest(each)) for each in pictures])
    assert len(found[0]) == FRAMES
    assert found[0] == found[1]


@pytest.mark.parametrize("name", FILMS)
def test_damage_is_found_as_one_by_one(folder, tmp_path, name, one_by_one_only):
    path, sound, noticed = tmp_path / name, answers(folder / name), 0
    for content in mutants((folder / name).read_bytes()):
        path.write_bytes(content)
        found = answers(path)
        assert found == one_by_one_only(path)
        noticed += found != sound
    assert noticed > 5


@pytest.mark.parametrize("place", range(-FRAME_THREADS - 1, 0))
@pytest.mark.parametrize("name", ["reordered.mp4", "film.mp4", "hevc.mkv", "vp9.webm"])
def test_damage_at_the_end_is_found(folder, tmp_path, name, place, one_by_one_only):
    """There, PyAV drops errors that come after a picture."""
    content = (folder / name).read_bytes()
    with av.open(folder / name) as container:
        packet = [bytes(packet) for packet in container.demux(video=0) if packet.size][place]
    path = tmp_path / name
    path.write_bytes(content.replace(packet, b"\xff" * len(packet)))
    found = answers(path)
    assert found == one_by_one_only(path)
    assert len(found[0]) < FRAMES or found[1]


@pytest.mark.parametrize("name", TIMELESS)
def test_videos_without_certainty_are_decoded_one_by_one(folder, name):
    with open_video(folder / name, Limits()) as video:
        with pytest.raises(Doubt):
            next(at_once(video.stream, video.packets()))
        assert not video.stream.codec_context.is_open
    assert len(answers(folder / name)[0]) == FRAMES


def test_several_packets_are_decoded_at_once(folder):
    with open_video(folder / "film.mp4", Limits()) as video:
        read = []
        packets = (read.append(packet.pts) or packet for packet in video.packets())
        next(at_once(video.stream, packets))
        assert len(read) == FRAME_THREADS


@pytest.mark.parametrize(
    ("width", "height", "threads"),
    [(0, 0, 4), (160, 96, 4), (1920, 1080, 4), (2560, 1440, 4), (3840, 2160, 2), (8192, 4320, 2)],
)
def test_of_large_frames_fewer_are_decoded_at_once(width, height, threads):
    assert frame_threads(width, height) == threads


def test_sound_video_is_opened_once(folder, monkeypatch):
    opened = []
    original = decoder.OpenFile.open
    monkeypatch.setattr(
        decoder.OpenFile, "open", lambda *args: opened.append(args) or original(*args)
    )
    answers(folder / "reordered.mp4")
    assert len(opened) == 1


def test_stopping_early_does_not_hang(folder):
    """Threads of a decoder that log wait for the interpreter's lock; closing must release it."""
    command = [sys.executable, "-c", STOP_EARLY, str(folder / "reordered.mp4")]
    done = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
