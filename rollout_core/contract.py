"""What service and worker say to each other: the JSON that crosses the queue, and its names.

Everything is frozen, and refuses fields it does not know. Times are RFC 3339 in UTC.
"""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rollout_core.specs import ModelSpec, Sampling

HeadFusion = Literal["mean", "max", "min"]
Layout = Literal["overlay", "side_by_side"]
Stage = Literal["decode", "explain", "render", "publish"]

ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
JobId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

TASK = "worker.task.explain"
"""Import path of the function that a worker runs for a job; its one argument is the job's id."""

WORKERS_KEY = "rollout:workers"
"""A Redis hash: name of a worker → its last `Announcement`."""

KNOWN_SECONDS = 24 * 3600
"""How long a model stays known after the last beat of a worker that serves it."""

LIVE_SECONDS = 15
"""How long after its last beat a worker counts as alive."""

RESULT_NAME = "result.json"
ARCHIVE_NAME = "rollout.npz"
OVERLAY_NAME = "overlay.mp4"
SHEET_NAME = "sheet.png"


def queue_name(model: str) -> str:
    """Return the name of the one queue on which `model`'s workers listen."""
    return f"rollout-{model}"


def job_key(job_id: str) -> str:
    """Return the Redis key of a job's `JobRecord`."""
    return f"rollout:job:{job_id}"


class Frozen(BaseModel):
    """Base of every message: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Overlay(Frozen):
    """How the overlay video looks."""

    colormap: str = Field(
        "turbo", max_length=64, description="Name of a colormap, as in matplotlib."
    )
    opacity: float = Field(0.6, ge=0, le=1, description="Of the heat map where it is hottest.")
    layout: Layout = "overlay"


class ExplainRequest(Frozen):
    """What to explain of a video, and how. Every field has a default."""

    model: ModelName | None = Field(None, description="Default: the service's default model.")
    method: Literal["rollout"] = "rollout"
    head_fusion: HeadFusion = Field("mean", description="How the heads of a layer become one map.")
    discard_ratio: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the smallest attention entries to drop in each layer.",
    )
    start_layer: int = Field(0, ge=0, description="First layer that takes part in the rollout.")
    sampling: Sampling | None = Field(None, description="Default: as the model was trained.")
    clips: Literal["one", "tile"] = Field(
        "one", description="One clip, or consecutive clips that cover the whole span."
    )
    start_seconds: Seconds | None = Field(
        None, description="Start of the span; default: the video's."
    )
    end_seconds: Seconds | None = Field(
        None, description="End of the span, exclusive; default: the video's."
    )
    overlay: Overlay | None = Field(Overlay(), description="null: make no overlay video.")

    @model_validator(mode="after")
    def _check_span(self) -> Self:
        start = self.start_seconds or 0
        if self.end_seconds is not None and self.end_seconds <= start:
            raise ValueError("end_seconds must be greater than start_seconds")
        return self


class Progress(Frozen):
    """How far an attempt is: `done` of `total` steps of its present stage."""

    stage: Stage
    done: int = Field(ge=0)
    total: int = Field(ge=0)


class Prediction(Frozen):
    """One class and the probability that the model gives it, averaged over clips."""

    label: str
    index: int = Field(ge=0)
    probability: float = Field(ge=0, le=1)


class Artifact(Frozen):
    """One file of a result."""

    name: str
    bytes: int = Field(ge=0)
    sha256: str


class ExplainResult(Frozen):
    """The answer, as `result.json` holds it."""

    model: str
    checkpoint_sha256: str | None = Field(description="None for a model without a checkpoint.")
    request: ExplainRequest = Field(description="With every default filled in.")
    predictions: tuple[Prediction, ...] = Field(description="Most probable first, at most five.")
    clips: int
    frames: int = Field(description="Sampled frames, all clips together.")
    artifacts: tuple[Artifact, ...] = Field(description="Every other file of the result.")
    timings_seconds: dict[str, float] = Field(description="Seconds spent in each stage.")
    attempt: int
    started_at: datetime
    ended_at: datetime


class JobError(Frozen):
    """Why a job failed."""

    code: str
    title: str
    detail: str


class Ticket(Frozen):
    """What is fixed about a job when it is accepted; `job.json` in its folder."""

    id: JobId
    request: ExplainRequest = Field(description="With its model filled in.")
    created_at: datetime
    upload_bytes: int


class Announcement(Frozen):
    """What a worker says of itself at every beat."""

    model: ModelSpec
    checkpoint_sha256: str | None
    engine: Literal["torch", "fake"]
    device: str
    ready: bool = Field(description="False while its engine is loading.")
    seconds_per_job: float | None = Field(None, description="Mean of its latest jobs.")
    beat_at: datetime
