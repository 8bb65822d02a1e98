"""How the release before the version field read what is stored: a frozen copy of its models.

Only what it refuses matters here: it knew these fields and no others.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Overlay(Strict):
    colormap: str = "turbo"
    opacity: float = 0.6
    layout: str = "overlay"


class ExplainRequest(Strict):
    model: str | None = None
    method: str = "rollout"
    weighting: str = "projection"
    head_fusion: str = "mean"
    discard_ratio: float = 0.0
    start_layer: int = 0
    layer: int | None = None
    target: int | str | None = None
    query: object = "cls"
    clips: str = "one"
    sampling: str | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    per_layer: bool = False
    full_rollout: bool = False
    faithfulness: bool = False
    overlay: Overlay | None = Overlay()


class Ticket(Strict):
    id: str
    request: ExplainRequest
    created_at: datetime
    upload_bytes: int
    owner: str | None = None


class JobError(Strict):
    code: str
    title: str
    detail: str


class Ended(Strict):
    state: Literal["failed", "canceled"]
    attempt: int
    started_at: datetime | None
    ended_at: datetime
    error: JobError | None = None


class Progress(Strict):
    stage: str
    done: int
    total: int


class JobRecord(Strict):
    attempt: int = 0
    started_at: datetime | None = None
    lease_until: datetime | None = None
    progress: Progress | None = None
    cancel_requested: bool = False
    over: bool = False
