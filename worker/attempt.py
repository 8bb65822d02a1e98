"""One attempt at a job: from an upload to the files of a result.

An attempt sends orders to its two children, one after another, and checks every answer. Its
`Heartbeat` runs whenever it waits. Whatever touches the store, or may take longer than a beat for
another reason, runs in `Heartbeat.during`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rollout_core import archive
from rollout_core.archive import Archive
from rollout_core.contract import (
    ARCHIVE_NAME,
    ExplainRequest,
    ExplainResult,
    Faithfulness,
    FakeScript,
    Fill,
    Precision,
)
from rollout_core.jobs.disk import fsync_files, is_plain
from rollout_core.model.specs import ModelSpec
from rollout_core.relevance import faithfulness
from rollout_core.resolve import ResolvedRun, check_request, class_against, explained_classes
from rollout_core.result import (
    ResultArrays,
    artifact_names,
    caption_of,
    describe_result,
    target_to_follow,
    thumbnail_sheet,
)
from rollout_core.timings import Timings
from worker import fake_script
from worker.answer_checks import is_clip, is_curve, is_explanation, is_plan, is_source
from worker.child import Child, ChildFailure, next_message
from worker.children import Children, Media
from worker.counts import Counts
from worker.fake_script import NO_SCRIPT
from worker.heartbeat import Heartbeat
from worker.messages import (
    AnyMessage,
    Clip,
    Decoded,
    Explain,
    Explained,
    Open,
    Opened,
    Perturb,
    Perturbed,
    Ready,
    Render,
    Rendered,
    Working,
)
from worker.wire import Arrays
from worker.work_estimate import DEFAULT_LIMITS, WorkLimits, check_work

MAX_BATCH_BYTES = 1 << 28
"""Most bytes of frames sent to the engine at once. The next batch waits here meanwhile."""

MEDIA_START_SECONDS = 30.0
"""Timeout for the first message of a media process, which may still be importing its libraries."""

M = TypeVar("M", bound=AnyMessage)


@dataclass(frozen=True, kw_only=True)
class AttemptInput:
    """The job of an attempt, its folders and its timeouts.

    Attributes:
        upload: the video.
        folder: of the attempt; every file of the result is written there.
        started_at: when it was claimed, by Redis' clock.
        deadline_seconds: longest duration of the attempt.
        engine_timeout_seconds: timeout of the engine for each clip in a batch; None: a multiple
            of what a clip took at its warm-up.
        media_timeout_seconds: longest time between two messages of the media process.
        limits: what the job may take.
        script: what the fake engine does; empty for a real one.
    """

    id: str
    attempt: int
    request: ExplainRequest
    upload: Path
    folder: Path
    started_at: datetime
    deadline_seconds: float
    engine_timeout_seconds: float | None
    media_timeout_seconds: float
    limits: WorkLimits = DEFAULT_LIMITS
    script: FakeScript = NO_SCRIPT


@dataclass(frozen=True)
class _Found:
    """What an attempt has found: the run, its arrays, the facts of the video, its curves."""

    run: ResolvedRun
    arrays: Archive
    decoded: Decoded
    measured: Faithfulness | None
    precision: Precision


class Attempt:
    """One attempt at a job."""

    def __init__(
        self,
        job: AttemptInput,
        children: Children,
        heartbeat: Heartbeat,
        counts: Counts | None = None,
    ) -> None:
        """Prepare the attempt; the clock of `heartbeat` runs already.

        Args:
            counts: of the worker, to which this attempt adds.

        Attributes:
            timings: of its stages until now.
            clips: of the video; 0 until the plan is known.
        """
        self._counts = counts or Counts()
        self._job = job
        self._children = children
        self._heartbeat = heartbeat
        self.timings = Timings()
        self.clips = 0
        self._misbehaviour = fake_script.misbehaviour(job.script, job.attempt)
        self._script = NO_SCRIPT if self._misbehaviour else job.script

    def run(self) -> ExplainResult:
        """Write every file of the result into the attempt's folder, and return the result.

        Raises:
            AttemptLost: the job no longer belongs to this attempt.
            Canceled: the client has canceled the job.
            ShuttingDown: the worker stops now.
            ChildFailure, RolloutError: the job cannot be done, by any attempt.
            ChildLost: a child died, hung or sent something invalid; the next attempt may succeed.
            OSError: the result cannot be written.
        """
        try:
            return self._run()
        finally:
            self._counts.add_stages(self.timings.seconds)

    def _run(self) -> ExplainResult:
        with self.timings.stage("wait"):
            model = self._await_engine()
            check_request(self._job.request, model.spec)
            fake_script.take_time(self._script, self._heartbeat)
            fake_script.fail_for_video(self._script)
            media = self._children.take_media()
            try:
                found = self._compute(media, model)
            finally:
                media.kill()
                self._counts.restarts["media"] += media.lost
            with self.timings.stage("save"):
                self._heartbeat.during(self._tidy)
                self._heartbeat.during(partial(self._save, found.arrays))
                self._heartbeat.advance("publish", 0, 1)
                return self._heartbeat.during(partial(self._describe, found))

    def _compute(self, media: Media, model: Ready) -> _Found:
        """Let both children do their parts, from opening the video to drawing the pictures."""
        run, clips = self._open(media, model)
        self.clips = clips
        fake_script.fail_for_engine(self._script)
        findings, frames, decoded = self._explain(media, clips, run, model.batch_clips)
        arrays = self._heartbeat.during(partial(findings.archive, run))
        measured = self._measure(frames, arrays, run) if run.request.faithfulness else None
        found = _Found(run, arrays, decoded, measured, model.precision)
        with self.timings.stage("render"):
            self._render(media, found)
        return found

    def _await_engine(self) -> Ready:
        """Wait until the engine has loaded its model, and has answered an earlier job's order."""
        engine = self._children.engine
        while engine.busy:
            try:
                next_message(engine, AnyMessage, self._heartbeat)
            except ChildFailure as failure:
                if engine.model is None:
                    raise engine.kill_as_lost(f"cannot load its model: {failure}") from failure
        return engine.require_model()

    def _open(self, media: Media, model: Ready) -> tuple[ResolvedRun, int]:
        """Let media open the upload and plan the clips; return the run and the number of clips."""
        upload, request, spec = str(self._job.upload), self._job.request, model.spec
        folder = str(self._job.folder)
        left = self._job.deadline_seconds - self._heartbeat.seconds
        order = Open(
            upload=upload, folder=folder, request=request, spec=spec, seconds_left=max(0.0, left)
        )
        media.send(order)
        media.expect(MEDIA_START_SECONDS)
        next_message(media, Working, self._heartbeat)
        with self.timings.stage("open"):
            opened, arrays = self._next_from_media(media, Opened)
        longest = media.options.max_video_seconds
        if not is_plan(arrays, opened, request, spec, max_seconds=longest):
            raise media.kill_as_lost("sent an invalid plan")
        check_work(request, model, opened, self._job.limits, seconds_left=left)
        run = ResolvedRun.resolve(
            request,
            spec,
            checkpoint_sha256=model.checkpoint_sha256,
            crop=opened.crop,
            sampling=opened.sampling,
            start_seconds=opened.start_seconds,
            end_seconds=opened.end_seconds,
            times_seconds=arrays["times_seconds"].tolist(),
        )
        return run, opened.clips

    def _explain(
        self, media: Media, clips: int, run: ResolvedRun, batch_clips: int
    ) -> tuple[ResultArrays, NDArray[Any], Decoded]:
        """Send the clips from media to the engine; receive one batch while another is explained.

        Returns:
            The arrays of all clips, the frames of the last batch, `b t H W c`, and what media
            says of the video.
        """
        findings = ResultArrays()
        max_batch = max(1, min(batch_clips, MAX_BATCH_BYTES // _clip_bytes(run.spec)))
        frames = self._next_batch(media, min(max_batch, clips), run.spec, findings)
        for done in range(0, clips, max_batch):
            self._heartbeat.advance("explain", done, clips)
            self._heartbeat()
            self._order_explanation(frames, done, run)
            ordered = len(frames)
            if left := clips - done - ordered:
                frames = self._next_batch(media, min(max_batch, left), run.spec, findings)
            else:
                decoded = self._take_source(media)
            self._take_explanation(run, ordered, findings)
        return findings, frames, decoded

    def _take_source(self, media: Media) -> Decoded:
        """Receive what media says of the video, while the engine explains the last clips."""
        with self.timings.stage("decode"):
            decoded, _ = self._next_from_media(media, Decoded, others=[self._children.engine])
        upload_bytes = self._heartbeat.during(self._job.upload.stat).st_size
        if not is_source(decoded, upload_bytes):
            raise media.kill_as_lost("sent an invalid description of the video")
        return decoded

    def _next_batch(
        self, media: Media, clips: int, spec: ModelSpec, findings: ResultArrays
    ) -> NDArray[Any]:
        """Receive clips, add their times to `findings`, and return their frames, `b t H W c`."""
        with self.timings.stage("decode"):
            return np.stack([self._next_clip(media, spec, findings) for _ in range(clips)])

    def _next_clip(self, media: Media, spec: ModelSpec, findings: ResultArrays) -> NDArray[Any]:
        """Receive a clip, add its times to `findings`, and return its frames, `t H W c`."""
        _, arrays = self._next_from_media(media, Clip, others=[self._children.engine])
        if not is_clip(arrays, spec):
            raise media.kill_as_lost("sent an invalid clip")
        frames = arrays.pop("frames")
        findings.add(**{name: array[np.newaxis] for name, array in arrays.items()})
        return frames

    def _order_explanation(self, frames: NDArray[Any], first_clip: int, run: ResolvedRun) -> None:
        """Order the engine to explain clips, given their frames `b t H W c`."""
        question = Explain(
            options=run.request.method_options,
            targets=explained_classes(run.request, run.spec),
            against=class_against(run.request, run.spec),
            queries=run.queries,
            first_clip=first_clip,
            fake=self._misbehaviour,
        )
        self._ask_engine(question, len(frames), frames=frames)

    def _take_explanation(self, run: ResolvedRun, clips: int, findings: ResultArrays) -> None:
        """Receive the explanation of a batch, and add its arrays to `findings`."""
        with self.timings.stage("explain"):
            answer, arrays = next_message(self._children.engine, Explained, self._heartbeat)
        self._counts.add_explained(clips, answer.seconds)
        if not is_explanation(arrays, run, clips):
            raise self._children.engine.kill_as_lost("sent an invalid explanation")
        findings.add(**arrays)

    def _measure(self, frames: NDArray[Any], found: Archive, run: ResolvedRun) -> Faithfulness:
        """Let the engine compute each perturbation curve of the one clip, `1 t H W c`."""
        target = target_to_follow(run.request, found.logits, run.spec)
        steps = faithfulness.STEPS

        def follow(fill: Fill, order: NDArray[np.int64]) -> NDArray[Any]:
            self._heartbeat()
            question = Perturb(fill=fill, target=target.index, steps=steps)
            self._ask_engine(question, steps + 1, frames=frames, order=order)
            answer, arrays = next_message(self._children.engine, Perturbed, self._heartbeat)
            self._counts.add_engine_seconds(answer.seconds)
            if not is_curve(arrays, steps):
                raise self._children.engine.kill_as_lost("sent an invalid curve")
            return arrays["probabilities"]

        progress = partial(self._heartbeat.advance, "faithfulness")
        with self.timings.stage("faithfulness"):
            return faithfulness.measure(found.relevance[0], target, follow, progress=progress)

    def _ask_engine(self, question: Explain | Perturb, clips: int, **arrays: NDArray[Any]) -> None:
        """Send an order for which the engine runs the model on `clips` clips."""
        self._children.engine.send(question, **arrays)
        self._children.engine.expect_work(clips, self._job.engine_timeout_seconds)

    def _next_from_media(
        self, media: Media, kind: type[M], others: Iterable[Child] = ()
    ) -> tuple[M, Arrays]:
        """Wait for media's next message, with its timeout and its disk limit in force."""

        def heartbeat() -> None:
            self._heartbeat.during(partial(media.check_disk_use, self._job.folder))

        media.expect(self._job.media_timeout_seconds)
        return next_message(media, kind, heartbeat, others)

    def _render(self, media: Media, found: _Found) -> None:
        """Let media draw the pictures into the attempt's folder."""
        request, arrays, source = self._job.request, found.arrays, found.decoded.source
        order = Render(
            overlay=request.overlay,
            caption=caption_of(found.run, arrays, (source.width, source.height)),
            preview=thumbnail_sheet(request, arrays, source),
            faithfulness=found.measured,
        )
        shown = {
            "relevance": arrays.relevance,
            "temporal_rollout": arrays.temporal_rollout,
            "pts_seconds": arrays.pts_seconds,
            "frame_index": arrays.frame_index,
        }
        media.send(order, **{name: array for name, array in shown.items() if array is not None})
        self._heartbeat.advance("render", 0, 1)
        finished = False
        while not finished:
            rendered, _ = self._next_from_media(media, Rendered)
            self._heartbeat.advance("render", rendered.done, rendered.total)
            finished = rendered.finished

    def _tidy(self) -> None:
        """Remove every file but the requested pictures; a link does not count as a picture."""
        pictures = {*artifact_names(self._job.request)} - {ARCHIVE_NAME}
        for path in self._job.folder.iterdir():
            if path.name not in pictures or not is_plain(path):
                path.unlink()

    def _save(self, found: Archive) -> None:
        """Write the archive, and flush all files to the disk."""
        archive.save(self._job.folder / ARCHIVE_NAME, found)
        fsync_files(self._job.folder)

    def _describe(self, found: _Found) -> ExplainResult:
        """Return the result: read every file for its digest. Its times are by Redis' clock."""
        result = describe_result(
            found.run,
            found.arrays,
            self._job.folder,
            source=found.decoded.source,
            warnings=found.decoded.warnings,
            faithfulness=found.measured,
            timings=self.timings,
            attempt=self._job.attempt,
            started_at=self._job.started_at,
            precision=found.precision,
        )
        ended_at = self._job.started_at + timedelta(seconds=self._heartbeat.seconds)
        return result.model_copy(update={"ended_at": ended_at})


def _clip_bytes(spec: ModelSpec) -> int:
    """Return the bytes of a clip's frames, uint8 `t H W c`."""
    return prod((spec.frames, spec.height, spec.width, 3))
