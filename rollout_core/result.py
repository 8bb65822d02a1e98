"""Builds a result: from the arrays of each clip to the archive and to `result.json`."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollout_core.archive import Archive, describe_run
from rollout_core.contract import (
    ARCHIVE_NAME,
    FAITHFULNESS_NAME,
    OVERLAY_NAME,
    SHEET_NAME,
    ClipRequest,
    ExplainRequest,
    ExplainResult,
    Faithfulness,
    Prediction,
    SourceVideo,
    Target,
    VideoWarning,
    describe,
)
from rollout_core.model.specs import ModelSpec
from rollout_core.resolve import ResolvedRun

DECIMALS = 4
"""Decimals of numbers in `result.json`. The archive has the full precision."""

TOP_PREDICTIONS = 5


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
        return Archive(**arrays, meta=describe_run(run, arrays))


def describe_result(
    run: ResolvedRun,
    found: Archive,
    folder: Path | None,
    *,
    source: SourceVideo,
    warnings: tuple[VideoWarning, ...] = (),
    faithfulness: Faithfulness | None = None,
    timings_seconds: Mapping[str, float],
    attempt: int,
    started_at: datetime,
    ended_at: datetime | None = None,
) -> ExplainResult:
    """Return the content of `result.json`.

    Args:
        folder: contains all other files of the result, complete. None: there are no files.
        ended_at: default: now.
    """
    shares = found.frame_relevance.astype(np.float64).round(DECIMALS)
    return ExplainResult(
        model=run.spec.name,
        checkpoint_sha256=run.checkpoint_sha256,
        request=run.resolved_request,
        predictions=top_predictions(found.logits, run.spec),
        clips=len(found.logits),
        frames=found.pts_seconds.size,
        targets=_targets(found, run.spec),
        queries=run.queries,
        frame_relevance=tuple(map(tuple, shares.tolist())),
        faithfulness=faithfulness,
        source=source,
        warnings=warnings,
        artifacts=tuple(
            describe(folder / name) for name in artifact_names(run.request) if folder is not None
        ),
        timings_seconds={n: round(seconds, DECIMALS) for n, seconds in timings_seconds.items()},
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
        FAITHFULNESS_NAME: request.faithfulness,
    }
    return [name for name, is_made in made.items() if is_made]


def target_of(target: int | str, spec: ModelSpec) -> Target:
    """Return the class with this index or label.

    Raises:
        InvalidRequest: the model has no such class.
    """
    index = spec.class_index(target)
    return Target(label=spec.label(index), index=index)


def target_to_follow(request: ClipRequest, logits: np.ndarray, spec: ModelSpec) -> Target:
    """Return the requested class, or by default the class predicted from `logits`, `clip k`."""
    asked = request.target
    return target_of(top_predictions(logits, spec)[0].index if asked is None else asked, spec)


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

    A clip without relevance gets shares of 0.
    """
    frames = relevance.sum(axis=(2, 3), dtype=np.float64)
    totals = frames.sum(axis=1, keepdims=True)
    return np.asarray(frames / np.where(totals > 0, totals, 1), np.float32)


def _targets(found: Archive, spec: ModelSpec) -> tuple[Target, ...] | None:
    if found.targets is None:
        return None
    return tuple(target_of(int(index), spec) for index in found.targets)
