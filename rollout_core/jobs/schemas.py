"""The JSON of every answer of the HTTP API that is not an error.

The service writes it and the clients of this package read it.
"""

from datetime import datetime
from typing import Literal

from pydantic import Field

from rollout_core.contract import (
    TIMINGS_DESCRIPTION,
    Artifact,
    ExplainRequest,
    Frozen,
    Precision,
    Prediction,
    Priority,
    SourceVideo,
    UploadId,
    VideoWarning,
    WebhookEvent,
)
from rollout_core.jobs.records import JobError, JobId, JobState, Progress
from rollout_core.model.specs import ModelSpec

WaitingFor = Literal["turn", "worker", "store"]
UploadState = Literal["receiving", "complete"]
DeliveryState = Literal["pending", "delivered", "failed"]


class JobArtifact(Artifact):
    """One file of a result, and its URL."""

    url: str = Field(description="A path on this service.")


class JobResult(Frozen):
    """The result of a job that has succeeded."""

    predictions: tuple[Prediction, ...] = Field(description="Most probable first.")
    clips: int
    frames: int = Field(description="Sampled frames of all clips together.")
    artifacts: tuple[JobArtifact, ...] = Field(description="Empty once they have expired.")
    timings_seconds: dict[str, float] = Field(description=TIMINGS_DESCRIPTION)
    source: SourceVideo | None = Field(description="The video, as decoded.")
    warnings: tuple[VideoWarning, ...] = Field(description="What a reader should know of it.")


class Upload(Frozen):
    """A video that was uploaded, or that still arrives."""

    id: UploadId
    state: UploadState
    filename: str | None = Field(description="As the client named it.")
    bytes: int | None = Field(description="Size of the file; null while it is not known.")
    received_bytes: int = Field(description="Bytes that have arrived.")
    sha256: str | None = Field(description="null until all bytes have arrived.")
    created_at: datetime
    expires_at: datetime = Field(
        description="The bytes are removed then, unless a job made from them lives longer."
    )


class UploadPage(Frozen):
    """One page of uploads, newest first."""

    uploads: tuple[Upload, ...]
    next_cursor: str | None = Field(description="For the next page; null on the last one.")


class Job(Frozen):
    """A job as it is now."""

    id: JobId
    state: JobState
    model: str
    tag: str | None = Field(description="As the client set it.")
    priority: Priority = Field("normal", description="As the client set it.")
    upload: UploadId | None = Field(
        description="The upload that it explains, for further jobs; null once that is gone."
    )
    filename: str | None = Field(description="Name of the video, as the client named it.")
    reused_from: JobId | None = Field(description="The job whose result this one has, if any.")
    created_at: datetime
    expires_at: datetime | None = Field(
        description="When its files will be removed; null if it has no files any more."
    )
    started_at: datetime | None = Field(description="Start of the latest attempt.")
    ended_at: datetime | None
    attempt: int = Field(description="Number of attempts started.")
    queue_position: int | None = Field(description="1 is next; null unless the job is waiting.")
    waiting_for: WaitingFor | None = Field(
        description="worker: no live worker serves the model. store: its workers pause until "
        "the store can be written. null unless the job is waiting."
    )
    progress: Progress | None
    request: ExplainRequest = Field(description="With its model filled in.")
    result: JobResult | None
    error: JobError | None


class JobPage(Frozen):
    """One page of jobs, newest first."""

    jobs: tuple[Job, ...]
    next_cursor: str | None = Field(description="For the next page; null on the last one.")


class JobEvent(Frozen):
    """What a webhook receives at the end of a job."""

    type: WebhookEvent
    timestamp: datetime = Field(description="When the job ended.")
    data: Job = Field(description="The job, as it was when this was sent.")


class DeliveryAttempt(Frozen):
    """One attempt to deliver an event."""

    at: datetime
    status: int | None = Field(description="Of the answer; null if there was none.")
    error: str | None = Field(description="Why there was no answer.")
    duration_seconds: float


class Delivery(Frozen):
    """An event for a webhook, and the attempts to deliver it."""

    webhook_id: str = Field(description="Value of the header webhook-id, equal in all attempts.")
    event: WebhookEvent
    url: str
    state: DeliveryState
    attempts: tuple[DeliveryAttempt, ...] = Field(description="Oldest first.")
    next_attempt_at: datetime | None = Field(
        description="null before the first attempt and after the last."
    )


class DeliveryList(Frozen):
    """The events for the webhook of a job; empty until it has ended."""

    deliveries: tuple[Delivery, ...]


class ServedModel(Frozen):
    """A model that live workers serve now."""

    name: str
    spec: ModelSpec
    checkpoint_sha256: str | None
    checkpoints_differ: bool = Field(
        description="Workers serve different checkpoints under this name; uploads for it are "
        "refused until they agree."
    )
    engines: tuple[str, ...]
    devices: tuple[str, ...]
    precisions: tuple[Precision, ...] = Field(
        (), description="Number formats in which loaded engines compute."
    )
    workers: int = Field(description="Live workers.")
    ready: int = Field(description="Live workers whose engine has loaded.")
    waiting_for: Literal["store"] | None = Field(
        description="store: no worker is ready, and at least one waits for the store."
    )
    seconds_per_job: float | None = Field(
        description="Mean over the live workers' latest jobs, or of a clip before."
    )


class ModelList(Frozen):
    """The models that live workers serve now."""

    models: tuple[ServedModel, ...]


class Session(Frozen):
    """Who calls, and until when the cookie of the browser counts."""

    owner: str | None = Field(description="Name of the API key; null without keys.")
    expires_at: datetime | None = Field(
        description="When the cookie ends; null if the call has an API key, or needs none."
    )
    keys_required: bool = Field(description="Whether the service has API keys.")


class Liveness(Frozen):
    """The process is alive."""

    status: str = "alive"


class Readiness(Frozen):
    """Redis and the store can be written."""

    status: str = "ready"
    workers: dict[str, int] = Field(
        description="Known model → workers that are ready to run a job; with 0, its jobs wait."
    )
