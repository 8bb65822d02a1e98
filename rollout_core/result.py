"""Builds a result: from the arrays of each clip to the archive and to `result.json`."""

from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollout_core.archive import Archive, describe_run
from rollout_core.contract import (
    ARCHIVE_NAME,
    FAITHFULNESS_NAME,
    MAX_CAPTION_CHARACTERS,
    OVERLAY_NAME,
    PREDICTED,
    PREVIEW_NAME,
    SHEET_NAME,
    THUMBNAILS_NAME,
    Caption,
    ClipRequest,
    ExplainRequest,
    ExplainResult,
    Faithfulness,
    Precision,
    Prediction,
    SourceVideo,
    Target,
    ThumbnailSheet,
    VideoWarning,
    describe,
)
from rollout_core.model.specs import ModelSpec
from rollout_core.query_text import CLS
from rollout_core.resolve import ResolvedRun, class_choice
from rollout_core.timings import Timings

DECIMALS = 4
"""Decimals of numbers in `result.json`. The archive has the full precision."""

TOP_PREDICTIONS = 5

TILE_HEIGHT, MAX_TILE_WIDTH = 90, 200
TILE_COLUMNS, MAX_TILES = 16, 256


class ResultArrays:
    """Collects the arrays of each clip, in the order of the clips. Does not keep frames."""

    def __init__(self) -> None:
        self._parts: defaultdict[str, list[NDArray[Any]]] = defaultdict(list)

    def add(self, **arrays: NDArray[Any]) -> None:
        """Add the arrays of the next clips.

        Args:
            arrays: by name, with the clips as first axis: `pts_seconds` and `frame_index`, `b t`,
                and the arrays of an `Explanation`.
        """
        for name, array in arrays.items():
            self._parts[name].append(array)

    def archive(self, run: ResolvedRun) -> Archive:
        """Return the archive: the arrays of all clips, and their metadata."""
        found = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        query_relevance = found.pop("query_relevance").swapaxes(0, 1)  # query clip t h w
        relevance = query_relevance[0]  # clip t h w
        arrays = found | {
            "relevance": relevance,
            "frame_relevance": frame_shares(relevance),
            "crop_xywh": np.array(run.crop, np.int64),
        }
        if len(query_relevance) > 1:
            arrays["query_relevance"] = query_relevance
        for name in ("target_relevance", "target_classes"):
            of_targets = arrays.pop(name, np.empty((0, 1))).swapaxes(0, 1)  # target clip ...
            if len(of_targets) > 1:
                arrays[name] = of_targets
        return Archive(**arrays, meta=describe_run(run, arrays))


def describe_result(
    run: ResolvedRun,
    found: Archive,
    folder: Path | None,
    *,
    source: SourceVideo,
    warnings: tuple[VideoWarning, ...] = (),
    faithfulness: Faithfulness | None = None,
    timings: Timings,
    attempt: int,
    started_at: datetime,
    precision: Precision | None = None,
    ended_at: datetime | None = None,
) -> ExplainResult:
    """Return the content of `result.json`.

    Args:
        folder: contains all other files of the result, complete. None: there are no files.
        timings: of all stages; the present one is counted until the files are read.
        precision: of the model, if it is one that has a name.
        ended_at: default: now.
    """
    shares = found.frame_relevance.astype(np.float64).round(DECIMALS)
    return ExplainResult(
        model=run.spec.name,
        checkpoint_sha256=run.checkpoint_sha256,
        precision=precision,
        request=run.resolved_request,
        predictions=top_predictions(found.logits, run.spec),
        clips=len(found.logits),
        frames=found.pts_seconds.size,
        targets=None if found.targets is None else _classes(found.targets, run.spec),
        target_classes=None
        if found.target_classes is None
        else tuple(_classes(indices, run.spec) for indices in found.target_classes),
        queries=run.queries,
        frame_relevance=tuple(map(tuple, shares.tolist())),
        faithfulness=faithfulness,
        source=source,
        thumbnails=thumbnail_sheet(run.request, found, source),
        warnings=warnings,
        artifacts=tuple(
            describe(folder / name) for name in artifact_names(run.request) if folder is not None
        ),
        timings_seconds={n: round(each, DECIMALS) for n, each in timings.with_total().items()},
        attempt=attempt,
        started_at=started_at,
        ended_at=ended_at or datetime.now(UTC),
    )


