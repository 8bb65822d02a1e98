"""The process that decodes an upload and renders its pictures: the only one to touch its bytes.

It serves one job. It limits itself before it reads anything, works in the upload's own folder,
and says what it found over the wire: an `Opened`, the clips one by one, and after a `Render`
the pictures. The supervisor reads a clip when it has use for it, so the socket holds this
process back, and no more than a clip or two is ever in memory.
"""

import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

from rollout_core import sampling, video
from rollout_core.colormap import check_colormap
from rollout_core.contract import FAITHFULNESS_NAME, Faithfulness
from rollout_core.errors import RolloutError, StoreUnavailable, VideoTooLarge
from rollout_core.render import render
from rollout_core.video import Crop, Limits, VideoInfo
from worker import wire
from worker.confine import confine
from worker.messages import Clip, Failed, MediaOptions, Open, Opened, Render, Rendered
from worker.wire import Arrays

REPORT_SECONDS = 0.2
"""At least so much time between two reports of progress."""


def serve(connection: Connection, options: MediaOptions) -> None:
    """Serve one job, until the supervisor leaves."""
    confine(options)
    limits = Limits(max_seconds=options.max_video_seconds, max_pixels=options.max_video_pixels)
    received = wire.receive_order(connection, Open)
    if received is None:
        return
    try:
        _serve_job(connection, received[0], limits)
    except RolloutError as error:
        wire.send(connection, Failed.of(error))
    except MemoryError:
        wire.send(connection, Failed.of(VideoTooLarge("it takes more memory than it may")))


def _serve_job(connection: Connection, order: Open, limits: Limits) -> None:
    upload = Path(order.upload)
    os.chdir(upload.parent)
    info, crop = _send_clips(connection, order, upload, limits)
    received = wire.receive_order(connection, Render)
    if received is not None:
        _render(connection, upload, info, crop, limits, *received)


def _send_clips(
    connection: Connection, order: Open, upload: Path, limits: Limits
) -> tuple[VideoInfo, Crop]:
    """Open the upload, plan its clips and send them; return what it is and what the model sees."""
    began = time.monotonic()
    spec, overlay = order.spec, order.request.overlay
    if overlay is not None:
        check_colormap(overlay.colormap)
    info = video.probe(upload, limits)
    plan = sampling.plan(info.duration_seconds, order.request, spec)
    crop = video.crop_of(info, height=spec.height, width=spec.width)
    opened = Opened(
        clips=len(plan.times_seconds),
        crop=tuple(crop),
        sampling=plan.sampling,
        start_seconds=plan.start_seconds,
        end_seconds=plan.end_seconds,
        seconds=time.monotonic() - began,
    )
    wire.send(connection, opened, times_seconds=plan.times_seconds)
    clips = video.read_clips(
        upload, plan, crop, height=spec.height, width=spec.width, limits=limits
    )
    for clip, seconds in _timed(clips):
        wire.send(
            connection,
            Clip(seconds=seconds),
            frames=clip.frames,
            pts_seconds=clip.pts_seconds,
            frame_index=clip.frame_index,
        )
    return info, crop


def _timed(clips: Iterator[video.Clip]) -> Iterator[tuple[video.Clip, float]]:
    """Yield each clip with the seconds that its making took."""
    began = time.monotonic()
    for clip in clips:
        yield clip, time.monotonic() - began
        began = time.monotonic()


def _render(
    connection: Connection,
    upload: Path,
    info: VideoInfo,
    crop: Crop,
    limits: Limits,
    order: Render,
    arrays: Arrays,
) -> None:
    began = time.monotonic()
    next_report = began

    def report(done: int, total: int, *, finished: bool) -> None:
        seconds = time.monotonic() - began
        wire.send(connection, Rendered(done=done, total=total, seconds=seconds, finished=finished))

    def progress(done: int, total: int) -> None:
        nonlocal next_report
        if time.monotonic() >= next_report:
            next_report = time.monotonic() + REPORT_SECONDS
            report(done, total, finished=False)

    try:
        render(
            upload,
            pts_seconds=arrays["pts_seconds"],
            frame_index=arrays["frame_index"],
            relevance=arrays["relevance"],
            crop=crop,
            overlay=order.overlay,
            folder=Path(order.folder),
            limits=limits,
            frames=info.frames,
            progress=progress,
        )
        if order.faithfulness is not None:
            _plot(order.faithfulness, Path(order.folder))
    except FileNotFoundError:
        raise  # The attempt's folder was taken away: it has lost the job.
    except OSError as error:
        raise StoreUnavailable(f"the pictures cannot be stored: {error.strerror}") from error
    report(1, 1, finished=True)


def _plot(faithfulness: Faithfulness, folder: Path) -> None:
    """Draw the curves; whatever matplotlib wants to keep goes with the attempt's folder."""
    with TemporaryDirectory(dir=folder) as own:
        os.environ["MPLCONFIGDIR"] = own
        from rollout_core.plot import plot_faithfulness  # slow to load, and seldom wanted

        plot_faithfulness(faithfulness, folder / FAITHFULNESS_NAME)
