"""How incomplete videos are noticed. Each film has 50 noisy frames in two seconds, 5 GOPs."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from rollout_core.contract import ExplainRequest
from rollout_core.errors import EmptySpan, VideoIncomplete
from rollout_core.model.specs import ModelSpec
from rollout_core.video.clips import open_clips, read_clips
from rollout_core.video.coverage import Coverage, Tally
from rollout_core.video.decoder import Limits
from rollout_core.video.timeline import Timeline
from tests.rollout_core import films
from tests.system.tools import require_tool

SPEC = ModelSpec(
    name="u", frames=4, sampling="uniform", clip_seconds=1, classes=2, height=16, width=16
)
FRAMES = 50
SECONDS = 2.0
LENGTH = 100 * 188


def noise(index: int, width: int, height: int) -> np.ndarray:
    """Return a frame that takes about as many bytes as every other one."""
    cells = np.random.default_rng(index).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return cells.repeat(8, axis=0).repeat(8, axis=1)


FILMS = {
    "fast.mp4": {"container_options": {"movflags": "+faststart"}},
    "reordered.mp4": {
        "options": {"preset": "medium", "bf": "3", "g": "10"},
        "container_options": {"movflags": "+faststart"},
    },
    "fragments.mp4": {"container_options": {"movflags": "+frag_keyframe+empty_moov"}},
    "dash.mp4": {"container_options": {"movflags": "+dash+frag_keyframe+global_sidx"}},
    "film.mkv": {},
    "front.mkv": {"container_options": {"cues_to_front": "1"}},
    "film.webm": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "live.webm": {"codec": "libvpx-vp9", "container_options": {"live": "1"}},
    "film.avi": {"codec": "mpeg4"},
    "h264.avi": {},
    "film.ts": {},
    "hevc.ts": {"codec": "libx265"},
}
STATING = [
    "fast.mp4",
    "reordered.mp4",
    "dash.mp4",
    "film.mkv",
    "front.mkv",
    "film.webm",
    "film.avi",
]
"""Films whose container states their length before the frames."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for name, options in FILMS.items():
        known = {"options": {"g": "10"}, "width": 160, "height": 96} | options
        films.encode(folder / name, frames=FRAMES, picture=noise, **known)
    return folder


def coverage(path: Path, **request: object) -> Coverage:
    """Return the coverage of a video after the pass over its frames."""
    asked = ExplainRequest(allow_incomplete=True, **request)
    video = open_clips(path, asked, SPEC, Limits())
    tally = Tally(video.plan.start_seconds, video.plan.end_seconds)
    clips = read_clips(
        path, video.plan, video.crop, height=16, width=16, limits=Limits(), tally=tally
    )
    assert list(clips)
    return Coverage.of(video.info.timeline, asked, damaged=tally.damaged, frames=tally.frames)


def cut(path: Path, share: float, folder: Path) -> Path:
    """Return the first part of a film."""
    content = path.read_bytes()
    shorter = folder / path.name
    shorter.write_bytes(content[: int(share * len(content))])
    return shorter


def damage(path: Path, folder: Path, *, keep: bool) -> Path:
    """Overwrite the bytes from 40 % to 60 % of a film; without `keep`, leave them out."""
    content = path.read_bytes()
    begin, end = (len(content) * tenths // 10 // 188 * 188 for tenths in (4, 6))
    middle = np.random.default_rng(0).bytes(end - begin) if keep else b""
    damaged = folder / path.name
    damaged.write_bytes(content[:begin] + middle + content[end:])
    return damaged


@pytest.mark.parametrize("name", FILMS)
def test_whole_film_gives_no_warning(folder, name):
    found = coverage(folder / name)
    assert found.check(allow_incomplete=False) == ()
    assert (found.decodable_seconds, found.frames) == (pytest.approx(SECONDS, abs=0.02), FRAMES)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.85])
@pytest.mark.parametrize("name", STATING)
def test_film_that_was_cut_off_is_incomplete(folder, tmp_path, name, share):
    path = cut(folder / name, share, tmp_path)
    with pytest.raises(VideoIncomplete, match=r"only \d\.\d+ s of 2\.0\d\d s"):
        open_clips(path, ExplainRequest(), SPEC, Limits())
    found = coverage(path)
    assert found.promised_seconds == pytest.approx(SECONDS, abs=0.1)
    assert found.decodable_seconds == pytest.approx(share * SECONDS, abs=0.4)
    assert found.frames == pytest.approx(found.decodable_seconds * 25, abs=1)
    (warning,) = found.check(allow_incomplete=True)
    assert warning.code == "video_incomplete"


@pytest.mark.parametrize("name", ["fast.mp4", "film.mkv"])
def test_film_that_lacks_its_last_frames_gives_a_warning(folder, tmp_path, name):
    found = coverage(cut(folder / name, 0.975, tmp_path))
    (warning,) = found.check(allow_incomplete=False)
    assert "2.000 s" in warning.detail
    assert 0.95 < found.decodable_seconds / SECONDS < 1


def test_frames_are_told_where_the_container_lists_them(folder, tmp_path):
    path = cut(folder / "fast.mp4", 0.5, tmp_path)
    with pytest.raises(VideoIncomplete, match=r"\(2\d of 50 frames\)"):
        open_clips(path, ExplainRequest(), SPEC, Limits())


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("name", [name for name in FILMS if name != "live.webm"])
def test_film_with_a_damaged_middle_is_incomplete(folder, tmp_path, name, keep):
    found = coverage(damage(folder / name, tmp_path, keep=keep))
    assert found.decodable_seconds < 0.9 * found.promised_seconds
    with pytest.raises(VideoIncomplete):
        found.check(allow_incomplete=False)


