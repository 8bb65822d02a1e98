"""One attempt at a job: from an upload to the files of a result.

The attempt is a plain sequence of steps that asks its two children for one thing after another.
Whenever it waits for them, `_pulse` runs: it beats the heart, and notices that the job shall
stop, is lost, or has taken too long.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollout_core import archive
from rollout_core.archive import Archive, Run
from rollout_core.contract import ARCHIVE_NAME, ExplainRequest, ExplainResult, Progress, Stage
from rollout_core.errors import DeadlineExceeded
from rollout_core.results import Findings, describe_result
from rollout_core.specs import ModelSpec
from worker.children import ChildFailure, Media, next_message
from worker.crew import Crew
from worker.ledger import UNREACHABLE, Ledger
from worker.messages import (
    AnyMessage,
    Clip,
    Explain,
    Explained,
    Open,
    Opened,
    Ready,
    Render,
    Rendered,
)
from worker.wire import Arrays

BEAT_SECONDS = 1.0

log = logging.getLogger(__name__)


class Canceled(Exception):
    """The client wants the job no more."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A job as an attempt sees it: what is to be done, and where."""

    id: str
    attempt: int
    request: ExplainRequest
    upload: Path
    folder: Path
    deadline_seconds: float
    engine_timeout_seconds: float


