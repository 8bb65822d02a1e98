"""Tests of the overlay video against its source; see also `test_painter`."""

from fractions import Fraction

import av
import numpy as np
import pytest

from rollout_core.contract import Caption, Overlay
from rollout_core.pictures import encoder
from rollout_core.pictures.caption_band import band_lines
from rollout_core.pictures.heat import heat_track
from rollout_core.pictures.overlay import scaled_crop, write_overlay
from rollout_core.video.clips import Crop, crop_of, probe
from rollout_core.video.decoder import Limits, open_video
from tests.rollout_core import films

LIMITS = Limits()


def track_of(*maps, seconds=None):
    """Return the heat track of one clip with the given maps."""
    relevance = np.array(maps, np.float32)[None]
    count = relevance.shape[1]
    index = np.arange(count)[None]
    pts = index.astype(float) if seconds is None else np.array([seconds])
    return heat_track(relevance, pts_seconds=pts, frame_index=index)


COLD_THEN_HOT = track_of(np.zeros((2, 2)), np.ones((2, 2)), seconds=[0.0, 0.36])


def overlay_of(path, *, overlay=None, crop=None, track=COLD_THEN_HOT, caption=None):
    """Write the overlay of a video next to it, without a caption by default; return its path."""
    overlay = (overlay or Overlay()).model_copy(update={"caption": caption is not None})
    crop = crop or crop_of(probe(path, LIMITS), height=8, width=8)
    target = path.with_name("overlay.mp4")
    with open_video(path, LIMITS) as decoder:
        frames = list(decoder.frames())
        with write_overlay(
            target,
            decoder,
            frames[0],
            overlay=overlay,
            crop=crop,
            track=track,
            caption=caption or Caption(),
        ) as write:
            for frame in frames:
                write(frame)
    return target


def times_of(path):
    """Return each frame's time and duration in seconds, from the first frame."""
    frames = films.decode(path)
    times = [(frame.pts * frame.time_base, frame.duration * frame.time_base) for frame in frames]
    return [(float(pts - times[0][0]), float(duration)) for pts, duration in times]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("film.mp4", "libx264", {"preset": "medium", "bf": "3"}),
        ("film.mkv", "libx265", {}),
        ("film.webm", "libvpx-vp9", {}),
        ("film.avi", "mpeg4", {}),
        ("film.ts", "libx264", {}),
    ],
)
def test_frames_and_times_equal_the_source(film, name, codec, options):
    source = film(name, codec=codec, options=options, width=64, height=64)
    np.testing.assert_allclose(times_of(overlay_of(source)), times_of(source), atol=1e-4)
    assert len(times_of(source)) == 10


def test_variable_frame_rate_and_last_duration_are_kept(film):
    source = film(
        "film.mp4", ticks=[0, 40, 100, 130, 300, 333], time_base=Fraction(1, 1000), last_ticks=267
    )
    found = overlay_of(source)
    np.testing.assert_allclose(times_of(found), times_of(source), atol=1e-6)
    assert probe(found, LIMITS).duration_seconds == pytest.approx(0.6)


def test_fractional_frame_rate_is_kept(film):
    source = film(rate=30, time_base=Fraction(1001, 30000))
    np.testing.assert_allclose(times_of(overlay_of(source)), times_of(source), atol=1e-6)


def test_single_frame_makes_a_video(film):
    source = film(frames=1)
    np.testing.assert_allclose(times_of(overlay_of(source)), times_of(source))
    assert len(times_of(source)) == 1


def test_timestamps_finer_than_the_overlay_time_base_stay_distinct(film, monkeypatch):
    source = film(ticks=[0, 1, 2, 3], time_base=Fraction(1, 90_000))
    monkeypatch.setattr(encoder, "MAX_TICKS_PER_SECOND", 25_000)
    times = np.array(times_of(overlay_of(source)))
    np.testing.assert_allclose(times, [(tick / 25_000, 1 / 25_000) for tick in range(4)])


