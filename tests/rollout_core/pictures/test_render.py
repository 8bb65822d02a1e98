"""Tests of the overlay video and the contact sheet, from real video files."""

import numpy as np
import pytest
from PIL import Image

from rollout_core.contract import ExplainRequest, Overlay, ThumbnailSheet
from rollout_core.errors import InvalidRequest, VideoTooLong, VideoUndecodable
from rollout_core.model.specs import ModelSpec
from rollout_core.pictures.render import render, render_comparison
from rollout_core.pictures.sheet import (
    GAP,
    HEADER_HEIGHT,
    LINE,
    MARGIN,
    MIN_WIDTH,
    THUMBNAIL_PIXELS,
)
from rollout_core.video import decoder
from rollout_core.video.clips import Limits, crop_of, probe, read_clips
from rollout_core.video.display import Display
from rollout_core.video.sampling import plan
from tests.rollout_core import films

TILES = ThumbnailSheet(tile_width=120, tile_height=90, columns=2, frame_index=(1, 3, 6))
ALL = {"overlay.mp4", "sheet.png", "preview.mp4", "thumbnails.jpg"}

SPEC = ModelSpec(
    name="u", frames=4, sampling="uniform", clip_seconds=0.2, classes=2, height=32, width=32
)


def sampled(path, **request):
    """Return the arguments that a worker passes for a video, with random relevance."""
    info = probe(path, Limits())
    crop = crop_of(info, height=32, width=32)
    moments = plan(info.duration_seconds, ExplainRequest(**request), SPEC)
    clips = list(read_clips(path, moments, crop, height=32, width=32, limits=Limits()))
    shape = (len(clips), 4, 5, 5)
    return {
        "crop": crop,
        "pts_seconds": np.stack([clip.pts_seconds for clip in clips]),
        "frame_index": np.stack([clip.frame_index for clip in clips]),
        "relevance": np.random.default_rng(0).random(shape, np.float32),
    }


def rendered(path, folder, *, overlay=None, limits=None, progress=None, **changes):
    """Render a video into a folder; return the names of its files."""
    folder.mkdir(exist_ok=True)
    render(
        path,
        **(sampled(path) | changes),
        overlay=overlay,
        folder=folder,
        limits=limits or Limits(),
        frames=probe(path, Limits()).frames,
        progress=progress or (lambda done, total: None),
    )
    return {file.name for file in folder.iterdir()}


def compared(path, sheet, *, limits=None, arguments=None):
    """Render a comparison of two maps; return its pixels."""
    arguments = dict(arguments or sampled(path))
    relevance = arguments.pop("relevance")
    maps = {"attention": relevance, "rollout": np.flip(relevance, axis=1)}
    render_comparison(
        path,
        **arguments,
        relevance=maps,
        overlay=Overlay(),
        path=sheet,
        limits=limits or Limits(),
    )
    with Image.open(sheet) as image:
        return np.asarray(image)


def test_overlay_and_sheet_are_written(plain_film, tmp_path):
    names = rendered(plain_film, tmp_path / "out", overlay=Overlay())
    assert names == {"overlay.mp4", "sheet.png"}
    assert len(films.decode(tmp_path / "out" / "overlay.mp4")) == 10
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width == 2 * MARGIN + 4 * THUMBNAIL_PIXELS + 3 * GAP


def test_only_the_sheet_is_written_without_an_overlay(plain_film, tmp_path):
    assert rendered(plain_film, tmp_path / "out") == {"sheet.png"}


def test_preview_and_thumbnails_are_written_if_asked_for(plain_film, tmp_path):
    names = rendered(plain_film, tmp_path / "out", preview=TILES)
    assert names == ALL - {"overlay.mp4"}
    pixels = [
        frame.to_ndarray(format="rgb24") for frame in films.decode(tmp_path / "out/preview.mp4")
    ]
    assert [films.index_of(picture) for picture in pixels] == list(range(10))
    with Image.open(tmp_path / "out" / "thumbnails.jpg") as tiles:
        assert tiles.size == (240, 180)
        found = [
            films.index_of(np.asarray(tiles)[y : y + 90, x : x + 120])
            for x, y in ((0, 0), (120, 0), (0, 90))
        ]
    assert found == [1, 3, 6]


def test_sheet_shows_the_sampled_frames(plain_film, tmp_path):
    rendered(plain_film, tmp_path / "out")
    found = []
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    top = HEADER_HEIGHT + 10
    for column in range(4):
        x = MARGIN + column * (THUMBNAIL_PIXELS + GAP)
        found.append(films.index_of(pixels[top : top + 90, x + 10 : x + 100]))
    assert found == sampled(plain_film)["frame_index"][0].tolist() == [1, 3, 6, 8]


def test_video_is_decoded_once(plain_film, tmp_path, monkeypatch):
    passes = []
    frames = decoder.Decoder.frames

    def counted(self):
        count = 0
        for frame in frames(self):
            count += 1
            yield frame
        passes.append(count)

    monkeypatch.setattr(decoder.Decoder, "frames", counted)
    arguments = sampled(plain_film)
    passes.clear()
    assert (
        rendered(plain_film, tmp_path / "out", overlay=Overlay(), preview=TILES, **arguments) == ALL
    )
    assert passes == [10]


@pytest.mark.parametrize(("max_height", "times"), [(1080, [10]), (64, [10, 10])])
def test_videos_of_the_same_size_share_the_planes(film, tmp_path, monkeypatch, max_height, times):
    sizes, planes = [], Display.planes

    def counted(self, picture, size, color):
        sizes.append(size)
        return planes(self, picture, size, color)

    monkeypatch.setattr(Display, "planes", counted)
    path = film(width=160, height=120)
    rendered(path, tmp_path / "out", overlay=Overlay(max_height=max_height), preview=TILES)
    assert [sizes.count(size) for size in sorted({*sizes} - {(120, 90)})] == times


