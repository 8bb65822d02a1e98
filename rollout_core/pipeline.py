"""A whole video explained in this process, with no server: from a path to a folder of results."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from rollout_core import archive
from rollout_core.archive import Archive, Run
from rollout_core.checkpoints import LoadedModel
from rollout_core.colormap import check_colormap
from rollout_core.contract import (
    ARCHIVE_NAME,
    RESULT_NAME,
    ExplainRequest,
    ExplainResult,
    Stage,
)
from rollout_core.decoder import Limits
from rollout_core.explain import Explanation, explain_clips, prepare_clips
from rollout_core.render import render
from rollout_core.results import Findings, describe_result
from rollout_core.sampling import Plan, plan
from rollout_core.video import Crop, VideoInfo, crop_of, probe, read_clips

UNLIMITED = Limits(max_seconds=float("inf"), max_pixels=1 << 28, max_frames=1 << 40)
"""For a person's own video on their own machine."""

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
        found = _explain(video, loaded, progress)
    folder.mkdir(parents=True, exist_ok=True)
    archive.save(folder / ARCHIVE_NAME, found)
    with timings.measure("render"):
        _render(video, found, folder, progress)
    result = describe_result(
        video.run,
        found,
        folder,
        timings_seconds=timings.seconds,
        attempt=1,
        started_at=started_at,
    )
    (folder / RESULT_NAME).write_text(result.model_dump_json(indent=2), encoding="utf-8")
    return result


@dataclass(frozen=True)
class _Video:
    """A video that was probed, and what will be sampled of it."""

    path: Path
    limits: Limits
    info: VideoInfo
    moments: Plan
    crop: Crop
    run: Run

    @classmethod
    def open(
        cls, path: Path, request: ExplainRequest, loaded: LoadedModel, limits: Limits
    ) -> "_Video":
        if request.overlay is not None:
            check_colormap(request.overlay.colormap)
        spec = loaded.spec
        info = probe(path, limits)
        moments = plan(info.duration_seconds, request, spec)
        crop = crop_of(info, height=spec.height, width=spec.width)
        run = Run(
            spec=spec,
            checkpoint_sha256=loaded.sha256,
            request=request,
            crop=crop,
            sampling=moments.sampling,
            start_seconds=moments.start_seconds,
            end_seconds=moments.end_seconds,
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


def _explain(video: _Video, loaded: LoadedModel, progress: ProgressCallback) -> Archive:
    """Explain clip after clip."""
    spec, total = loaded.spec, len(video.moments.times_seconds)
    findings = Findings()
    clips = read_clips(
        video.path,
        video.moments,
        video.crop,
        height=spec.height,
        width=spec.width,
        limits=video.limits,
    )
    progress("explain", 0, total)
    for done, clip in enumerate(clips, start=1):
        explanation = _explain_frames(clip.frames, video.run.request, loaded)
        findings.relevance.append(explanation.relevance.numpy())
        findings.logits.append(explanation.logits.numpy())
        findings.pts_seconds.append(clip.pts_seconds)
        findings.frame_index.append(clip.frame_index)
        progress("explain", done, total)
    return findings.archive(video.run)


def _explain_frames(
    frames: np.ndarray, request: ExplainRequest, loaded: LoadedModel
) -> Explanation:
    """Explain one clip's frames, `t H W c`, where the model is and in its dtype."""
    parameter = next(loaded.model.parameters())
    clips = prepare_clips(
        frames[np.newaxis], loaded.spec, device=parameter.device, dtype=parameter.dtype
    )
    return explain_clips(
        loaded.model,
        clips,
        head_fusion=request.head_fusion,
        discard_ratio=request.discard_ratio,
        start_layer=request.start_layer,
    )


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
