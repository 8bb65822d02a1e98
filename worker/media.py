"""The media process: decodes an upload and renders its pictures. No other process reads the upload.

It serves one job. It sets its resource limits, enters the sandbox and only then opens the upload.
It answers `Opened`, sends the clips one by one, then `Decoded` and, after a `Render`, writes the
pictures. The supervisor reads a clip when it needs it; until then the full socket blocks this
process, so it holds only one or two clips in memory.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from rollout_core.contract import FAITHFULNESS_NAME, Caption, Faithfulness, Overlay
from rollout_core.errors import RolloutError, VideoTooLarge
from rollout_core.jobs.store import unavailable
from rollout_core.pictures.heat import check_colormap
from rollout_core.pictures.kept import KeptThumbnails
from rollout_core.pictures.render import render
from rollout_core.pictures.sheet import Column, HeatMap, draw_sheet
from rollout_core.video.clips import Limits, OpenedVideo, open_clips, read_clips
from rollout_core.video.coverage import Tally
from rollout_core.video.source import describe_source
from worker import sandbox, wire
from worker.messages import (
    Clip,
    Decoded,
    Failed,
    MediaOptions,
    Open,
    Opened,
    Render,
    Rendered,
    Working,
)
from worker.rehearsal import media_seconds
from worker.sandbox import NotConfined, confine, limit
from worker.wire import Arrays

HEARTBEAT_SECONDS = 0.2
"""Least time between two heartbeats."""


def preload() -> None:
    """Do what every job would have to do first: load libraries, fonts and colours.

    Nothing is decoded, and no thread is started.
    """
    sandbox.preload()
    picture, heat = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.float32)
    column = Column(thumbnail=picture, pts_seconds=0.0, maps=[HeatMap(heat=heat, share=1.0)])
    draw_sheet([column], Overlay(), Caption()).save(BytesIO(), "PNG")


def serve(connection: Connection, options: MediaOptions) -> None:
    """Serve one job, or return when the supervisor closes the connection."""
    limit(options)
    received = wire.receive_order(connection, Open)
    if received is None:
        return
    order, _ = received
    try:
        _Job(connection, order, options).serve()
    except RolloutError as error:
        wire.send(connection, Failed.of(error))
    except MemoryError:
        wire.send(connection, Failed.of(VideoTooLarge("the video needs more memory than allowed")))


class _Job:
    """The video of one job, from `Open` to the last picture."""

    def __init__(self, connection: Connection, order: Open, options: MediaOptions) -> None:
        self._connection = connection
        self._order = order
        self._upload = Path(order.upload)
        self._folder = Path(order.folder)
        self._limits = Limits(
            max_seconds=options.max_video_seconds, max_pixels=options.max_video_pixels
        )
        self._confinement = options.confinement
        self._heartbeat: Working | Rendered = Working()
        self._next_heartbeat = 0.0

    def serve(self) -> None:
        """Enter the sandbox, send the clips, and render the pictures after a `Render`."""
        self._beat()
        self._enter_sandbox()
        video = self._open()
        kept = KeptThumbnails(video.crop, video.plan.times_seconds.size)
        self._send_clips(video, kept)
        received = wire.receive_order(self._connection, Render)
        if received is not None:
            self._render(video, kept, *received)

    def _enter_sandbox(self) -> None:
        """Restrict this process to its folders.

        Raises:
            NotConfined: the restrictions in force differ from those that the supervisor expects.
        """
        os.chdir(self._upload.parent)
        found = confine(self._upload, self._folder)
        if self._confinement not in (None, found):
            raise NotConfined(f"{found} and not {self._confinement}")

    def _beat(self) -> None:
        """Send a heartbeat, unless the last one was sent less than `HEARTBEAT_SECONDS` ago.

        The working code calls it, not a thread: if that code hangs, the heartbeats stop.
        """
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT_SECONDS
            wire.send(self._connection, self._heartbeat)

    def _open(self) -> OpenedVideo:
        """Open the upload, plan its clips, and send `Opened`."""
        spec, request = self._order.spec, self._order.request
        if request.overlay is not None:
            check_colormap(request.overlay.colormap)
        video = open_clips(self._upload, request, spec, self._limits, self._beat)
        plan, info = video.plan, video.info
        with _storing():
            estimate = media_seconds(
                self._upload,
                video,
                request,
                self._folder,
                limits=self._limits,
                seconds_left=self._order.seconds_left,
                heartbeat=self._beat,
            )
        opened = Opened(
            clips=len(plan.times_seconds),
            crop=tuple(video.crop),
            sampling=plan.sampling,
            start_seconds=plan.start_seconds,
            end_seconds=plan.end_seconds,
            frames=info.frames,
            width=info.width,
            height=info.height,
            media_seconds=estimate,
        )
        wire.send(self._connection, opened, times_seconds=plan.times_seconds)
        return video

    def _send_clips(self, video: OpenedVideo, kept: KeptThumbnails) -> None:
        """Send each clip, then what was found out about the video.

        Raises:
            VideoIncomplete: too little of the span could be decoded.
        """
        spec, tally = self._order.spec, Tally(video.plan.start_seconds, video.plan.end_seconds)
        clips = read_clips(
            self._upload,
            video.plan,
            video.crop,
            height=spec.height,
            width=spec.width,
            limits=self._limits,
            resample=spec.resample,
            heartbeat=self._beat,
            stream=video.info.stream,
            tally=tally,
            keep=kept.add,
        )
        for clip in clips:
            wire.send(
                self._connection,
                Clip(),
                frames=clip.frames,
                pts_seconds=clip.pts_seconds,
                frame_index=clip.frame_index,
            )
        source, warnings = describe_source(self._upload, video.info, self._order.request, tally)
        wire.send(self._connection, Decoded(source=source, warnings=warnings))

    def _render(
        self, video: OpenedVideo, kept: KeptThumbnails, order: Render, arrays: Arrays
    ) -> None:
        """Draw the pictures into the job's folder, and report progress.

        Raises:
            StoreUnavailable: the pictures cannot be stored.
            VideoTooLarge: a picture is larger than a file of this process may be.
            FileNotFoundError: the folder was removed, because the attempt has lost the job.
        """

        def progress(done: int, total: int) -> None:
            self._heartbeat = Rendered(done=done, total=total)
            self._beat()

        with _storing():
            render(
                self._upload,
                **arrays,
                crop=video.crop,
                overlay=order.overlay,
                preview=order.preview,
                kept=kept.pixels,
                caption=order.caption,
                folder=self._folder,
                limits=self._limits,
                frames=video.info.frames,
                stream=video.info.stream,
                progress=progress,
                heartbeat=self._beat,
            )
            if order.faithfulness is not None:
                self._beat()
                self._plot(order.faithfulness)
        wire.send(self._connection, Rendered(done=1, total=1, finished=True))

    def _plot(self, faithfulness: Faithfulness) -> None:
        """Draw the faithfulness curves. The supervisor removes matplotlib's cache files later."""
        os.environ["MPLCONFIGDIR"] = str(self._folder)
        from rollout_core.pictures.plot import plot_faithfulness

        plot_faithfulness(faithfulness, self._folder / FAITHFULNESS_NAME)


@contextmanager
def _storing() -> Iterator[None]:
    """Raise an OSError of writing pictures as `StoreUnavailable` or `VideoTooLarge`.

    Raises:
        FileNotFoundError: the folder was removed, because the attempt has lost the job.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise VideoTooLarge("the pictures need more bytes than allowed") from error
        detail = f"the pictures cannot be stored: {error.strerror}"
        raise unavailable(error, detail) from error
