"""From what was found clip by clip to the result that is stored: numbers first, then words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollout_core.archive import Archive, Run, describe_run
from rollout_core.contract import (
    ARCHIVE_NAME,
    OVERLAY_NAME,
    SHEET_NAME,
    ExplainResult,
)
from rollout_core.predictions import top_predictions
from rollout_core.storage import describe


@dataclass
class Findings:
    """What was found of each clip so far, in the clips' order. Frames are not kept."""

    pts_seconds: list[NDArray[Any]] = field(default_factory=list)
    frame_index: list[NDArray[Any]] = field(default_factory=list)
    relevance: list[NDArray[Any]] = field(default_factory=list)
    logits: list[NDArray[Any]] = field(default_factory=list)

    def archive(self, run: Run) -> Archive:
        """Put together what was found, and what tells how."""
        return Archive(
            relevance=np.concatenate(self.relevance),  # clip t h w
            pts_seconds=np.stack(self.pts_seconds),  # clip t
            frame_index=np.stack(self.frame_index),  # clip t
            crop_xywh=np.array(run.crop, np.int64),
            logits=np.concatenate(self.logits),  # clip k
            meta=describe_run(run),
        )


def describe_result(
    run: Run,
    found: Archive,
    folder: Path,
    *,
    timings_seconds: Mapping[str, float],
    attempt: int,
    started_at: datetime,
) -> ExplainResult:
    """Return the result whose files, all but `result.json`, lie finished in `folder`."""
    names = [ARCHIVE_NAME, *([OVERLAY_NAME] if run.request.overlay else []), SHEET_NAME]
    return ExplainResult(
        model=run.spec.name,
        checkpoint_sha256=run.checkpoint_sha256,
        request=run.resolved_request,
        predictions=top_predictions(found.logits, run.spec),
        clips=len(found.logits),
        frames=found.pts_seconds.size,
        artifacts=tuple(describe(folder / name) for name in names),
        timings_seconds={name: round(seconds, 4) for name, seconds in timings_seconds.items()},
        attempt=attempt,
        started_at=started_at,
        ended_at=datetime.now(UTC),
    )
