"""The GPUs of this machine and the slices of those that are divided (MIG), as NVML lists them.

NVML is the library of NVIDIA's driver that nvidia-smi uses, too. It tells what CUDA would use
without starting CUDA. Where it is missing, no GPU is found.

A GPU that is divided cannot be used itself: its slices are.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from rollout_core.jobs.redis_records import Gpu

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
"""The environment variable by which CUDA, and NVIDIA's other tools, choose GPUs."""

UUID_PREFIXES = ("GPU-", "MIG-")
"""How the UUID of a GPU begins, and that of a slice."""

log = logging.getLogger(__name__)


class Nvml(Protocol):
    """What is used of the module `pynvml`. A handle is NVML's name for a GPU or a slice."""

    @property
    def NVMLError(self) -> type[Exception]:  # noqa: N802
        """Base of all errors of NVML."""

    def nvmlInit(self) -> None:  # noqa: N802
        """Load the library."""

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """Return the number of GPUs."""

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802
        """Return the handle of a GPU."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:  # noqa: N802
        """Return the handle of a GPU or a slice."""

    def nvmlDeviceGetUUID(self, handle: Any) -> str:  # noqa: N802
        """Return the UUID of a GPU or a slice."""

    def nvmlDeviceGetName(self, handle: Any) -> str:  # noqa: N802
        """Return the product name; that of a slice has its profile."""

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: N802
        """Return `total`, `used` and `free`, in bytes."""

    def nvmlDeviceGetMigMode(self, handle: Any) -> list[int]:  # noqa: N802
        """Return whether a GPU is divided now, and after a reset."""

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:  # noqa: N802
        """Return the most slices that a GPU may have."""

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any:  # noqa: N802
        """Return the handle of a slice."""


@dataclass(frozen=True)
class VisibleGpu:
    """A GPU that is not divided, or a slice of one that is.

    Attributes:
        number: place of the GPU among the visible ones, from 0. Slices of one GPU share it.
        uuid: its own UUID. CUDA_VISIBLE_DEVICES takes it.
        gpu_uuid: of the GPU to which a slice belongs; of a GPU, its own.
        name: product name; that of a slice has its profile, such as `MIG 1g.10gb`.
        free_bytes: memory that no process uses; 0 if NVML does not tell it.
    """

    number: int
    uuid: str
    gpu_uuid: str
    name: str
    free_bytes: int

    @property
    def device(self) -> str:
        """Name that a wish may have, such as `cuda:0`."""
        return f"cuda:{self.number}"

    def __str__(self) -> str:
        return f"{self.device} {self.name} ({self.uuid})"


_Parts = tuple[VisibleGpu, ...]
"""A GPU as what can be used of it: the GPU, or its slices."""


def open_nvml() -> Nvml | None:
    """Load NVML; return None on a machine without it, and log why unless there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return None
    except pynvml.NVMLError as error:
        log.warning("GPUs cannot be listed, so none is claimed: %s", error)
        return None
    return cast(Nvml, pynvml)


def visible_gpus(nvml: Nvml, visible: str | None) -> tuple[VisibleGpu, ...]:
    """Return what can be used of the GPUs of this machine, as nvidia-smi numbers them.

    Args:
        visible: the value of CUDA_VISIBLE_DEVICES; None if it is not set. As for CUDA, the first
            entry that names no GPU hides all that follow, and a repeated one hides all.
    """
    gpus = [_usable_parts(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    if visible is not None:
        gpus = _select(gpus, visible)
    return tuple(replace(part, number=i) for i, parts in enumerate(gpus) for part in parts)


def measure(nvml: Nvml, uuid: str) -> Gpu | None:
    """Return name and memory of a GPU or a slice; None if NVML does not tell them now."""
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return Gpu(
            uuid=uuid,
            name=nvml.nvmlDeviceGetName(handle),
            memory_total_bytes=memory.total,
            memory_used_bytes=memory.used,
        )
    except nvml.NVMLError:
        return None


def parts_named(parts: Sequence[VisibleGpu], prefix: str) -> _Parts:
    """Return those whose UUID begins so. The UUID of a divided GPU stands for all its slices."""
    if not prefix.startswith(UUID_PREFIXES):
        return ()
    if prefix.startswith("GPU-"):
        return tuple(part for part in parts if part.gpu_uuid.startswith(prefix))
    return tuple(part for part in parts if part.uuid.startswith(prefix))


def is_one(parts: Sequence[VisibleGpu], prefix: str) -> bool:
    """Return whether what `parts_named` has found is one GPU, or one slice."""
    by_gpu = prefix.startswith("GPU-")
    return len({part.gpu_uuid if by_gpu else part.uuid for part in parts}) == 1


def _usable_parts(nvml: Nvml, index: int) -> _Parts:
    """Return a GPU, or its slices if it is divided; nothing if NVML cannot reach it."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = nvml.nvmlDeviceGetUUID(handle)
        handles = list(_slices(nvml, handle)) if _is_divided(nvml, handle) else [handle]
        return tuple(_describe(nvml, part, uuid, index) for part in handles)
    except nvml.NVMLError as error:
        log.warning("GPU %d cannot be used: %s", index, error)
        return ()


def _is_divided(nvml: Nvml, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError:  # most GPUs cannot be divided
        return False


def _slices(nvml: Nvml, handle: Any) -> Iterator[Any]:
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError:  # no slice has this index
            continue


def _describe(nvml: Nvml, handle: Any, gpu_uuid: str, number: int) -> VisibleGpu:
    try:
        free_bytes = nvml.nvmlDeviceGetMemoryInfo(handle).free
    except nvml.NVMLError:  # one that shares the memory of the processor
        free_bytes = 0
    return VisibleGpu(
        number=number,
        uuid=nvml.nvmlDeviceGetUUID(handle),
        gpu_uuid=gpu_uuid,
        name=nvml.nvmlDeviceGetName(handle),
        free_bytes=free_bytes,
    )


def _select(gpus: Sequence[_Parts], visible: str) -> list[_Parts]:
    """Return the GPUs and slices that CUDA_VISIBLE_DEVICES names, in its order."""
    selected: list[_Parts] = []
    seen: set[str] = set()
    for entry in visible.split(","):
        parts = _named(gpus, entry.strip())
        uuids = {part.uuid for part in parts}
        if seen & uuids:
            return []
        if not parts:
            break
        selected.append(parts)
        seen |= uuids
    return selected


def _named(gpus: Sequence[_Parts], entry: str) -> _Parts:
    """Return what a number, a UUID or the beginning of one stands for; nothing if not one GPU."""
    if entry.isdecimal():
        return gpus[int(entry)] if int(entry) < len(gpus) else ()
    found = parts_named(tuple(part for parts in gpus for part in parts), entry)
    return found if is_one(found, entry) else ()
