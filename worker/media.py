"""The process that decodes an upload and renders its pictures: the only one to touch its bytes.

It serves one job. It limits itself first, and shuts itself in before it opens the upload, then
says what it found over the wire: an `Opened`, the clips one by one, and after a `Render` the
pictures. The supervisor reads a clip when it has use for it, so the socket holds this process
back, and no more than a clip or two is ever in memory.
"""

import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from rollout_core.contract import FAITHFULNESS_NAME, Faithfulness
from rollout_core.errors import RolloutError, VideoTooLarge
from rollout_core.jobs.store import unavailable
from rollout_core.pictures.heat import check_colormap
from rollout_core.pictures.render import render
from rollout_core.video import sampling
from rollout_core.video.clips import Clip as VideoClip
from rollout_core.video.clips import Crop, Limits, VideoInfo, crop_of, probe, read_clips
from rollout_core.video.sampling import Plan
from worker import wire
from worker.messages import Clip, Failed, MediaOptions, Open, Opened, Render, Rendered, Working
from worker.sandbox import NotConfined, confine, limit
from worker.wire import Arrays

SIGN_SECONDS = 0.2
"""At least so much time between two signs of life."""


def serve(connection: Connection, options: MediaOptions) -> None:
    """Serve one job, until the supervisor leaves."""
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
        wire.send(connection, Failed.of(VideoTooLarge("it takes more memory than it may")))


class _Job:
    """One job's video, from the order to open it to the last of its pictures."""

    def __init__(self, connection: Connection, order: Open, options: MediaOptions) -> None:
        self._connection = connection
        self._order = order
        self._upload = Path(order.upload)
        self._folder = Path(order.folder)
        self._limits = Limits(
            max_seconds=options.max_video_seconds, max_pixels=options.max_video_pixels
        )
        self._confinement = options.confinement
        self._sign: Working | Rendered = Working()
        self._next_sign = 0.0

    def serve(self) -> None:
        """Shut ourselves in; send the clips, and draw the pictures when they are asked for."""
        self._show_life()
        self._shut_in()
        info, plan, crop = self._open()
        self._send_clips(plan, crop)
        received = wire.receive_order(self._connection, Render)
        if received is not None:
            self._render(info, crop, *received)

    def _shut_in(self) -> None:
        """Keep this process to its folders.

        Raises:
            NotConfined: less is in force than the supervisor believes.
        """
        os.chdir(self._upload.parent)
        found = confine(self._upload, self._folder)
        if self._confinement not in (None, found):
            raise NotConfined(f"{found} and not {self._confinement}")

    def _show_life(self) -> None:
        """Say that we work, unless we have just done so.

        It is called from within the work: while a call hangs, nothing is said.
        """
        now = time.monotonic()
        if now >= self._next_sign:
            self._next_sign = now + SIGN_SECONDS
            wire.send(self._connection, self._sign)

    def _open(self) -> tuple[VideoInfo, Plan, Crop]:
        """Open the upload and plan its clips; say and return what the model will see."""
        began = time.monotonic()
        spec, request = self._order.spec, self._order.request
        if request.overlay is not None:
            check_colormap(request.overlay.colormap)
        info = probe(self._upload, self._limits, self._show_life)
        plan = sampling.plan(info.duration_seconds, request, spec)
        crop = crop_of(info, height=spec.height, width=spec.width)
        opened = Opened(
            clips=len(plan.times_seconds),
            crop=tuple(crop),
            sampling=plan.sampling,
            start_seconds=plan.start_seconds,
            end_seconds=plan.end_seconds,
            seconds=time.monotonic() - began,
        )
        wire.send(self._connection, opened, times_seconds=plan.times_seconds)
        return info, plan, crop

    def _send_clips(self, plan: Plan, crop: Crop) -> None:
        spec = self._order.spec
        clips = read_clips(
            self._upload,
            plan,
            crop,
            height=spec.height,
            width=spec.width,
            limits=self._limits,
            heartbeat=self._show_life,
        )
        for clip, seconds in _timed(clips):
            wire.send(
                self._connection,
                Clip(seconds=seconds),
                frames=clip.frames,
                pts_seconds=clip.pts_seconds,
                frame_index=clip.frame_index,
            )

    def _render(self, info: VideoInfo, crop: Crop, order: Render, arrays: Arrays) -> None:
        began = time.monotonic()

        def rendered(done: int, total: int, *, finished: bool = False) -> Rendered:
            seconds = time.monotonic() - began
            return Rendered(done=done, total=total, seconds=seconds, finished=finished)

        def progress(done: int, total: int) -> None:
            self._sign = rendered(done, total)
            self._show_life()

        try:
            render(
                self._upload,
                **arrays,
                crop=crop,
                overlay=order.overlay,
                folder=self._folder,
                limits=self._limits,
                frames=info.frames,
                progress=progress,
                heartbeat=self._show_life,
            )
            if order.faithfulness is not None:
                self._show_life()
                self._plot(order.faithfulness)
        except FileNotFoundError:
            raise  # The attempt's folder was taken away: it has lost the job.
        except OSError as error:
            detail = f"the pictures cannot be stored: {error.strerror}"
            raise unavailable(error, detail) from error
        wire.send(self._connection, rendered(1, 1, finished=True))

    def _plot(self, faithfulness: Faithfulness) -> None:
        """Draw the curves. What matplotlib keeps beside them, the supervisor removes."""
        os.environ["MPLCONFIGDIR"] = str(self._folder)
        from rollout_core.pictures.plot import plot_faithfulness

        plot_faithfulness(faithfulness, self._folder / FAITHFULNESS_NAME)


def _timed(clips: Iterator[VideoClip]) -> Iterator[tuple[VideoClip, float]]:
    """Yield each clip with the seconds that its making took."""
    began = time.monotonic()
    for clip in clips:
        yield clip, time.monotonic() - began
        began = time.monotonic()