def test_widest_frames_fit_side_by_side(film):
    source = film("film.webm", codec="libvpx-vp9", width=8192, height=16, frames=1)
    frames = films.decode(overlay_of(source, overlay=Overlay(layout="side_by_side")))
    assert [(frame.width, frame.height) for frame in frames] == [(16384, 16)]


def test_overlay_has_a_format_that_browsers_play(film):
    target = overlay_of(film())
    with av.open(target) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (64, 48)
        assert len(container.streams) == 1
    content = target.read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")


@pytest.mark.parametrize(
    ("size", "expected"), [((65, 49), (64, 48)), ((64, 17), (64, 16)), ((17, 64), (16, 64))]
)
def test_odd_size_is_made_even(film, size, expected):
    source = film("film.mkv", codec="libvpx-vp9", width=size[0], height=size[1], frames=3)
    frames = films.decode(overlay_of(source))
    assert {(frame.width, frame.height) for frame in frames} == {expected}


@pytest.mark.parametrize(("rotation", "bright"), [(90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
def test_rotation_is_applied_to_the_pixels(film, rotation, bright):
    source = film(rotation=rotation, picture=films.corner, frames=2)
    frame = films.decode(overlay_of(source, overlay=Overlay(opacity=0)))[0]
    assert frame.rotation == 0
    assert (frame.width, frame.height) == ((64, 48) if rotation == 180 else (48, 64))
    pixels = frame.to_ndarray(format="gray").astype(float)
    height, width = pixels.shape
    quarters = pixels.reshape(2, height // 2, 2, width // 2).mean(axis=(1, 3))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == bright


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
@pytest.mark.parametrize("layout", ["overlay", "side_by_side"])
def test_overlay_of_odd_sizes_is_aligned_with_the_frame(film, rotation, layout):
    def dot(index, width, height):
        pixels = np.full((height, width, 3), 40, np.uint8)
        pixels[8:16, 16:24] = 220
        return pixels

    source = film(rotation=rotation, picture=dot, width=65, height=49, frames=1, pix_fmt="yuv444p")
    overlay = Overlay(layout=layout, opacity=0)
    with open_video(source, LIMITS) as decoder:
        seen = next(decoder.frames()).rgb().mean(axis=2)
    crop = Crop(0, 0, seen.shape[1], seen.shape[0])
    drawn = films.decode(overlay_of(source, crop=crop, overlay=overlay))[0]
    pixels = drawn.to_ndarray(format="rgb24").mean(axis=2)
    height, width = (size - 1 for size in seen.shape)
    np.testing.assert_allclose(pixels[:, -width:], seen[:height, :width], atol=40)


@pytest.mark.parametrize(("rotation", "size"), [(0, (128, 48)), (90, (48, 128))])
@pytest.mark.parametrize("layout", ["overlay", "side_by_side"])
def test_pixels_are_square(film, rotation, size, layout):
    source = film(pixel_aspect=Fraction(2), rotation=rotation)
    with av.open(overlay_of(source, overlay=Overlay(layout=layout))) as container:
        stream = container.streams.video[0]
        assert stream.sample_aspect_ratio == 1
        columns = 2 if layout == "side_by_side" else 1
        assert (stream.width, stream.height) == (columns * size[0], size[1])


@pytest.mark.parametrize("layout", ["overlay", "side_by_side"])
@pytest.mark.parametrize("rotation", [0, 90])
def test_overlay_is_scaled_down_with_its_heat(film, layout, rotation):
    source = film(
        width=128,
        height=128,
        rotation=rotation,
        frames=2,
        picture=lambda *_: films.grey(6, 128, 128),
    )
    overlay = Overlay(layout=layout, max_height=64, colormap="autumn", opacity=1)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 1
    target = overlay_of(
        source, overlay=overlay, crop=Crop(64, 0, 64, 64), track=track_of(heat, seconds=[0.0])
    )
    frame = films.decode(target)[0]
    pixels = frame.to_ndarray(format="rgb24")[:, -64:].astype(int)
    assert frame.height == 64
    assert frame.width == (128 if layout == "side_by_side" else 64)
    coloured = pixels[..., 0] - pixels[..., 2] > 60
    rows, columns = np.nonzero(coloured)
    assert rows.max() < 16
    assert columns.min() >= 48
    assert pixels[8:24, 34:44].mean() == pytest.approx(118, abs=6)  # inside, without heat
    assert pixels[40:].mean() == pytest.approx(118 / 2, abs=6)  # outside


def test_crop_is_scaled_with_the_overlay():
    assert scaled_crop(Crop(840, 0, 2160, 2160), (3840, 2160), (1920, 1080)) == (420, 0, 1080, 1080)
    assert scaled_crop(Crop(8, 0, 49, 49), (65, 49), (64, 48)) == (8, 0, 49, 49)
    assert scaled_crop(Crop(0, 0, 1, 1), (4000, 4000), (40, 40)) == (0, 0, 1, 1)


def test_crop_is_painted_and_the_rest_is_dimmed(film):
    source = film(frames=10, picture=lambda index, width, height: films.grey(6, width, height))
    crop = Crop(16, 8, 32, 32)
    frames = films.decode(overlay_of(source, crop=crop, overlay=Overlay(colormap="autumn")))
    before = films.decode(source)[-1].to_ndarray(format="rgb24").astype(int)
    after = frames[-1].to_ndarray(format="rgb24").astype(int)
    inside, margin = after[12:36, 20:44], after[:, :12]
    assert (inside[..., 0] - inside[..., 2]).min() > 60  # coloured
    assert np.abs(margin - margin.mean(axis=-1, keepdims=True)).max() < 8  # grey as it was
    np.testing.assert_allclose(margin, before[:, :12] / 2, atol=6)


def test_heat_is_interpolated_between_sampled_frames(film):
    source = film(frames=10, picture=lambda index, width, height: films.grey(6, width, height))
    frames = films.decode(overlay_of(source, overlay=Overlay(colormap="autumn")))
    pixels = [frame.to_ndarray(format="rgb24")[20:28, 28:36].astype(float) for frame in frames]
    colour = np.array([(part[..., 0] - part[..., 2]).mean() for part in pixels])
    assert colour[0] == pytest.approx(0, abs=4)
    assert (np.diff(colour) > 3).all()


def test_side_by_side_has_the_source_on_the_left(film):
    source = film(picture=films.corner)
    overlay = Overlay(layout="side_by_side", colormap="autumn", opacity=1)
    target = overlay_of(source, overlay=overlay)
    original = films.decode(source)[-1].to_ndarray(format="rgb24").astype(int)
    frame = films.decode(target)[-1].to_ndarray(format="rgb24").astype(int)
    assert frame.shape == (48, 128, 3)
    assert np.abs(frame[:, :60] - original[:, :60]).mean() < 5
    assert np.abs(frame[:, 64:] - original).mean() > 30
    np.testing.assert_allclose(times_of(target), times_of(source), atol=1e-6)


def tags_of(path):
    """Return the matrix, the primaries, the transfer and the range that a film states."""
    frame = films.decode(path)[0]
    return frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("colormatrix=bt709:colorprim=bt709:transfer=bt709", (1, 1, 1, 1)),
        ("colormatrix=bt470bg:colorprim=bt470bg:transfer=bt470bg:fullrange=on", (5, 5, 5, 2)),
        ("colormatrix=bt2020nc:colorprim=bt2020:transfer=bt2020-10", (9, 9, 14, 1)),
        ("colormatrix=smpte240m", (7, 7, 1, 1)),
        ("colormatrix=fcc", (4, 1, 1, 1)),
        ("", (6, 6, 1, 1)),  # untagged, of few lines
        ("colormatrix=YCgCo", (6, 6, 1, 1)),
        ("colormatrix=bt2020c", (9, 9, 1, 1)),
        ("colormatrix=bt2020nc:colorprim=bt2020:transfer=smpte2084", (1, 1, 1, 1)),
        ("colormatrix=bt2020nc:colorprim=bt2020:transfer=arib-std-b67", (1, 1, 1, 1)),
    ],
)
def test_all_colour_tags_are_written(film, params, expected):
    source = film("film.mp4", options={"x264-params": params} if params else {}, frames=2)
    assert tags_of(overlay_of(source)) == expected


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    "fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"]
)
def test_encoded_yuv_is_that_of_an_untagged_hd_source(film, fmt, full):
    """BT.709 is assumed for it, and stated in the overlay."""
    options = {"x264-params": f"qp=0:fullrange={'on' if full else 'off'}"}
    picture = np.full((48, 1280, 3), (200, 60, 90), np.uint8)
    source = film(width=1280, pix_fmt=fmt, options=options, frames=1, picture=lambda *_: picture)
    target = overlay_of(source, overlay=Overlay(opacity=0), crop=Crop(0, 0, 1280, 48))
    assert tags_of(target) == (1, 1, 1, 2 if full else 1)
    (before,), (after,) = films.decode(source), films.decode(target)
    shift = before.format.components[0].bits - 8
    for stored, drawn in zip(before.planes, after.planes, strict=True):
        kind = np.uint16 if shift else np.uint8
        expected = np.median(np.frombuffer(memoryview(stored), kind)) / (1 << shift)
        found = np.median(np.frombuffer(memoryview(drawn), np.uint8))
        assert found == pytest.approx(expected, abs=1)


