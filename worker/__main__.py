"""The command `rollout-worker`, or `python -m worker`."""

import logging
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from rollout_core.command import (
    UNUSABLE_STATUS,
    make_files_private,
    read_settings,
    require_extra,
    require_modules,
)

with require_extra("rollout-worker", "worker"):
    from rollout_core.errors import OtherStore
    from rollout_core.jobs.redis_records import require_store
    from rollout_core.jobs.store import ArtifactStore
    from worker.children import Children
    from worker.heartbeat import Shutdown
    from worker.messages import Confinement, EngineOptions, MediaOptions
    from worker.redis_jobs import UNREACHABLE, RetryingRecords, connect
    from worker.runner import Exhausted
    from worker.sandbox import probe
    from worker.settings import Settings
    from worker.supervisor import EngineUnusable, NameTaken, Supervisor

REDIS_TIMEOUT_SECONDS = 2.0
"""Timeout of one Redis call, so that a Redis that hangs delays a running job only briefly."""

log = logging.getLogger("worker")


class LineFormatter(logging.Formatter):
    """Writes a message as one line without control characters: a video may have chosen its text."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the message with escapes for every character that is not printable."""
        message = super().formatMessage(record)
        return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in message)


def main() -> None:
    """Serve jobs until SIGINT or SIGTERM."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    settings = read_settings(Settings)
    make_files_private()
    if settings.engine == "torch":
        with require_extra("rollout-worker", "worker"):
            require_modules("torch", "timm", "einops", "safetensors", "huggingface_hub")
    signal.signal(signal.SIGTERM, _leave)
    children = _children(settings, _confinement(settings))
    try:
        _serve(settings, children)
    except EngineUnusable as error:
        print(f"rollout-worker: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(UNUSABLE_STATUS if error.is_lasting else 1)
    except (NameTaken, Exhausted, OSError, OtherStore, *UNREACHABLE) as error:
        sys.exit(f"rollout-worker: {error}")
    finally:
        children.close()


def _serve(settings: Settings, children: Children) -> None:
    """Wait for the engine, then take jobs until SIGINT or SIGTERM."""
    quick = connect(
        settings.redis_url,
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
    )
    shutdown = Shutdown(settings.drain_seconds)
    records = RetryingRecords(quick, shutdown.check_shutdown)
    store = ArtifactStore(settings.data_dir)
    require_store(quick, store.identity())
    supervisor = Supervisor(settings, children, records, store, shutdown)
    try:
        supervisor.await_engine()
        supervisor.require_name()
        log.info("ready: %s on %s", settings.model_name, children.engine.require_model().device)
        supervisor.work(logging_level="WARNING")
        supervisor.check_store()
        if supervisor.exhausted:
            sys.exit(f"rollout-worker: {supervisor.exhausted}")
        if not supervisor.is_shutdown_requested:
            sys.exit("rollout-worker: stopped after an unexpected error; see the log above")
    finally:
        supervisor.announce_end()


def _confinement(settings: Settings) -> Confinement:
    """Return which sandbox layers are in force, and log them.

    Raises:
        SystemExit: a layer is missing, and the settings require all of them.
    """
    found = probe()
    log.info("media is confined: %s", found)
    if settings.require_confinement and not found.complete:
        sys.exit(f"rollout-worker: the media sandbox is incomplete: {found}")
    return found


def _children(settings: Settings, confinement: Confinement) -> Children:
    return Children(
        settings.engine,
        EngineOptions(
            model=settings.model_name,
            checkpoint=settings.checkpoint,
            settings=settings.input_settings,
            checkpoint_sha256=settings.checkpoint_sha256,
            batch_clips=settings.batch_clips,
            device=settings.device,
            dtype=settings.dtype,
        ),
        MediaOptions(
            confinement=confinement,
            cpu_seconds=int(settings.job_deadline_seconds) * (os.cpu_count() or 1),
            max_video_seconds=settings.max_video_seconds,
            max_video_pixels=settings.max_video_pixels,
        ),
        load_seconds=settings.engine_load_seconds,
    )


def _leave(_signum: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