def artifact_names(request: ExplainRequest) -> list[str]:
    """Return the names of all files of a result except `result.json`."""
    made = {
        ARCHIVE_NAME: True,
        OVERLAY_NAME: request.overlay is not None,
        SHEET_NAME: True,
        PREVIEW_NAME: request.preview,
        THUMBNAILS_NAME: request.preview,
        FAITHFULNESS_NAME: request.faithfulness,
    }
    return [name for name, is_made in made.items() if is_made]


def thumbnail_sheet(
    request: ExplainRequest, found: Archive, source: SourceVideo
) -> ThumbnailSheet | None:
    """Return the tiles of the thumbnails, one for each distinct sampled frame, in time order.

    Of more than `MAX_TILES` frames, evenly spaced ones are chosen. None without a preview.
    """
    if not request.preview:
        return None
    indices = np.unique(found.frame_index)
    count = min(len(indices), MAX_TILES)
    chosen = indices[np.rint(np.linspace(0, len(indices) - 1, count)).astype(int)]
    width = 2 * round(TILE_HEIGHT * source.width / source.height / 2)
    return ThumbnailSheet(
        tile_width=min(max(2, width), MAX_TILE_WIDTH),
        tile_height=TILE_HEIGHT,
        columns=min(TILE_COLUMNS, count),
        frame_index=tuple(chosen.tolist()),
    )


def caption_of(
    run: ResolvedRun, found: Archive, frame_size: tuple[int, int], *, has_method: bool = True
) -> Caption:
    """Return what stands above the pictures: the prediction, and how it is explained.

    Args:
        frame_size: width and height of the displayed frame.
        has_method: whether the pictures show one method.
    """
    best = top_predictions(found.logits, run.spec)[0]
    parts = [run.spec.name]
    if has_method:
        explained = () if found.targets is None else _classes(found.targets, run.spec)
        classes = dict.fromkeys(target.label for target in explained)
        of_classes = f" of {', '.join(classes)}" if classes else ""
        parts.append(run.request.method + of_classes)
    else:
        parts.append("each row of maps is another method's")
    if run.queries[0] != CLS:
        parts.append("for one patch")
    seen = run.crop[2:]
    if seen != frame_size:
        parts.append("the model sees {} by {} of {} by {} pixels".format(*seen, *frame_size))
    return Caption(
        title=f"{best.label}, {100 * best.probability:.0f} %",
        detail=" · ".join(parts)[:MAX_CAPTION_CHARACTERS],
    )


def target_of(target: int | str, spec: ModelSpec) -> Target:
    """Return the class with this index or label.

    Raises:
        InvalidRequest: the model has no such class.
    """
    index = spec.class_index(target)
    return Target(label=spec.label(index), index=index)


def target_to_follow(request: ClipRequest, logits: np.ndarray, spec: ModelSpec) -> Target:
    """Return the first requested class, or by default that predicted from `logits`, `clip k`.

    Raises:
        InvalidRequest: the model has no such class.
    """
    asked = class_choice(request.targets[0], spec) if request.targets else PREDICTED
    return target_of(top_predictions(logits, spec)[0].index if asked == PREDICTED else asked, spec)


def top_predictions(
    logits: np.ndarray, spec: ModelSpec, count: int = TOP_PREDICTIONS
) -> tuple[Prediction, ...]:
    """Return the `count` most probable classes, with probabilities averaged over the clips.

    Args:
        logits: `clip k`.
    """
    scores = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probability = (scores / scores.sum(axis=-1, keepdims=True)).mean(axis=0)
    best = np.argsort(-probability, kind="stable")[:count]
    return tuple(
        Prediction(label=spec.label(int(k)), index=int(k), probability=float(probability[k]))
        for k in best
    )


def frame_shares(relevance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each frame's share of its clip's relevance, `clip t`, from `clip t h w`.

    Negative relevance counts as 0. A clip without relevance gets shares of 0.
    """
    frames = relevance.clip(min=0).sum(axis=(2, 3), dtype=np.float64)
    totals = frames.sum(axis=1, keepdims=True)
    return np.asarray(frames / np.where(totals > 0, totals, 1), np.float32)


def _classes(indices: NDArray[np.int64], spec: ModelSpec) -> tuple[Target, ...]:
    return tuple(target_of(int(index), spec) for index in indices)
