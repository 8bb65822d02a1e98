"""The command `rollout-service`, or `python -m service`."""

import os
import signal
import sys
from contextlib import nullcontext, suppress
from types import FrameType

from rollout_core import logs, tracing
from rollout_core.command import make_files_private, read_settings, require_extra
from rollout_core.errors import RolloutError
from rollout_core.jobs.store import ArtifactStore

with require_extra("rollout-service", "service"):
    from redis.exceptions import RedisError

    from rollout_core.jobs.redis_records import require_store
    from service.app import REDIS_TIMEOUT_SECONDS
    from service.auth import ApiKeys
    from service.metrics_server import require_free
    from service.server import serve
    from service.settings import Settings
    from service.standalone import standalone
    from service.webhook_secrets import WebhookSecrets

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(arguments: list[str] | None = None) -> None:
    """Run the service until SIGINT or SIGTERM."""
    for number in ENDING_SIGNALS:
        signal.signal(number, _exit_once)
    settings = read_settings(Settings, arguments, _prepare_logs)
    make_files_private()
    tracing.configure("rollout-service", os.environ)
    try:
        with logs.telling_exit("rollout-service"):
            _run(settings)
    finally:
        tracing.shut_down()


def _prepare_logs(settings: Settings) -> None:
    logs.configure(settings.log_format, settings.log_level)


def _run(settings: Settings) -> None:
    """Check what the settings name, and serve.

    Raises:
        SystemExit: the service cannot start. The message is one line.
    """
    try:
        store = settings.open_store()
        store.check_writable()
        if settings.api_keys_file:
            ApiKeys(settings.api_keys_file)
        WebhookSecrets(None, settings.webhook_secret_file)
        require_free(settings.metrics_address)
        with standalone(settings) if settings.standalone else nullcontext(settings) as settings:
            _check_store(settings, store)
            serve(settings)
    except (OSError, RolloutError) as error:
        sys.exit(f"rollout-service: cannot start: {error}")


def _check_store(settings: Settings, store: ArtifactStore) -> None:
    """Check that no other service uses this Redis with another store, unless Redis is away.

    Raises:
        OtherStore: one does.
    """
    timeouts = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), REDIS_TIMEOUT_SECONDS)
    with suppress(RedisError), settings.redis.open(**timeouts) as redis:
        require_store(redis, store.identity())


def _exit_once(_: int, __: FrameType | None) -> None:
    """Exit through every `finally`, and ignore further signals meanwhile."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


if __name__ == "__main__":
    main()
