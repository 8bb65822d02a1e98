"""The environment variables of all parts, so that a misspelt one is told instead of ignored.

The parts share environments: the standalone service and its worker, or all that one shell starts.
So each of them must know the names of the others, which it cannot import. A test compares these
names with the settings.
"""

from collections.abc import Iterable, Iterator

from rollout_core.suggestions import nearest

ENV_PREFIX = "ROLLOUT_"
"""Prefix of the environment variables; each one sets the same value as its flag."""

SERVICE = (
    *("allowed_hosts", "api_keys_file", "cors_origins", "data_dir", "default_model", "device"),
    *("downloads", "drain_seconds", "engine", "host", "log_format", "log_level"),
    *(
        "max_array_bytes",
        "max_connections",
        "max_connections_per_address",
        "max_queued",
        "max_store_bytes",
    ),
    *("max_upload_bytes", "metrics_address", "model", "page", "port", "private_hosts"),
    *("redis_password_file", "redis_url", "result_ttl", "root_path", "session_ttl", "standalone"),
    *("store", "trusted_proxies", "unix_socket"),
    *("upload_idle_seconds", "upload_ttl", "video_url_hosts", "webhook_hosts"),
    "webhook_secret_file",
)
WORKER = (
    *("batch_clips", "channel_order", "checkpoint_sha256", "data_dir", "device", "drain_seconds"),
    *("dtype", "engine", "engine_load_seconds", "engine_timeout_seconds", "job_deadline_seconds"),
    *("labels", "log_format", "log_level", "max_array_bytes", "max_attempts", "max_forwards"),
    *("max_video_pixels", "max_video_seconds", "mean", "media_timeout_seconds", "model"),
    *("redis_password_file", "redis_url", "require_confinement", "share_gpu", "std", "store"),
    "stride",
)
EXPLAIN = (
    *("against", "allow_incomplete", "channel_order", "clips", "compare", "device"),
    *("discard_ratio", "dtype", "end_seconds", "faithfulness", "full_rollout", "head_fusion"),
    *("labels", "layer", "mean", "method", "model", "no_overlay", "output", "overlay"),
    *("per_layer", "preview", "query", "reference", "sampling", "start_layer", "start_seconds"),
    *("std", "stream", "stride", "target", "video", "weighting"),
)
CLIENT = ("api_key", "other_api_key", "url")
COMPOSE = (
    *("api_keys", "api_memory", "base_image", "checkpoints", "fake_model", "fake_worker_memory"),
    *("publish", "redis_image", "redis_maxmemory", "redis_memory", "revision", "source"),
    *("stop_grace", "torch_index", "webhook_secrets", "worker_memory"),
)
"""Of docker-compose.yml and docker-compose.cpu.yml."""

SETTINGS = frozenset((*SERVICE, *WORKER))
"""Names of the settings of the service and of its workers, without the prefix."""

KNOWN = frozenset((*SETTINGS, *EXPLAIN, *CLIENT, *COMPOSE))


def is_setting(variable: str) -> bool:
    """Return whether a variable is a setting of the service or of its workers."""
    name = variable.upper()
    return name.startswith(ENV_PREFIX) and name.removeprefix(ENV_PREFIX).lower() in SETTINGS


def unknown_variables(variables: Iterable[str], settings: Iterable[str]) -> Iterator[str]:
    """Yield a text for each of the variables with our prefix that no part knows.

    Args:
        settings: names of the settings of this command, without the prefix.
    """
    known = {*KNOWN, *settings}
    for variable in sorted(variables):
        name = variable.upper()
        if name.startswith(ENV_PREFIX) and name.removeprefix(ENV_PREFIX).lower() not in known:
            yield name_setting(variable, sorted(known))


def name_setting(variable: str, settings: Iterable[str]) -> str:
    """Return that there is no such setting, and which is the nearest one."""
    found = nearest(variable.upper().removeprefix(ENV_PREFIX), (name.upper() for name in settings))
    hint = f"; did you mean {ENV_PREFIX}{found[0]}?" if found else ""
    return f"there is no setting {variable}{hint}"
