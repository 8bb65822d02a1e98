"""A job as one attempt at it sees it."""

from dataclasses import dataclass
from pathlib import Path

from rollout_core.contract import ExplainRequest


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What is to be done, where, and how long it may take.

    Attributes:
        upload: the video.
        folder: of the attempt; every file of the result is made there.
        engine_timeout_seconds: how long the engine may be silent, for each clip it was asked
            about; None for what its warm-up suggests.
        media_timeout_seconds: how long the media process may be silent when it is waited for.
    """

    id: str
    attempt: int
    request: ExplainRequest
    upload: Path
    folder: Path
    deadline_seconds: float
    engine_timeout_seconds: float | None
    media_timeout_seconds: float
