"""What can be set about a worker: by flags, or by environment variables of the same names."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_MODELS = {"torch": "moving-shapes", "fake": "fake"}


class Settings(BaseSettings):
    """A worker: takes jobs for one model from Redis and explains videos."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_prefix="ROLLOUT_",
        cli_prog_name="rollout-worker",
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )

    engine: Literal["torch", "fake"] = Field("torch", description="fake needs no torch.")
    model: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}(=.+)?$",
        description="NAME or NAME=CHECKPOINT; default: moving-shapes, or fake.",
    )
    checkpoint_sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="Of the only checkpoint that may be loaded."
    )
    device: str = Field("auto", description="auto takes the GPU if there is one.")
    dtype: Literal["float32", "bfloat16"] = "float32"
    redis_url: str = "redis://127.0.0.1:6379/0"
    data_dir: Path = Field(Path("rollout-data"), description="The store; shared with the service.")
    max_attempts: int = Field(3, ge=1, description="How often a job is tried.")
    job_deadline_seconds: float = Field(900, gt=0, description="How long an attempt may take.")
    batch_clips: int | None = Field(
        None, ge=1, le=64, description="Clips explained at once; default: 8 on CUDA, else 1."
    )
    engine_timeout_seconds: float | None = Field(
        None, gt=0, description="How long a clip may take; default: 20 times the warm-up's."
    )
    media_timeout_seconds: float = Field(10, gt=0, description="How long decoding may be silent.")
    drain_seconds: float = Field(
        60, ge=0, description="How long a running job may go on when the worker is stopped."
    )
    engine_load_seconds: float = Field(600, gt=0, description="How long loading may take.")
    max_video_seconds: float = Field(600, gt=0)
    max_video_pixels: int = Field(4096 * 2304, gt=0, description="Of one frame.")
    require_confinement: bool = Field(
        False, description="Refuse to start where decoding cannot be confined wholly."
    )

    @property
    def model_name(self) -> str:
        """Name of the model that this worker serves."""
        return self._model.partition("=")[0]

    @property
    def checkpoint(self) -> str | None:
        """File, folder or hub id to load it from, if one was given."""
        return self._model.partition("=")[2] or None

    @property
    def _model(self) -> str:
        return self.model or DEFAULT_MODELS[self.engine]
