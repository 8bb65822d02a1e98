"""The settings of Redis, which service and workers share."""

from pathlib import Path

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from rollout_core.jobs.redis_url import RedisUrl


class RedisSettings(BaseModel):
    """Where Redis is, and the file of its password."""

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", repr=False, description="URL of the Redis server."
    )
    redis_password_file: Path | None = Field(
        None, description="File of the password of Redis, instead of one in the URL."
    )

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, url: str) -> str:
        RedisUrl.parse(url)
        return url

    @field_validator("redis_password_file")
    @classmethod
    def _check_redis_password_file(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path and "redis_url" in info.data:
            RedisUrl.parse(info.data["redis_url"], path)
        return path

    @property
    def redis(self) -> RedisUrl:
        """Where Redis is, and how to log in."""
        return RedisUrl.parse(self.redis_url, self.redis_password_file)