@pytest.mark.parametrize(("overlay", "preview"), [(Overlay(), None), (None, TILES)])
def test_progress_counts_every_frame(plain_film, tmp_path, overlay, preview):
    calls = []
    rendered(
        plain_film,
        tmp_path / "out",
        overlay=overlay,
        preview=preview,
        progress=lambda *call: calls.append(call),
    )
    assert calls == [(done, 10) for done in range(1, 11)]


def test_sheet_alone_is_done_at_the_last_sampled_frame(plain_film, tmp_path):
    calls = []
    rendered(plain_film, tmp_path / "out", progress=lambda *call: calls.append(call))
    assert calls == [(done, 9) for done in range(1, 10)]


def test_rendering_calls_the_heartbeat(plain_film, tmp_path):
    beats = []
    rendered(plain_film, tmp_path / "out", overlay=Overlay(), heartbeat=lambda: beats.append(0))
    assert len(beats) >= 10


def test_error_in_the_progress_callback_stops_rendering(plain_film, tmp_path):
    def stop(done, total):
        if done == 5:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        rendered(plain_film, tmp_path / "out", overlay=Overlay(), progress=stop)


def test_many_clips_fit_on_one_sheet(film, tmp_path):
    path = film(frames=60)
    arguments = sampled(path, clips="tile")
    assert arguments["relevance"].shape[0] == 12
    rendered(path, tmp_path / "out", **arguments)
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width < 1800


def test_short_video_has_one_column_per_frame(film, tmp_path):
    rendered(film(frames=2), tmp_path / "out", overlay=Overlay())
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width == MIN_WIDTH
        pixels = np.asarray(sheet)[HEADER_HEIGHT : HEADER_HEIGHT + THUMBNAIL_PIXELS]
    beside = MARGIN + 2 * THUMBNAIL_PIXELS + GAP
    assert (pixels[:, beside - 1] < 255).any()
    assert (pixels[:, beside:] == 255).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("film.mkv", {"codec": "libvpx-vp9", "width": 65, "height": 49}),
        ("film.mp4", {"rotation": 90, "width": 66, "height": 50}),
        ("film.mkv", {"codec": "libx265", "pix_fmt": "yuv420p10le"}),
        ("film.avi", {"codec": "mpeg4"}),
    ],
)
def test_unusual_videos_are_rendered(film, tmp_path, name, options):
    path = film(name, **options)
    overlay = Overlay(layout="side_by_side")
    assert rendered(path, tmp_path / "out", overlay=overlay, preview=TILES) == ALL
    doubled = films.decode(tmp_path / "out" / "overlay.mp4")
    frames = films.decode(tmp_path / "out" / "preview.mp4")
    assert len(doubled) == len(frames) == 10
    assert doubled[0].width == 2 * frames[0].width
    assert frames[0].width % 2 == frames[0].height % 2 == 0


def test_unknown_colormap_is_refused(plain_film, tmp_path):
    with pytest.raises(InvalidRequest, match="no colormap"):
        rendered(plain_film, tmp_path / "out", overlay=Overlay(colormap="no-such-map"))


def test_limits_are_enforced(plain_film, tmp_path):
    with pytest.raises(VideoTooLong):
        rendered(plain_film, tmp_path / "out", limits=Limits(max_frames=5))


def test_undecodable_video_is_refused(plain_film, tmp_path, monkeypatch):
    arguments = sampled(plain_film)
    monkeypatch.setattr(decoder.Decoder, "_pictures", lambda self: iter(()))
    with pytest.raises(VideoUndecodable):
        rendered(plain_film, tmp_path / "out", overlay=Overlay(), **arguments)


def test_comparison_shows_the_sampled_frames(plain_film, tmp_path):
    pixels = compared(plain_film, tmp_path / "comparison.png")
    rendered(plain_film, tmp_path / "out")
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        single = np.asarray(sheet)
    indent = pixels.shape[1] - single.shape[1]
    assert indent > 0
    pictures = slice(HEADER_HEIGHT, HEADER_HEIGHT + THUMBNAIL_PIXELS)
    np.testing.assert_array_equal(pixels[pictures, indent:], single[pictures])
    top = HEADER_HEIGHT + THUMBNAIL_PIXELS + GAP // 2 + LINE + GAP
    first = slice(top, top + THUMBNAIL_PIXELS)
    np.testing.assert_array_equal(
        pixels[first, indent + MARGIN : -MARGIN], single[first, MARGIN:-MARGIN]
    )


def test_every_method_is_scaled_separately(plain_film, tmp_path):
    arguments = sampled(plain_film)
    once = compared(plain_film, tmp_path / "a.png", arguments=arguments)
    fainter = arguments | {"relevance": 0.001 * arguments["relevance"]}
    again = compared(plain_film, tmp_path / "b.png", arguments=fainter)
    assert np.abs(once.astype(int) - again).max() <= 2


def test_comparison_stops_decoding_at_the_last_sampled_frame(plain_film, tmp_path, monkeypatch):
    seen = []
    frames = decoder.Decoder.frames

    def counted(self):
        for frame in frames(self):
            seen.append(frame.index)
            yield frame

    arguments = sampled(plain_film)
    monkeypatch.setattr(decoder.Decoder, "frames", counted)
    compared(plain_film, tmp_path / "a.png", arguments=arguments)
    assert seen == list(range(9))


def test_limits_are_enforced_in_a_comparison(plain_film, tmp_path):
    with pytest.raises(VideoTooLong):
        compared(plain_film, tmp_path / "a.png", limits=Limits(max_frames=5))
