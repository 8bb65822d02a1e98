"""Settings of the service: environment variables `ROLLOUT_*`, or flags of the same names."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

from rollout_core.command import settings_config
from rollout_core.contract import ModelName
from rollout_core.jobs.redis_settings import RedisSettings
from rollout_core.jobs.store_settings import StoreSettings
from rollout_core.logs import DEFAULT_FORMAT, DEFAULT_LEVEL, FormatSetting, LevelSetting
from rollout_core.patterns import URL_PATH
from rollout_core.work import DEFAULT_ARRAY_BYTES
from service.auth import API_PREFIX
from service.cors import check_origins
from service.metrics_server import parse_address
from service.outbound import Hosts
from service.proxies import TrustedProxies


class Settings(RedisSettings, StoreSettings, BaseSettings):
    """The TimeSformer rollout service: videos in over HTTP, rollouts out.

    Every flag can also be set as an environment variable, such as ROLLOUT_DATA_DIR.
    """

    model_config = settings_config("rollout-service")

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        repr=False,
        description="Redis or Valkey; unused with --standalone.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    unix_socket: Path | None = Field(
        None, description="Unix socket to listen on, instead of host and port."
    )
    root_path: str | None = Field(
        None,
        pattern=URL_PATH,
        description="Path below which a proxy serves it, as /explain.",
    )
    trusted_proxies: str | None = Field(
        None,
        description="Proxies whose X-Forwarded-* is believed: addresses, networks, unix. "
        "Default: none.",
    )
    allowed_hosts: str | None = Field(
        None,
        description="Host names to answer to, besides localhost and addresses; * for all. "
        "Default: with keys all, else none.",
    )
    cors_origins: str | None = Field(
        None,
        description="Origins whose pages may call, as https://a.example; * for all. Default: none.",
    )
    max_upload_bytes: int = Field(512 * 1024**2, ge=1, description="Largest body of an upload.")
    downloads: Literal["api", "redirect"] = Field(
        "api",
        description="How the files of results in a bucket are sent: by the API, or by the bucket, "
        "to which clients are redirected.",
    )
    upload_idle_seconds: float = Field(
        30, gt=0, le=60, description="Time for each 128 KiB of an upload, and for its end."
    )
    video_url_hosts: str | None = Field(
        None,
        description="Hosts of videos that are fetched by URL: media.example.org, .example.org for "
        "all below it, host:8443. Default: none.",
    )
    max_connections: int = Field(
        1000, ge=1, description="Connections at a time. Further ones get 503."
    )
    max_connections_per_address: int | None = Field(
        None, ge=1, description="Connections of one address at a time. Default: half of all."
    )
    drain_seconds: int = Field(30, ge=0, description="Time for transfers to finish after SIGTERM.")
    api_keys_file: Path | None = Field(
        None,
        description="TOML file of API keys. Default: no key is needed.",
    )
    session_ttl: float = Field(
        7 * 24 * 3600,
        ge=60,
        description="Seconds until a browser must send its API key again.",
    )
    page: bool = Field(True, description="Serve the web page at the root path.")
    metrics_address: str | None = Field(
        None,
        description="HOST:PORT at which /metrics is served, without a key. Default: nowhere.",
    )
    max_queued: int = Field(1000, ge=1, description="Jobs that may wait for one model.")
    max_array_bytes: int = Field(
        DEFAULT_ARRAY_BYTES,
        gt=0,
        description="Most bytes of the arrays of a clip, uncompressed.",
    )
    default_model: ModelName | None = Field(
        None, description="Model for requests that name none. Default: the only one."
    )
    result_ttl: float = Field(
        7 * 24 * 3600, gt=0, description="Seconds until the files of an ended job are removed."
    )
    upload_ttl: float = Field(
        24 * 3600,
        gt=0,
        description="Seconds until an upload is removed, unless a job of it has files.",
    )
    max_store_bytes: int | None = Field(
        None, ge=1, description="Most bytes that all jobs and uploads may take. Default: the disk."
    )
    private_hosts: str | None = Field(
        None,
        description="Hosts in private networks that URLs of clients may name: name, .suffix, "
        "either with :port. Default: none.",
    )
    webhook_hosts: str = Field(
        "*", description="Hosts that webhooks may call, listed in the same way; * for all."
    )
    webhook_secret_file: Path | None = Field(
        None, description="File of secrets that sign webhooks, if there is no file of API keys."
    )
    standalone: bool = Field(
        False, description="Also start a private Valkey server and one worker."
    )
    engine: Literal["torch", "fake"] = Field(
        "torch", description="Engine of the standalone worker."
    )
    model: str | None = Field(
        None,
        description="NAME or NAME=CHECKPOINT of the standalone worker. Default: the worker's.",
    )
    device: str = Field("auto", description="Device of the standalone worker; see rollout-worker.")
    log_format: FormatSetting = DEFAULT_FORMAT
    log_level: LevelSetting = DEFAULT_LEVEL

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, path: str | None) -> str | None:
        if f"{path}/".startswith(f"{API_PREFIX}/"):
            raise ValueError(f"{API_PREFIX} is the prefix of the API itself")
        return path

    @field_validator("cors_origins")
    @classmethod
    def _check_cors_origins(cls, origins: str | None) -> str | None:
        check_origins(origins)
        return origins

    @field_validator("trusted_proxies")
    @classmethod
    def _check_trusted_proxies(cls, names: str | None) -> str | None:
        TrustedProxies(names)
        return names

    @field_validator("metrics_address")
    @classmethod
    def _check_metrics_address(cls, address: str | None) -> str | None:
        if address is not None:
            parse_address(address)
        return address

    @field_validator("video_url_hosts", "private_hosts", "webhook_hosts")
    @classmethod
    def _check_hosts(cls, names: str | None) -> str | None:
        Hosts(names)
        return names

    @model_validator(mode="after")
    def _check_store(self) -> Self:
        if self.store is None and self.downloads == "redirect":
            raise ValueError("downloads can be redirected to a bucket only: set store")
        return self

    @property
    def address_limit(self) -> int:
        """Connections that one address may have."""
        return self.max_connections_per_address or max(1, self.max_connections // 2)
