"""Settings of a worker: command-line flags, or `ROLLOUT_` environment variables."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from rollout_core.command import settings_config
from rollout_core.contract import MAX_VIDEO_PIXELS, MAX_VIDEO_SECONDS, PrecisionChoice
from rollout_core.jobs.redis_settings import RedisSettings
from rollout_core.jobs.store_settings import StoreSettings
from rollout_core.logs import DEFAULT_FORMAT, DEFAULT_LEVEL, FormatSetting, LevelSetting
from rollout_core.model.input_settings import InputFlags
from rollout_core.patterns import MODEL, SHA256
from rollout_core.work import DEFAULT_ARRAY_BYTES

DEFAULT_MODELS = {"torch": "moving-things", "fake": "fake"}


class Settings(InputFlags, RedisSettings, StoreSettings, BaseSettings):
    """Take jobs for one model from Redis, and explain their videos."""

    model_config = settings_config("rollout-worker")

    engine: Literal["torch", "fake"] = Field(
        "torch", description="torch runs a model; fake is for tests, needs no torch."
    )
    model: str | None = Field(
        None,
        pattern=MODEL,
        description="NAME or NAME=CHECKPOINT. Default: moving-things; of the fake engine: all.",
    )
    checkpoint_sha256: str | None = Field(
        None, pattern=SHA256, description="SHA-256 that the checkpoint must have."
    )
    device: str = Field(
        "auto",
        description="auto (a free GPU if there is one), cpu, cuda (a free GPU), cuda:NUMBER, or a "
        "UUID or the beginning of one: GPU-…, MIG-….",
    )
    share_gpu: bool = Field(
        False, description="Use a GPU that other workers use, too, if none is free."
    )
    dtype: PrecisionChoice = Field(
        "auto",
        description="Number format of the model; auto: the fastest that agrees with float32.",
    )
    max_attempts: int = Field(3, ge=1, description="Most attempts at a job.")
    job_deadline_seconds: float = Field(900, gt=0, description="Longest duration of an attempt.")
    batch_clips: int | None = Field(
        None, ge=1, le=64, description="Clips in a batch. Default: 8 on CUDA, else 1."
    )
    engine_timeout_seconds: float | None = Field(
        None,
        gt=0,
        description="Timeout of the engine for each clip. Default: 20 times the warm-up's.",
    )
    media_timeout_seconds: float = Field(
        10, gt=0, description="Timeout of the media process for its next sign of life."
    )
    drain_seconds: float = Field(
        60, ge=0, description="Time for the running job to finish after SIGTERM."
    )
    engine_load_seconds: float = Field(600, gt=0, description="Timeout for loading the model.")
    max_video_seconds: float = Field(
        MAX_VIDEO_SECONDS, gt=0, description="Longest video that is accepted."
    )
    max_video_pixels: int = Field(MAX_VIDEO_PIXELS, gt=0, description="Most pixels in a frame.")
    max_array_bytes: int = Field(
        DEFAULT_ARRAY_BYTES, gt=0, description="Most bytes of a result's arrays, uncompressed."
    )
    max_forwards: int | None = Field(
        None, gt=0, description="Most forwards of a job. Default: what its deadline allows."
    )
    require_confinement: bool = Field(
        False, description="Refuse to start unless Landlock and seccomp are both in force."
    )
    log_format: FormatSetting = DEFAULT_FORMAT
    log_level: LevelSetting = DEFAULT_LEVEL

    @property
    def model_name(self) -> str:
        """Name of the model that this worker serves."""
        return self._model.partition("=")[0]

    @property
    def checkpoint(self) -> str | None:
        """File or folder of the model's checkpoint, or its hf:// id; None if none was given."""
        return self._model.partition("=")[2] or None

    @property
    def _model(self) -> str:
        return self.model or DEFAULT_MODELS[self.engine]