def test_full_range_source_keeps_its_brightness(film):
    source = film("film.mkv", pix_fmt="yuvj420p", frames=10)
    frames = films.decode(overlay_of(source, overlay=Overlay(opacity=0), crop=Crop(0, 0, 64, 48)))
    found = [films.index_of(frame.to_ndarray(format="rgb24")) for frame in frames]
    assert found == list(range(10))


def test_packets_are_written_while_frames_arrive(film):
    """Packets do not accumulate, so memory does not grow with the length."""

    def noise(index, width, height):
        random = np.random.default_rng(index)
        return random.integers(0, 256, (height, width, 3), dtype=np.uint8)

    source = film(frames=60, width=384, height=288, picture=noise)
    target = source.with_name("overlay.mp4")
    crop = Crop(48, 0, 288, 288)
    with open_video(source, LIMITS) as decoder:
        frames = list(decoder.frames())
        with write_overlay(
            target, decoder, frames[0], overlay=Overlay(), crop=crop, track=COLD_THEN_HOT
        ) as write:
            for frame in frames:
                write(frame)
            before_the_end = target.stat().st_size
    assert before_the_end > 0.5 * target.stat().st_size


@pytest.mark.parametrize("layout", ["overlay", "side_by_side"])
def test_a_caption_stands_below_the_picture(film, layout):
    source = film(width=640, height=360, frames=3)
    plain = films.decode(overlay_of(source, overlay=Overlay(layout=layout)))
    bare = [frame.to_ndarray(format="rgb24") for frame in plain]
    caption = Caption(title="a thing moves left, 98 %")

    path = overlay_of(source, overlay=Overlay(layout=layout), caption=caption)
    captioned = [frame.to_ndarray(format="rgb24") for frame in films.decode(path)]

    height, width = bare[0].shape[:2]
    lines = band_lines((640, 360))
    assert [frame.shape for frame in captioned] == [(height + lines, width, 3)] * 3
    for with_band, without in zip(captioned, bare, strict=True):
        assert np.abs(with_band[: height - 8] - np.float64(without[: height - 8])).mean() < 3
    bands = [np.float64(frame[height:]) for frame in captioned]
    assert np.abs(bands[0][4:, :-80] - bands[2][4:, :-80]).mean() < 2
    assert np.abs(bands[0][4:, -80:] - bands[2][4:, -80:]).max() > 60  # the time
