"""Explains a whole video in this process, without a server."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rollout_core import archive
from rollout_core.archive import Archive
from rollout_core.contract import (
    ARCHIVE_NAME,
    FAITHFULNESS_NAME,
    RESULT_NAME,
    ExplainRequest,
    ExplainResult,
    Faithfulness,
    Fill,
    Method,
    Overlay,
    Precision,
    SourceVideo,
    Stage,
    VideoWarning,
)
from rollout_core.model.checkpoints import LoadedModel
from rollout_core.model.specs import ModelSpec
from rollout_core.pictures.heat import check_colormap
from rollout_core.pictures.kept import KeptThumbnails
from rollout_core.pictures.render import render, render_comparison
from rollout_core.relevance.explain import Explanation, explain_clips, prepare_clips
from rollout_core.relevance.faithfulness import STEPS, Floats, Order, measure
from rollout_core.relevance.perturbation import perturbed_probabilities
from rollout_core.relevance.precision import precision_of
from rollout_core.resolve import (
    ResolvedRun,
    check_request,
    class_against,
    explained_classes,
    refuse_script,
    with_method,
)
from rollout_core.result import (
    ResultArrays,
    caption_of,
    describe_result,
    target_to_follow,
    thumbnail_sheet,
)
from rollout_core.timings import Timings
from rollout_core.video.clips import Clip, Keep, OpenedVideo, open_clips, read_clips
from rollout_core.video.coverage import Tally
from rollout_core.video.decoder import Limits
from rollout_core.video.source import describe_source

UNLIMITED = Limits(max_seconds=float("inf"), max_pixels=1 << 28, max_frames=1 << 40)
"""For trusted videos: no limit that a real video reaches."""

COMPARISON_NAME = "comparison.png"

Frames = NDArray[np.uint8]

ProgressCallback = Callable[[Stage, int, int], None]
"""Called with a stage, the number of its steps that are done, and the total number."""


def explain_video(
    path: Path,
    folder: Path,
    request: ExplainRequest,
    loaded: LoadedModel,
    *,
    limits: Limits = UNLIMITED,
    progress: ProgressCallback = lambda *_: None,
) -> ExplainResult:
    """Explain one video, and write the same files into `folder` as the service does.

    Args:
        request: its `model` is ignored; `loaded` is the model.
    Raises:
        RolloutError: the video or the request cannot be used.
    """
    return compute(path, request, loaded, limits=limits, progress=progress).write(folder, progress)


def compute(
    path: Path,
    request: ExplainRequest,
    loaded: LoadedModel,
    *,
    limits: Limits = UNLIMITED,
    keeps_frames: bool = False,
    progress: ProgressCallback = lambda *_: None,
) -> "Computed":
    """Explain one video, as `explain_video` does, but write no files.

    Args:
        keeps_frames: keep the frames of all clips in memory.
    Raises:
        RolloutError: the video or the request cannot be used.
    """
    refuse_script(request)
    started_at, timings = datetime.now(UTC), Timings()
    with timings.stage("open"):
        job = _Job.open(path, request, loaded, limits)
    kept = KeptThumbnails(job.video.crop, job.video.plan.times_seconds.size)
    tally = Tally(job.run.start_seconds, job.run.end_seconds)
    frames: list[Frames] | None = [] if keeps_frames else None
    with timings.stage("explain"):
        clips = timings.each("decode", job.clips(loaded.spec, tally, kept.add))
        found, clip = _explain(job, loaded, clips, progress, frames)
    source, warnings = describe_source(path, job.video.info, request, tally)
    faithfulness = None
    if request.faithfulness:
        with timings.stage("faithfulness"):
            faithfulness = _measure(job.run, found, clip, loaded, progress)
    return Computed(
        job=job,
        arrays=found,
        frames=np.stack(frames) if frames else None,
        kept=kept,
        source=source,
        warnings=warnings,
        faithfulness=faithfulness,
        timings=timings,
        started_at=started_at,
        precision=precision_of(loaded.model),
    )


def compare_methods(
    path: Path,
    folder: Path,
    request: ExplainRequest,
    loaded: LoadedModel,
    methods: Sequence[Method],
    *,
    limits: Limits = UNLIMITED,
    progress: ProgressCallback = lambda *_: None,
) -> Path:
    """Draw the maps of several methods below those that `explain_video` wrote to `folder`.

    Returns:
        The path of a contact sheet in `folder`, with one row per method.
    Raises:
        RolloutError: the video or the request cannot be used.
    """
    job = _Job.open(path, request, loaded, limits)
    found = archive.load(folder / ARCHIVE_NAME)
    maps: dict[str, NDArray[np.float32]] = {request.method: found.relevance}
    for method in methods:
        if method not in maps:
            run = replace(job.run, request=with_method(request, method))
            clips = job.clips(loaded.spec)
            maps[method] = _explain(replace(job, run=run), loaded, clips, progress)[0].relevance
    render_comparison(
        path,
        pts_seconds=found.pts_seconds,
        frame_index=found.frame_index,
        relevance=maps,
        crop=job.video.crop,
        overlay=request.overlay or Overlay(),
        caption=caption_of(job.run, found, job.video.info.display.size, has_method=False),
        path=folder / COMPARISON_NAME,
        limits=limits,
        stream=job.video.info.stream,
    )
    return folder / COMPARISON_NAME


@dataclass(frozen=True)
class _Job:
    """One video, how it will be sampled, and the resolved request."""

    path: Path
    limits: Limits
    video: OpenedVideo
    run: ResolvedRun

    @classmethod
    def open(
        cls, path: Path, request: ExplainRequest, loaded: LoadedModel, limits: Limits
    ) -> "_Job":
        if request.overlay is not None:
            check_colormap(request.overlay.colormap)
        spec = loaded.spec
        check_request(request, spec)
        video = open_clips(path, request, spec, limits)
        run = ResolvedRun.resolve(
            request,
            spec,
            checkpoint_sha256=loaded.sha256,
            crop=video.crop,
            sampling=video.plan.sampling,
            start_seconds=video.plan.start_seconds,
            end_seconds=video.plan.end_seconds,
            times_seconds=video.plan.times_seconds.tolist(),
        )
        return cls(path, limits, video, run)

    def clips(
        self, spec: ModelSpec, tally: Tally | None = None, keep: Keep = lambda *_: None
    ) -> Iterator[Clip]:
        """Read the clips; see `read_clips`."""
        return read_clips(
            self.path,
            self.video.plan,
            self.video.crop,
            height=spec.height,
            width=spec.width,
            limits=self.limits,
            stream=self.video.info.stream,
            tally=tally,
            resample=spec.resample,
            keep=keep,
        )


@dataclass(frozen=True)
class Computed:
    """What was computed of one video, before anything is drawn or written.

    Attributes:
        frames: uint8 `clip t H W c`, RGB, in the model's input size; None if they were not kept.
        kept: thumbnails of the contact sheet.
        timings: of the stages so far.
    """

    job: _Job
    arrays: Archive
    frames: Frames | None
    kept: KeptThumbnails
    source: SourceVideo
    warnings: tuple[VideoWarning, ...]
    faithfulness: Faithfulness | None
    timings: Timings
    started_at: datetime
    precision: Precision | None

    def describe(self, folder: Path | None = None) -> ExplainResult:
        """Return the content of `result.json`.

        Args:
            folder: holds all other files of the result. None: there are none.
        """
        return describe_result(
            self.job.run,
            self.arrays,
            folder,
            source=self.source,
            warnings=self.warnings,
            faithfulness=self.faithfulness,
            timings=self.timings,
            attempt=1,
            started_at=self.started_at,
            precision=self.precision,
        )

    def write(self, folder: Path, progress: ProgressCallback = lambda *_: None) -> ExplainResult:
        """Draw the pictures, which reads the video again, and write all files of the result."""
        timings = Timings(dict(self.timings.seconds))
        folder.mkdir(parents=True, exist_ok=True)
        with timings.stage("save"):
            archive.save(folder / ARCHIVE_NAME, self.arrays)
        with timings.stage("render"):
            self._render(folder, progress)
            if self.faithfulness is not None:
                # Imports matplotlib, which takes about a second.
                from rollout_core.pictures.plot import plot_faithfulness

                plot_faithfulness(self.faithfulness, folder / FAITHFULNESS_NAME)
        with timings.stage("save"):
            result = replace(self, timings=timings).describe(folder)
        (folder / RESULT_NAME).write_text(result.model_dump_json(indent=2), encoding="utf-8")
        return result

    def _render(self, folder: Path, progress: ProgressCallback) -> None:
        job, found = self.job, self.arrays
        render(
            job.path,
            pts_seconds=found.pts_seconds,
            frame_index=found.frame_index,
            relevance=found.relevance,
            temporal_rollout=found.temporal_rollout,
            crop=job.video.crop,
            overlay=job.run.request.overlay,
            preview=thumbnail_sheet(job.run.request, found, self.source),
            kept=self.kept.pixels,
            caption=caption_of(job.run, found, (self.source.width, self.source.height)),
            folder=folder,
            limits=job.limits,
            frames=job.video.info.frames,
            stream=job.video.info.stream,
            progress=lambda done, total: progress("render", done, total),
        )


def _explain(
    job: _Job,
    loaded: LoadedModel,
    clips: Iterator[Clip],
    progress: ProgressCallback,
    frames: list[Frames] | None = None,
) -> tuple[Archive, Tensor]:
    """Explain each clip. Return the archive and the last clip, `1 c t H W`, as the model saw it.

    Args:
        frames: if given, gets the frames of each clip, `t H W c`.
    """
    spec, total = loaded.spec, len(job.video.plan.times_seconds)
    parameter = next(loaded.model.parameters())
    arrays = ResultArrays()
    progress("explain", 0, total)
    for index, clip in enumerate(clips):
        inputs = prepare_clips(
            clip.frames[np.newaxis], spec, device=parameter.device, dtype=parameter.dtype
        )
        if frames is not None:
            frames.append(clip.frames)
        explanation = _explain_clip(inputs, index, job.run, loaded)
        arrays.add(
            pts_seconds=clip.pts_seconds[np.newaxis],
            frame_index=clip.frame_index[np.newaxis],
            **explanation.arrays(),
        )
        progress("explain", index + 1, total)
    return arrays.archive(job.run), inputs


def _explain_clip(clip: Tensor, index: int, run: ResolvedRun, loaded: LoadedModel) -> Explanation:
    """Explain one clip, `1 c t H W`."""
    targets = explained_classes(run.request, run.spec)
    return explain_clips(
        loaded.model,
        clip,
        run.request.method_options,
        target=[targets] if targets else None,
        against=class_against(run.request, run.spec),
        queries=run.queries,
        first_clip=index,
    )


def _measure(
    run: ResolvedRun, found: Archive, clip: Tensor, loaded: LoadedModel, progress: ProgressCallback
) -> Faithfulness:
    """Measure the faithfulness of the map of the only clip, `1 c t H W`."""
    target = target_to_follow(run.request, found.logits, run.spec)

    def follow(fill: Fill, order: Order) -> Floats:
        return perturbed_probabilities(
            loaded.model,
            clip,
            torch.from_numpy(order),
            fill=fill,
            target=target.index,
            steps=STEPS,
        ).numpy()

    return measure(found.relevance[0], target, follow, progress=partial(progress, "faithfulness"))
