"""The command `rollout-worker`, or `python -m worker`."""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import NoReturn

from rollout_core import logs, tracing
from rollout_core.command import (
    UNUSABLE_STATUS,
    make_files_private,
    read_settings,
    require_extra,
    require_modules,
)

with require_extra("rollout-worker", "worker"):
    from redis import Redis

    from rollout_core.errors import DeviceError, OtherStore, StoreUnavailable
    from rollout_core.jobs.redis_records import announce_waiting, require_store
    from worker import fake_engine
    from worker.children import Children
    from worker.engine_gpu import LOOK_SECONDS, EngineGpu, GpuSearch
    from worker.fake_workers import FakeWorkers
    from worker.gpu_choice import is_of_gpu
    from worker.gpu_claims import GpuClaims
    from worker.gpus import VISIBLE_DEVICES, open_nvml
    from worker.health import place
    from worker.heartbeat import Shutdown
    from worker.lazy_children import LazyChildren
    from worker.messages import Confinement, EngineOptions, MediaOptions
    from worker.redis_jobs import UNREACHABLE, RetryingRecords, connect
    from worker.runner import Exhausted
    from worker.sandbox import probe
    from worker.settings import DEFAULT_MODELS, Settings
    from worker.supervisor import EngineUnusable, NameTaken, Supervisor

REDIS_TIMEOUT_SECONDS = 2.0
"""Timeout of one Redis call, so that a Redis that hangs delays a running job only briefly."""

TORCH_MODULES = ("torch", "timm", "einops", "safetensors", "huggingface_hub", "pynvml")
"""What the real engine needs besides."""

log = logging.getLogger("worker")


def main() -> None:
    """Serve jobs until SIGINT or SIGTERM."""
    settings = read_settings(Settings, prepare=_prepare_logs)
    make_files_private()
    with logs.telling_exit("rollout-worker"):
        _start(settings)


def _prepare_logs(settings: Settings) -> None:
    logs.configure(settings.log_format, settings.log_level)


def _start(settings: Settings) -> None:
    """Run the worker of one model, or those of all fake models."""
    if settings.engine == "torch":
        with require_extra("rollout-worker", "worker"):
            require_modules(*TORCH_MODULES)
    confinement = _confinement(settings)
    if settings.engine == "fake" and settings.model is None:
        sys.exit(FakeWorkers(partial(_run_fake, settings, confinement)).serve())
    _run(settings, partial(_children, settings, confinement))


def _run_fake(settings: Settings, confinement: Confinement, model: str) -> None:
    """Run the worker of one of the fake models; all but the default one sleep until needed."""
    settings = settings.model_copy(update={"model": model})
    is_lazy = model != DEFAULT_MODELS["fake"]
    _run(settings, partial(_children, settings, confinement, is_lazy=is_lazy))


def _run(settings: Settings, start_children: Callable[[], Children]) -> None:
    """Serve jobs of one model until SIGINT or SIGTERM."""
    signal.signal(signal.SIGTERM, _leave)
    tracing.configure("rollout-worker", os.environ)  # after the fork
    try:
        with logs.telling_exit("rollout-worker"):
            _run_children(settings, start_children)
    finally:
        tracing.shut_down()


def _run_children(settings: Settings, start_children: Callable[[], Children]) -> None:
    """Start the children, serve jobs, and close them.

    Raises:
        SystemExit: the worker cannot go on.
    """
    try:
        children = start_children()
        try:
            _serve(settings, children)
        finally:
            children.close()
    except (EngineUnusable, DeviceError) as error:
        logs.tell("rollout-worker", str(error))
        is_lasting = isinstance(error, DeviceError) or error.is_lasting
        sys.exit(UNUSABLE_STATUS if is_lasting else 1)
    except (NameTaken, Exhausted, OSError, OtherStore, StoreUnavailable, *UNREACHABLE) as error:
        sys.exit(f"rollout-worker: {error}")


def _serve(settings: Settings, children: Children) -> None:
    """Wait for the engine, then take jobs until SIGINT or SIGTERM."""
    quick = _connect(settings)
    shutdown = Shutdown(settings.drain_seconds)
    records = RetryingRecords(quick, shutdown.check_shutdown)
    store = settings.open_store()
    require_store(quick, store.identity())
    supervisor = Supervisor(settings, children, records, store, shutdown)
    try:
        supervisor.await_engine()
        supervisor.require_name()
        model = children.engine.require_model()
        children.release_unused_gpu()
        log.info("precision: %s", model.precision_report)
        log.info("ready: %s on %s", settings.model_name, children.gpu or model.device)
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


def _children(settings: Settings, confinement: Confinement, *, is_lazy: bool = False) -> Children:
    gpu = _claim_gpu(settings)
    options = EngineOptions(
        model=settings.model_name,
        checkpoint=settings.checkpoint,
        settings=settings.input_settings,
        checkpoint_sha256=settings.checkpoint_sha256,
        batch_clips=settings.batch_clips,
        device="cuda" if gpu and settings.device != "auto" else settings.device,
        dtype=settings.dtype,
    )
    media_options = MediaOptions(
        confinement=confinement,
        cpu_seconds=int(settings.job_deadline_seconds) * (os.cpu_count() or 1),
        max_video_seconds=settings.max_video_seconds,
        max_video_pixels=settings.max_video_pixels,
    )
    load_seconds = settings.engine_load_seconds
    if is_lazy:
        model = fake_engine.expected(settings.model_name, settings.batch_clips)
        return LazyChildren(
            settings.engine, options, media_options, load_seconds=load_seconds, model=model
        )
    return Children(settings.engine, options, media_options, load_seconds=load_seconds, gpu=gpu)


def _claim_gpu(settings: Settings) -> EngineGpu | None:
    """Claim a GPU for the engine; wait for one while other workers have all of them.

    Returns:
        None if the engine needs none, or if NVML finds none: then PyTorch looks for the device.

    Raises:
        DeviceError: the settings name a GPU that is not here.
    """
    if settings.engine == "fake" or not is_of_gpu(settings.device):
        return None
    nvml = open_nvml()
    if nvml is None:
        return None
    claims = GpuClaims(settings.data_dir / "gpus")
    visible = os.environ.get(VISIBLE_DEVICES)
    search = GpuSearch(nvml, claims, wish=settings.device, visible=visible)
    return search.claim(share=settings.share_gpu, idle=partial(_wait, _connect(settings)))


def _wait(redis: Redis) -> None:
    """Tell the health check that this worker waits, and pause."""
    with suppress(*UNREACHABLE):
        announce_waiting(redis, place(socket.gethostname()))
    time.sleep(LOOK_SECONDS)


def _connect(settings: Settings) -> Redis:
    """Return a client whose calls have a short timeout."""
    return connect(
        settings.redis,
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
    )


def _leave(_signum: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    main()
