"""Tests of the media process over its connection, with real video files."""

import sys
import threading
import time
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rollout_core.contract import ExplainRequest, Overlay, Target, ThumbnailSheet
from rollout_core.errors import VideoUndecodable
from rollout_core.relevance.faithfulness import FILLS, summarize
from tests.hostile.maker import Maker
from tests.rollout_core import films
from tests.worker.clips import make_video
from worker import fork_server as fork_server_module
from worker import media as media_module
from worker import wire
from worker.child import MAX_OUTPUT_LINES, ChildFailure, ChildLost, next_message
from worker.children import Media
from worker.fake_engine import SPECS
from worker.fork_server import ForkServer
from worker.messages import (
    Clip,
    Confinement,
    Decoded,
    Explain,
    MediaOptions,
    Open,
    Opened,
    Render,
    Rendered,
    Working,
)

SPEC = SPECS["fake"]
ANSWER_SECONDS = 60.0
TILES = ThumbnailSheet(tile_width=108, tile_height=90, columns=2, frame_index=(0, 9, 23))
NOT_CONFINED = Confinement(landlock_abi=None, seccomp=False)


def idle() -> None:
    """A heartbeat that does nothing."""


@pytest.fixture
def start(fork_server):
    started: list[Media] = []

    def start(**options: object) -> Media:
        given = MediaOptions.model_validate(options)
        media = Media(given, fork_server.fork(given))
        # As in the worker. Without a time, one `Working` message would leave it 0 seconds.
        media.expect(ANSWER_SECONDS)
        started.append(media)
        return media

    yield start
    for media in started:
        media.kill()


@pytest.fixture
def media(start) -> Media:
    return start()


def opened(media: Media, upload: Path, folder: Path | None = None, **request: object) -> Opened:
    wanted = ExplainRequest.model_validate(request)
    folder = folder or upload.parent
    media.send(Open(upload=str(upload), folder=str(folder), request=wanted, spec=SPEC))
    return next_message(media, Opened, idle)[0]


def failure_of(media: Media, upload: Path, **request: object) -> str:
    with pytest.raises(ChildFailure) as caught:
        opened(media, upload, **request)
        next_message(media, Clip, idle)
    return caught.value.error.code


def clips_of(media: Media, count: int) -> list[dict[str, np.ndarray]]:
    """Return all clips, and read the `Decoded` that follows them."""
    clips = [next_message(media, Clip, idle)[1] for _ in range(count)]
    next_message(media, Decoded, idle)
    return clips


