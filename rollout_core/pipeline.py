"""A whole video explained in this process, with no server: from a path to a folder of results."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from rollout_core import archive
from rollout_core.archive import Archive
from rollout_core.checkpoints import LoadedModel
from rollout_core.colormap import check_colormap
from rollout_core.contract import (
    ARCHIVE_NAME,
    OVERLAY_NAME,
    RESULT_NAME,
    SHEET_NAME,
    ExplainRequest,
    ExplainResult,
    Stage,
)
from rollout_core.decoder import Limits
from rollout_core.explain import Explanation, explain_clips, prepare_clips
from rollout_core.predictions import top_predictions
from rollout_core.render import render
from rollout_core.sampling import Plan, plan
from rollout_core.storage import describe
from rollout_core.video import Clip, Crop, crop_of, probe, read_clips

UNLIMITED = Limits(max_seconds=float("inf"), max_pixels=1 << 28, max_frames=1 << 40)
"""For a person's own video on their own machine."""

ProgressCallback = Callable[[Stage, int, int], None]
"""Called with a stage, the steps of it that are done, and how many there are."""


@dataclass
class _Timings:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 4)


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
    if request.overlay is not None:
        check_colormap(request.overlay.colormap)
    started_at, timings, spec = datetime.now(UTC), _Timings(), loaded.spec
    with timings.measure("total"):
        info = probe(path, limits)
        moments = plan(info.duration_seconds, request, spec)
        crop = crop_of(info, height=spec.height, width=spec.width)
        with timings.measure("explain"):
            found = _explain(path, moments, crop, request, loaded, limits, progress)
        folder.mkdir(parents=True, exist_ok=True)
        archive.save(folder / ARCHIVE_NAME, found)
        with timings.measure("render"):
            render(
                path,
                pts_seconds=found.pts_seconds,
                frame_index=found.frame_index,
                relevance=found.relevance,
                crop=crop,
                overlay=request.overlay,
                folder=folder,
                limits=limits,
                progress=lambda done, total: progress("render", done, total),
            )
    names = [ARCHIVE_NAME, *([OVERLAY_NAME] if request.overlay else []), SHEET_NAME]
    chosen = {
        "model": spec.name,
        "sampling": moments.sampling,
        "start_seconds": moments.start_seconds,
        "end_seconds": moments.end_seconds,
    }
    result = ExplainResult(
        model=spec.name,
        checkpoint_sha256=loaded.sha256,
        request=request.model_copy(update=chosen),
        predictions=top_predictions(found.logits, spec),
        clips=len(found.logits),
        frames=found.pts_seconds.size,
        artifacts=tuple(describe(folder / name) for name in names),
        timings_seconds=timings.seconds,
        attempt=1,
        started_at=started_at,
        ended_at=datetime.now(UTC),
    )
    (folder / RESULT_NAME).write_text(result.model_dump_json(indent=2), encoding="utf-8")
    return result


def _explain(
    path: Path,
    moments: Plan,
    crop: Crop,
    request: ExplainRequest,
    loaded: LoadedModel,
    limits: Limits,
    progress: ProgressCallback,
) -> Archive:
    """Explain clip after clip, and put together what was found."""
    spec, total = loaded.spec, len(moments.times_seconds)
    clips: list[Clip] = []
    explanations: list[Explanation] = []
    decoded = read_clips(path, moments, crop, height=spec.height, width=spec.width, limits=limits)
    for clip in decoded:
        progress("explain", len(clips), total)
        explanations.append(_explain_clip(clip, request, loaded))
        clips.append(clip)
    progress("explain", total, total)
    return Archive(
        relevance=np.concatenate([e.relevance.numpy() for e in explanations]),  # clip t h w
        pts_seconds=np.stack([clip.pts_seconds for clip in clips]),  # clip t
        frame_index=np.stack([clip.frame_index for clip in clips]),  # clip t
        crop_xywh=np.array(crop, np.int64),
        logits=np.concatenate([e.logits.numpy() for e in explanations]),  # clip k
        meta=archive.describe_run(
            request,
            spec,
            checkpoint_sha256=loaded.sha256,
            sampling=moments.sampling,
            start_seconds=moments.start_seconds,
            end_seconds=moments.end_seconds,
        ),
    )


def _explain_clip(clip: Clip, request: ExplainRequest, loaded: LoadedModel) -> Explanation:
    parameter = next(loaded.model.parameters())
    frames = clip.frames[np.newaxis]
    clips = prepare_clips(frames, loaded.spec, device=parameter.device, dtype=parameter.dtype)
    return explain_clips(
        loaded.model,
        clips,
        head_fusion=request.head_fusion,
        discard_ratio=request.discard_ratio,
        start_layer=request.start_layer,
    )
