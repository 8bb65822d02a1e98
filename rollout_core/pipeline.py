"""A whole video explained in this process, with no server: from a path to a folder of results."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
    Stage,
)
from rollout_core.model.checkpoints import LoadedModel
from rollout_core.pictures.heat import check_colormap
from rollout_core.pictures.render import render, render_comparison
from rollout_core.relevance.explain import Explanation, explain_clips, prepare_clips
from rollout_core.relevance.faithfulness import STEPS, Floats, Order, measure
from rollout_core.relevance.perturbation import perturbed_probabilities
from rollout_core.resolve import ResolvedRun, check_request, explained_class, with_method
from rollout_core.result import ResultArrays, describe_result, target_to_follow
from rollout_core.video.clips import Crop, VideoInfo, crop_of, probe, read_clips
from rollout_core.video.decoder import Limits
from rollout_core.video.sampling import Plan, plan

UNLIMITED = Limits(max_seconds=float("inf"), max_pixels=1 << 28, max_frames=1 << 40)
"""For a person's own video on their own machine."""

COMPARISON_NAME = "comparison.png"

ProgressCallback = Callable[[Stage, int, int], None]
"""Called with a stage, the steps of it that are done, and how many there are."""


def explain_video(
    path: Path,
    folder: Path,
    request: ExplainRequest,
    loaded: LoadedModel,
    *,
    limits: Limits = UNLIMITED,
    progress: ProgressCallback = lambda *_: None,
) -> ExplainResult:
    """Explain one video, and write the same files into `folder` as the service would.

    Args:
        request: its `model` is not looked at; `loaded` is the model.
    Raises:
        RolloutError: the video or the request cannot be used.
    """
    started_at, timings = datetime.now(UTC), _Timings()
    video = _Video.open(path, request, loaded, limits)
    with timings.measure("explain"):
        found, clip = _explain(video, loaded, progress)
    faithfulness = None
    if request.faithfulness:
        with timings.measure("faithfulness"):
            faithfulness = _measure(video.run, found, clip, loaded, progress)
    folder.mkdir(parents=True, exist_ok=True)
    archive.save(folder / ARCHIVE_NAME, found)
    with timings.measure("render"):
        _render(video, found, folder, progress)
        if faithfulness is not None:
            from rollout_core.pictures.plot import plot_faithfulness

            plot_faithfulness(faithfulness, folder / FAITHFULNESS_NAME)
    result = describe_result(
        video.run,
        found,
        folder,
        faithfulness=faithfulness,
        timings_seconds=timings.seconds,
        attempt=1,
        started_at=started_at,
    )
    (folder / RESULT_NAME).write_text(result.model_dump_json(indent=2), encoding="utf-8")
    return result


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
    """Draw the maps that `explain_video` left in `folder` above those of further methods.

    Returns:
        The contact sheet, in `folder`: a row a method.
    Raises:
        RolloutError: the video or the request cannot be used.
    """
    video = _Video.open(path, request, loaded, limits)
    found = archive.load(folder / ARCHIVE_NAME)
    maps: dict[str, NDArray[np.float32]] = {request.method: found.relevance}
    for method in methods:
        if method not in maps:
            run = replace(video.run, request=with_method(request, method))
            maps[method] = _explain(replace(video, run=run), loaded, progress)[0].relevance
    render_comparison(
        path,
        pts_seconds=found.pts_seconds,
        frame_index=found.frame_index,
        relevance=maps,
        crop=video.crop,
        overlay=request.overlay or Overlay(),
        path=folder / COMPARISON_NAME,
        limits=limits,
    )
    return folder / COMPARISON_NAME


@dataclass(frozen=True)
class _Video:
    """A video that was probed, and what will be sampled of it."""

    path: Path
    limits: Limits
    info: VideoInfo
    moments: Plan
    crop: Crop
    run: ResolvedRun

    @classmethod
    def open(
        cls, path: Path, request: ExplainRequest, loaded: LoadedModel, limits: Limits
    ) -> "_Video":
        if request.overlay is not None:
            check_colormap(request.overlay.colormap)
        spec = loaded.spec
        check_request(request, spec)
        info = probe(path, limits)
        moments = plan(info.duration_seconds, request, spec)
        crop = crop_of(info, height=spec.height, width=spec.width)
        run = ResolvedRun.resolve(
            request,
            spec,
            checkpoint_sha256=loaded.sha256,
            crop=crop,
            sampling=moments.sampling,
            start_seconds=moments.start_seconds,
            end_seconds=moments.end_seconds,
            times_seconds=moments.times_seconds.tolist(),
        )
        return cls(path, limits, info, moments, crop, run)


@dataclass
class _Timings:
    """Seconds spent, by name."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began


def _explain(
    video: _Video, loaded: LoadedModel, progress: ProgressCallback
) -> tuple[Archive, Tensor]:
    """Explain clip after clip; also return the last one, `1 c t H W`, as the model saw it."""
    spec, total = loaded.spec, len(video.moments.times_seconds)
    parameter = next(loaded.model.parameters())
    findings = ResultArrays()
    clips = read_clips(
        video.path,
        video.moments,
        video.crop,
        height=spec.height,
        width=spec.width,
        limits=video.limits,
    )
    progress("explain", 0, total)
    for index, clip in enumerate(clips):
        inputs = prepare_clips(
            clip.frames[np.newaxis], spec, device=parameter.device, dtype=parameter.dtype
        )
        explanation = _explain_clip(inputs, index, video.run, loaded)
        findings.add(
            pts_seconds=clip.pts_seconds[np.newaxis],
            frame_index=clip.frame_index[np.newaxis],
            **explanation.arrays(),
        )
        progress("explain", index + 1, total)
    return findings.archive(video.run), inputs


def _explain_clip(clip: Tensor, index: int, run: ResolvedRun, loaded: LoadedModel) -> Explanation:
    """Explain one clip, `1 c t H W`, of a video."""
    request = run.request
    return explain_clips(
        loaded.model,
        clip,
        method=request.method,
        weighting=request.weighting,
        head_fusion=request.head_fusion,
        discard_ratio=request.discard_ratio,
        start_layer=request.start_layer,
        layer=request.layer,
        target=explained_class(request, run.spec),
        queries=run.queries,
        first_clip=index,
        per_layer=request.per_layer,
        full_rollout=request.full_rollout,
    )


def _measure(
    run: ResolvedRun, found: Archive, clip: Tensor, loaded: LoadedModel, progress: ProgressCallback
) -> Faithfulness:
    """Measure how faithful the map of the one clip, `1 c t H W`, is."""
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


def _render(video: _Video, found: Archive, folder: Path, progress: ProgressCallback) -> None:
    render(
        video.path,
        pts_seconds=found.pts_seconds,
        frame_index=found.frame_index,
        relevance=found.relevance,
        crop=video.crop,
        overlay=video.run.request.overlay,
        folder=folder,
        limits=video.limits,
        frames=video.info.frames,
        progress=lambda done, total: progress("render", done, total),
    )