def peak_bytes(pid: int) -> int:
    """Return the peak resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def test_opened_reports_how_the_video_is_sampled(media, video):
    answer = opened(media, video, clips="tile")
    assert (answer.clips, answer.sampling, answer.crop) == (3, "uniform", (8, 0, 80, 80))
    assert (answer.start_seconds, answer.end_seconds) == (0.0, pytest.approx(3.0))


def test_opened_reports_the_sampled_moments(media, video):
    media.send(
        Open(
            upload=str(video),
            folder=str(video.parent),
            request=ExplainRequest(clips="tile"),
            spec=SPEC,
        )
    )
    _, arrays = next_message(media, Opened, idle)
    assert arrays.keys() == {"times_seconds"}
    np.testing.assert_allclose(arrays["times_seconds"][2], 2 + (np.arange(8) + 0.5) / 8, atol=0.01)


def test_clips_are_sent_in_order(media, video):
    answer = opened(media, video, clips="tile")
    clips = clips_of(media, answer.clips)
    for clip in clips:
        assert clip["frames"].shape == (8, 64, 64, 3)
        assert clip["frames"].dtype == np.uint8
        assert clip["pts_seconds"].dtype == np.float64
        assert clip["frame_index"].dtype == np.int64
    index = np.concatenate([clip["frame_index"] for clip in clips])
    assert index.tolist() == sorted(index.tolist())
    assert index.max() <= 23
    assert clips[0]["frames"].std() > 10


def test_memory_does_not_grow_with_the_length_of_the_video(start, tmp_path):
    """A clip has 1.2 MB here, so holding forty of them would exceed the bound."""
    spec = SPEC.model_copy(update={"height": 224, "width": 224})
    peaks = []
    for seconds in (4, 40):
        media = start()
        path = make_video(tmp_path / f"{seconds}.mp4", seconds=seconds, width=64, height=64)
        wanted = ExplainRequest(clips="tile")
        media.send(Open(upload=str(path), folder=str(tmp_path), request=wanted, spec=spec))
        assert next_message(media, Opened, idle)[0].clips == seconds
        assert len(clips_of(media, seconds)) == seconds
        peaks.append(peak_bytes(media.pid))
    assert peaks[1] - peaks[0] < 16e6


@pytest.mark.parametrize("overlay", [None, Overlay(layout="side_by_side")])
@pytest.mark.parametrize("preview", [None, TILES])
def test_pictures_are_drawn_and_progress_is_reported(media, video, tmp_path, overlay, preview):
    answer = opened(media, video, tmp_path)
    (clip,) = clips_of(media, answer.clips)
    relevance = np.random.default_rng(0).random((1, 8, 8, 8), np.float32)
    media.send(
        Render(overlay=overlay, preview=preview),
        relevance=relevance,
        pts_seconds=clip["pts_seconds"][np.newaxis],
        frame_index=clip["frame_index"][np.newaxis],
    )
    reports = []
    while not reports or not reports[-1].finished:
        reports.append(next_message(media, Rendered, idle)[0])
    assert reports[-1].done == reports[-1].total
    assert {path.name for path in tmp_path.iterdir()} == {
        "sheet.png",
        *(["overlay.mp4"] if overlay else []),
        *(["preview.mp4", "thumbnails.jpg"] if preview else []),
    }
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 100


def test_hdr_is_tone_mapped_inside_the_sandbox(media, tmp_path):
    folder, upload = tmp_path / "result", tmp_path / "upload" / "hdr.mkv"
    folder.mkdir()
    upload.parent.mkdir()
    params = (
        "log-level=none:pools=1:frame-threads=1:"
        "colormatrix=bt2020nc:colorprim=bt2020:transfer=smpte2084"
    )
    options = {"x265-params": params}
    films.encode(upload, codec="libx265", pix_fmt="yuv420p10le", frames=8, options=options)
    answer = opened(media, upload, folder)
    assert answer.clips == 1
    clip = next_message(media, Clip, idle)[1]
    told = next_message(media, Decoded, idle)[0]
    assert (told.source.hdr, told.source.color.transfer) == ("pq", "smpte2084")
    assert [warning.code for warning in told.warnings] == ["hdr_tone_mapped"]
    media.send(
        Render(overlay=Overlay(), preview=TILES),
        relevance=np.full((1, 8, 8, 8), 0.1, np.float32),
        pts_seconds=clip["pts_seconds"][np.newaxis],
        frame_index=clip["frame_index"][np.newaxis],
    )
    while not next_message(media, Rendered, idle)[0].finished:
        pass
    for name in ("overlay.mp4", "preview.mp4"):
        frame = films.decode(folder / name)[0]
        assert (frame.colorspace, frame.color_primaries, frame.color_trc) == (1, 1, 1)


def test_faithfulness_is_plotted(media, video, tmp_path):
    curves = np.linspace(0.9, 0.1, 33).repeat(7 * len(FILLS)).reshape(33, -1, 7).transpose(1, 2, 0)
    measured = summarize(curves, Target(label="still", index=0))
    answer = opened(media, video, tmp_path)
    (clip,) = clips_of(media, answer.clips)
    media.send(
        Render(overlay=None, faithfulness=measured),
        relevance=np.full((1, 8, 8, 8), 0.1, np.float32),
        pts_seconds=clip["pts_seconds"][np.newaxis],
        frame_index=clip["frame_index"][np.newaxis],
    )
    while not next_message(media, Rendered, idle)[0].finished:
        pass
    with Image.open(tmp_path / "faithfulness.png") as plot:
        assert plot.format == "PNG"
        assert plot.width > 300


def test_unknown_colormap_is_refused_before_decoding(media, video):
    assert failure_of(media, video, overlay={"colormap": "no-such-map"}) == "invalid_request"


def test_process_exits_after_its_job(media, video, tmp_path):
    answer = opened(media, video, tmp_path)
    (clip,) = clips_of(media, answer.clips)
    media.send(
        Render(overlay=None),
        relevance=np.full((1, 8, 8, 8), 0.1, np.float32),
        pts_seconds=clip["pts_seconds"][np.newaxis],
        frame_index=clip["frame_index"][np.newaxis],
    )
    with pytest.raises(ChildLost, match="exited with status 0"):
        while True:
            next_message(media, Rendered, idle)


def test_working_directory_is_the_folder_of_the_upload(media, video):
    opened(media, video)
    assert Path(f"/proc/{media.pid}/cwd").readlink() == video.parent


def test_invalid_video_is_a_failure(media, tmp_path):
    upload = tmp_path / "video"
    upload.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(5000))
    assert failure_of(media, upload).startswith("video_")


def test_playlist_cannot_open_another_file(media, tmp_path, video):
    (tmp_path / "secret.mp4").write_bytes(video.read_bytes())
    upload = tmp_path / "video"
    upload.write_text("ffconcat version 1.0\nfile 'secret.mp4'\n")
    assert failure_of(media, upload) == "video_container_unsupported"


def test_span_beyond_the_end_is_a_failure(media, video):
    assert failure_of(media, video, start_seconds=100.0) == "video_span_empty"


def test_configured_limits_are_enforced(start, video):
    assert failure_of(start(max_video_seconds=1.0), video) == "video_too_long"
    assert failure_of(start(max_video_pixels=1000), video) == "video_too_many_pixels"


def test_resource_limits_are_set_before_the_upload_is_read(start, video):
    options = {"memory_bytes": 3 << 30, "file_bytes": 12345, "cpu_seconds": 77}
    media = start(**options)
    opened(media, video)
    rows = Path(f"/proc/{media.pid}/limits").read_text().splitlines()[1:]
    limits = {row[:26].strip(): row[26:].split()[:2] for row in rows}
    assert limits["Max address space"] == [str(3 << 30)] * 2
    assert limits["Max file size"] == ["12345"] * 2
    assert limits["Max cpu time"] == ["77"] * 2
    assert limits["Max open files"] == ["64"] * 2
    assert limits["Max core file size"] == ["0"] * 2


def test_heartbeats_continue_while_it_decodes(media, tmp_path):
    """The only clip lies at the end of a long video, so until then only heartbeats are sent."""
    path = tmp_path / "video"
    recipe = {"width": 640, "height": 480, "picture": films.corner}
    path.write_bytes(Maker(tmp_path).repeated("long.mkv", 15_000, **recipe))
    opened(media, path, start_seconds=149.0)
    heard = []
    while not heard or isinstance(heard[-1][1], Working):
        message, _ = media.receive()
        heard.append((time.monotonic(), message))
    assert isinstance(heard[-1][1], Clip)
    moments = [moment for moment, _ in heard]
    assert len(moments) > 2
    assert max(np.diff(moments)) < 1.0


def test_hanging_process_sends_no_heartbeat(monkeypatch, video):
    """A heartbeat from a separate thread would continue."""
    hanging, over = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        hanging.set()
        over.wait()
        raise VideoUndecodable("at last")

    monkeypatch.setattr(media_module, "limit", lambda options: None)
    monkeypatch.setattr(media_module, "confine", lambda upload, folder: NOT_CONFINED)
    monkeypatch.setattr(media_module, "open_clips", hang)
    monkeypatch.chdir(video.parent)
    ours, theirs = Pipe()
    with ours, theirs:
        order = Open(
            upload=str(video), folder=str(video.parent), request=ExplainRequest(), spec=SPEC
        )
        wire.send(ours, order)
        serving = threading.Thread(target=media_module.serve, args=(theirs, MediaOptions()))
        serving.start()
        try:
            assert hanging.wait(10)
            assert isinstance(wire.receive(ours)[0], Working)
            assert not ours.poll(3 * media_module.HEARTBEAT_SECONDS)
        finally:
            over.set()
            serving.join()


@pytest.mark.parametrize(("overlay", "preview"), [(Overlay(), None), (None, TILES)])
def test_file_beyond_the_size_limit_is_the_fault_of_the_video(
    start, video, tmp_path, overlay, preview
):
    media = start(file_bytes=1000)
    answer = opened(media, video, tmp_path)
    (clip,) = clips_of(media, answer.clips)
    media.send(
        Render(overlay=overlay, preview=preview),
        relevance=np.full((1, 8, 8, 8), 0.1, np.float32),
        pts_seconds=clip["pts_seconds"][np.newaxis],
        frame_index=clip["frame_index"][np.newaxis],
    )
    with pytest.raises(ChildFailure) as caught:
        while not next_message(media, Rendered, idle)[0].finished:
            pass
    assert caught.value.error.code == "video_too_many_pixels", caught.value.error
    assert "more bytes than allowed" in caught.value.error.detail
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())


def test_unexpected_message_ends_the_process(media):
    media.send(Explain())
    with pytest.raises(ChildLost, match="exited with status 1"):
        next_message(media, Opened, idle)


def test_output_is_logged_after_the_process_exits(media, caplog):
    media.send(Explain())
    with pytest.raises(ChildLost):
        next_message(media, Opened, idle)
    first, *_, last = caplog.messages
    assert first.startswith("the media process wrote: Traceback")
    assert last.endswith("WireError: expected Open, not 'explain'")


FLOODING = """
from worker import media, media_template
def serve(connection, options):
    while True:
        print("y")