def test_loss_that_is_no_multiple_of_a_packet_is_noticed(folder, tmp_path):
    content = (folder / "film.ts").read_bytes()
    begin, end = len(content) * 4 // 10 // 188 * 188 + 50, len(content) * 6 // 10 // 188 * 188
    path = tmp_path / "film.ts"
    path.write_bytes(content[:begin] + content[end:])
    assert coverage(path).decodable_seconds < 0.9 * SECONDS


def test_file_that_ends_before_its_index_is_incomplete(folder, tmp_path):
    path = tmp_path / "film.mp4"
    films.encode(path, frames=FRAMES, picture=noise, width=160, height=96)
    size = path.stat().st_size
    (tmp_path / "cut").mkdir()
    shorter = cut(path, 0.6, tmp_path / "cut")
    with pytest.raises(VideoIncomplete, match=f"only {int(0.6 * size)} of at least"):
        open_clips(shorter, ExplainRequest(), SPEC, Limits())


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_frames_that_an_edit_list_hides_are_not_missing(tmp_path, suffix):
    """A copy without a new encode keeps the frames from the key frame on, and hides some."""
    ffmpeg = require_tool("ffmpeg")
    whole, part = tmp_path / f"whole.{suffix}", tmp_path / f"part.{suffix}"
    source = ("-f", "lavfi", "-i", "testsrc=duration=6:size=160x96:rate=25")
    coding = ("-c:v", "libx264", "-g", "250", "-bf", "3", "-pix_fmt", "yuv420p")
    for command in (
        (*source, *coding, str(whole)),
        ("-ss", "3.3", "-i", str(whole), "-t", "2", "-c", "copy", str(part)),
    ):
        subprocess.run((ffmpeg, "-v", "error", *command), check=True, timeout=60)
    found = coverage(part)
    assert found.check(allow_incomplete=False) == ()
    assert found.frames == pytest.approx(52, abs=3)
    assert found.promised_frames is None or found.promised_frames - found.frames <= 3


def test_span_before_the_missing_part_is_complete(folder, tmp_path):
    path = cut(folder / "fast.mp4", 0.6, tmp_path)
    found = coverage(path, end_seconds=1.0)
    assert found.check(allow_incomplete=False) == ()
    assert (found.decodable_seconds, found.frames) == (1.0, 25)


def test_span_in_the_missing_part_is_incomplete(folder, tmp_path):
    path = cut(folder / "fast.mp4", 0.5, tmp_path)
    with pytest.raises(VideoIncomplete, match=r"only 0\.000 s of 0\.500 s"):
        open_clips(path, ExplainRequest(start_seconds=1.5), SPEC, Limits())
    with pytest.raises(EmptySpan):
        open_clips(path, ExplainRequest(start_seconds=1.5, allow_incomplete=True), SPEC, Limits())


def test_damage_after_the_last_sampled_moment_counts(folder, tmp_path):
    """The pass over the frames goes on to the end of the span."""
    content = bytearray((folder / "fast.mp4").read_bytes())
    content[len(content) * 9 // 10 :] = bytes(len(content) - len(content) * 9 // 10)
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    found = coverage(path)
    assert found.decodable_seconds == pytest.approx(0.9 * SECONDS, abs=0.1)


def test_damage_before_the_first_decodable_frame_counts(folder, tmp_path):
    content = (folder / "fast.mp4").read_bytes()
    begin = content.index(b"mdat") + 4
    path = tmp_path / "film.mp4"
    path.write_bytes(content[:begin] + bytes(LENGTH // 2) + content[begin + LENGTH // 2 :])
    found = coverage(path)
    assert found.promised_seconds == pytest.approx(SECONDS, abs=0.02)
    assert found.decodable_seconds < 0.95 * SECONDS


# The arithmetic

TIMELINE = Timeline(8.0, 200, 10.0, 250, missing=((2.0, 3.0), (8.0, 10.0)))


@pytest.mark.parametrize(
    ("request_", "damaged", "expected"),
    [
        ({}, [], (7.0, 10.0)),
        ({}, [(2.5, 4.0), (2.5, 3.5)], (6.0, 10.0)),
        ({}, [(-1.0, 0.0)], (7.0, 11.0)),
        ({"start_seconds": 2.5, "end_seconds": 5.0}, [], (2.0, 2.5)),
        ({"end_seconds": 20.0}, [], (7.0, 10.0)),
        ({"start_seconds": 12.0}, [], (0.0, 0.0)),
    ],
)
def test_lost_parts_are_counted_once_and_in_the_span(request_, damaged, expected):
    found = Coverage.of(TIMELINE, ExplainRequest(**request_), damaged=damaged)
    assert (found.decodable_seconds, found.promised_seconds) == expected


@pytest.mark.parametrize(("missing", "fails"), [(0.49, False), (0.51, True)])
def test_five_percent_may_be_missing(missing, fails):
    timeline = Timeline(10 - missing, 240, 10.0, 250, missing=((10 - missing, 10.0),))
    found = Coverage.of(timeline, ExplainRequest())
    assert len(found.check(allow_incomplete=True)) == 1
    if fails:
        with pytest.raises(VideoIncomplete, match=r"only 9\.490 s of 10\.000 s"):
            found.check(allow_incomplete=False)
    else:
        assert len(found.check(allow_incomplete=False)) == 1
