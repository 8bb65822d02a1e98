"""The length of videos that stand still, jump in time, or state what is not so."""

import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from rollout_core.contract import MAX_VIDEO_SECONDS
from rollout_core.video.clips import Limits, probe
from rollout_core.video.decoder import open_video
from tests.rollout_core import films
from tests.system.tools import require_tool

STILL = {"ticks": [0, 40, 80, 1000, 2000], "time_base": Fraction(1, 1000), "last_ticks": 7000}
"""A screen recording: five frames, the last of which stays for seven seconds."""


def timeline_of(path: Path):
    return probe(path, Limits()).timeline


def remuxed(path: Path, name: str) -> Path:
    """Copy the packets into another container, without the duration of each."""
    copy = path.with_name(name)
    with av.open(path) as source, av.open(copy, "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                packet.duration = 0
                target.mux(packet)
    return copy


def state_duration(path: Path, seconds: float) -> Path:
    """Overwrite the length in the header of a Matroska file that has no tag of its own."""
    content = path.read_bytes().replace(b"DURATION", b"XXXXXXXX")
    at = content.index(b"\x44\x89\x88") + 3
    number = np.array([1000 * seconds], ">f8").tobytes()
    path.write_bytes(content[:at] + number + content[at + 8 :])
    return path


# Stills at the end


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.avi"])
def test_still_at_the_end_lasts_as_stated(film, name):
    options = {"codec": "mpeg4"} if name == "film.avi" else {}
    ticks = {**STILL, "ticks": [0, 1, 2, 25, 50], "time_base": Fraction(1, 25), "last_ticks": 175}
    found = timeline_of(film(name, **(ticks if name == "film.avi" else STILL), **options))
    assert found.duration_seconds == pytest.approx(9.0)
    assert found.missing == ()


def test_still_lasts_as_the_header_says_where_frames_state_no_duration(film):
    path = state_duration(remuxed(film(**STILL), "copy.mkv"), 9.0)
    with av.open(path) as container:
        last = [packet for packet in container.demux(video=0) if packet.size][-1]
        assert last.pts + last.duration < 4000
    found = timeline_of(path)
    assert found.duration_seconds == found.promised_seconds == pytest.approx(9.0)
    assert found.missing == ()


def test_still_that_was_cut_off_is_incomplete(film):
    path = state_duration(remuxed(film(**STILL), "copy.mkv"), 9.0)
    path.write_bytes(path.read_bytes()[:-200])
    found = timeline_of(path)
    assert found.missing[-1][1] == pytest.approx(9.0)


def test_sound_that_is_longer_does_not_make_a_video_incomplete(tmp_path):
    path = tmp_path / "film.mkv"
    with av.open(path, "w") as output:
        video = output.add_stream("libx264", rate=25, width=64, height=48)
        sound = output.add_stream("aac", rate=8000)
        for index in range(25):
            output.mux(video.encode(av.VideoFrame.from_ndarray(films.grey(index, 64, 48))))
        output.mux(video.encode(None))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 40_000), np.float32), "fltp", "mono")
        samples.sample_rate = 8000
        for packet in [*sound.encode(samples), *sound.encode(None)]:
            output.mux(packet)
    assert timeline_of(path).duration_seconds == pytest.approx(1.0)
    assert timeline_of(path).missing == ()


def test_pauses_of_a_whole_file_are_not_missing(film):
    path = film(
        "film.mkv", ticks=[0, 40, 80, 120, 5000, 5040], time_base=Fraction(1, 1000), last_ticks=40
    )
    found = timeline_of(path)
    assert (found.duration_seconds, found.missing) == (pytest.approx(5.08), ())


def test_pause_of_a_transport_stream_is_kept(film):
    ticks = [0, 3600, 7200, 10800, 14400, 9 * 90_000]
    found = timeline_of(film("film.ts", ticks=ticks, time_base=Fraction(1, 90_000)))
    assert found.duration_seconds == pytest.approx(9.0, abs=0.1)
    assert found.missing == ()


def test_trimmed_video_is_complete(film, tmp_path):
    """An edit list hides frames; they are neither missing nor decoded."""
    require_tool("ffmpeg")
    trimmed = tmp_path / "trimmed.mp4"
    source = film(frames=100, options={"g": "50", "preset": "medium", "bf": "3"})
    subprocess.run(
        ["ffmpeg", "-v", "error", "-ss", "1", "-i", source, "-t", "2", "-c", "copy", trimmed],
        check=True,
    )
    assert timeline_of(trimmed).missing == ()


# Jumps in time


def joined(film, first: int, second: int) -> Path:
    """Join two recordings of 50 frames that begin at these seconds."""
    parts = [
        film(
            f"part{index}.ts",
            ticks=[90_000 * start + 3600 * frame for frame in range(50)],
            time_base=Fraction(1, 90_000),
            container_options=films.TIMES_AS_GIVEN,
        )
        for index, start in enumerate((first, second))
    ]
    path = parts[0].with_name("joined.ts")
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize(
    ("first", "second"),
    [(0, 300), (0, 20), (300, 0), (0, 2 * MAX_VIDEO_SECONDS), (40_000, 100), (95_443, 0)],
)
def test_jump_in_time_does_not_count(film, first, second):
    path = joined(film, int(first), int(second))
    found = timeline_of(path)
    assert found.duration_seconds == pytest.approx(4.0, abs=0.1)
    assert found.missing == ()
    with open_video(path, Limits()) as decoder:
        frames = list(decoder.frames())
    assert len(frames) >= 98
    assert np.diff([frame.pts_seconds for frame in frames]).max() < 0.2


def test_timestamps_that_wrap_around_continue(film):
    begin = 2**33 - 25 * 3600
    ticks = [begin + 3600 * frame for frame in range(50)]
    path = film(
        "film.ts",
        ticks=ticks,
        time_base=Fraction(1, 90_000),
        container_options=films.TIMES_AS_GIVEN,
    )
    assert timeline_of(path).duration_seconds == pytest.approx(2.0)


def test_long_pause_in_a_format_without_jumps_is_kept(film):
    found = timeline_of(film("film.mkv", ticks=[0, 60_000], time_base=Fraction(1, 1000)))
    assert found.duration_seconds > 60