media.serve = serve
media_template.main()
"""


def test_logged_output_is_limited(monkeypatch, caplog):
    """Output goes to a pipe that is read only after exit; a child that fills it blocks."""
    monkeypatch.setattr(fork_server_module, "TEMPLATE", (sys.executable, "-P", "-c", FLOODING))
    server, options = ForkServer(), MediaOptions()
    media = Media(options, server.fork(options))
    assert media.pid  # it has started
    media.expect(1.0)
    with pytest.raises(ChildLost, match="did not answer within 1 seconds"):
        next_message(media, Opened, idle)
    server.close()
    assert caplog.messages == ["the media process wrote: y"] * MAX_OUTPUT_LINES


def test_video_that_needs_too_much_memory_is_refused(monkeypatch, video):
    def exhaust(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(media_module, "limit", lambda options: None)
    monkeypatch.setattr(media_module, "confine", lambda upload, folder: NOT_CONFINED)
    monkeypatch.setattr(media_module, "open_clips", exhaust)
    monkeypatch.chdir(video.parent)
    ours, theirs = Pipe()
    with ours, theirs:
        wire.send(
            ours,
            Open(upload=str(video), folder=str(video.parent), request=ExplainRequest(), spec=SPEC),
        )
        media_module.serve(theirs, MediaOptions())
        assert isinstance(wire.receive(ours)[0], Working)
        answer, _ = wire.receive(ours)
    assert answer.code == "video_too_many_pixels"