class Attempt:
    """One run through a job."""

    def __init__(
        self, job: Assignment, crew: Crew, ledger: Ledger, tend: Callable[[], None]
    ) -> None:
        """Prepare; `tend` is called at each beat for whatever else needs to be kept alive."""
        self._job = job
        self._crew = crew
        self._ledger = ledger
        self._tend = tend
        self._began = time.monotonic()
        self._started_at = datetime.now(UTC)
        self._next_beat = self._began
        self._progress = Progress(stage="decode", done=0, total=1)
        self._cancel_requested = False
        self._timings = dict.fromkeys(("decode", "explain", "render"), 0.0)

    def run(self) -> ExplainResult:
        """Make every file of the result in the attempt's folder, and return the result.

        Raises:
            AttemptLost: the job is no longer ours.
            Canceled: it shall stop.
            ChildFailure, RolloutError: it cannot be done.
            ChildLost: a child is gone; the next attempt may fare better.
        """
        model = self._await_engine()
        media = self._crew.take_media()
        try:
            opened = self._open(media, model)
            run = self._run(opened, model)
            found = self._explain(media, opened.clips, model.spec).archive(run)
            self._render(media, found)
        finally:
            media.kill()
        self._advance("publish", 0, 1)
        archive.save(self._job.folder / ARCHIVE_NAME, found)
        self._timings["total"] = time.monotonic() - self._began
        result = describe_result(
            run,
            found,
            self._job.folder,
            timings_seconds=self._timings,
            attempt=self._job.attempt,
            started_at=self._started_at,
        )
        self._pulse()  # The job may have been lost or canceled meanwhile.
        return result

    def _await_engine(self) -> Ready:
        """Wait until the engine has loaded, and is done with what a former job left to it."""
        engine = self._crew.engine
        while engine.busy:
            try:
                next_message(engine, AnyMessage, self._pulse)
            except ChildFailure as failure:
                if engine.model is None:
                    raise engine.lost(f"cannot load its model: {failure}") from failure
        return engine.require_model()

    def _open(self, media: Media, model: Ready) -> Opened:
        """Have the upload probed and its clips planned."""
        upload = str(self._job.upload)
        media.send(Open(upload=upload, request=self._job.request, spec=model.spec))
        opened, _ = next_message(media, Opened, self._pulse)
        self._timings["decode"] += opened.seconds
        return opened

    def _explain(self, media: Media, clips: int, spec: ModelSpec) -> Findings:
        """Lead every clip from media to the engine; while one is explained, decode the next."""
        findings = Findings()
        frames = self._next_clip(media, spec, findings)
        for done in range(clips):
            self._advance("explain", done, clips)
            self._pulse()
            self._order_explanation(frames)
            if done + 1 < clips:
                frames = self._next_clip(media, spec, findings)
            self._take_explanation(findings)
        return findings

    def _next_clip(self, media: Media, spec: ModelSpec, findings: Findings) -> NDArray[Any]:
        """Receive a clip from media; note its times, and return its frames, `t H W c`."""
        clip, arrays = next_message(media, Clip, self._pulse, others=[self._crew.engine])
        if not _is_clip(arrays, spec):
            raise media.lost("sent a clip that is none")
        self._timings["decode"] += clip.seconds
        findings.pts_seconds.append(arrays["pts_seconds"])
        findings.frame_index.append(arrays["frame_index"])
        return arrays["frames"]

    def _order_explanation(self, frames: NDArray[Any]) -> None:
        request = self._job.request
        order = Explain(
            head_fusion=request.head_fusion,
            discard_ratio=request.discard_ratio,
            start_layer=request.start_layer,
        )
        self._crew.engine.send(order, frames=frames[np.newaxis])
        self._crew.engine.expect(self._job.engine_timeout_seconds)

    def _take_explanation(self, findings: Findings) -> None:
        explained, arrays = next_message(self._crew.engine, Explained, self._pulse)
        self._timings["explain"] += explained.seconds
        findings.relevance.append(arrays["relevance"])
        findings.logits.append(arrays["logits"])

    def _render(self, media: Media, found: Archive) -> None:
        """Have the pictures drawn into the attempt's folder."""
        order = Render(folder=str(self._job.folder), overlay=self._job.request.overlay)
        media.send(
            order,
            relevance=found.relevance,
            pts_seconds=found.pts_seconds,
            frame_index=found.frame_index,
        )
        self._advance("render", 0, 1)
        finished = False
        while not finished:
            rendered, _ = next_message(media, Rendered, self._pulse)
            self._advance("render", rendered.done, rendered.total)
            self._timings["render"], finished = rendered.seconds, rendered.finished

    def _run(self, opened: Opened, model: Ready) -> Run:
        """Return what the result will be of."""
        return Run(
            spec=model.spec,
            checkpoint_sha256=model.checkpoint_sha256,
            request=self._job.request,
            crop=opened.crop,
            sampling=opened.sampling,
            start_seconds=opened.start_seconds,
            end_seconds=opened.end_seconds,
        )

    def _advance(self, stage: Stage, done: int, total: int) -> None:
        """Enter a new step, and say so at once when it is a new stage."""
        if stage != self._progress.stage:
            self._next_beat = time.monotonic()
        self._progress = Progress(stage=stage, done=done, total=total)

    def _pulse(self) -> None:
        """Beat if it is time to; give up on a job that is lost, or has taken too long.

        A canceled one goes on until the engine has answered: it can be used at once for the next.
        """
        now = time.monotonic()
        if now - self._began > self._job.deadline_seconds:
            raise DeadlineExceeded(f"not done after {self._job.deadline_seconds:g} seconds")
        if now >= self._next_beat:
            self._next_beat = now + BEAT_SECONDS
            self._beat()
        if self._cancel_requested and not self._crew.engine.busy:
            raise Canceled

    def _beat(self) -> None:
        """Say that we live, and hear whether the job shall stop."""
        try:
            self._cancel_requested |= self._ledger.beat(
                self._job.id, self._job.attempt, self._progress
            )
            self._tend()
        except UNREACHABLE as error:
            log.warning("job %s: missed a beat: %s", self._job.id, error)


def _is_clip(arrays: Arrays, spec: ModelSpec) -> bool:
    """Whether these are a clip's arrays: media processes can be led astray by what they read."""
    expected = {
        "frames": ("uint8", (spec.frames, spec.height, spec.width, 3)),
        "pts_seconds": ("float64", (spec.frames,)),
        "frame_index": ("int64", (spec.frames,)),
    }
    described = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
    return described == expected and bool(np.isfinite(arrays["pts_seconds"]).all())
