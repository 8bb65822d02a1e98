"""Which GPUs a worker may take, by the setting `device`, and which of them it tries first."""

import re
from collections.abc import Sequence

from rollout_core.errors import DeviceError
from worker.gpus import UUID_PREFIXES, VisibleGpu, is_one, parts_named

NUMBERED = re.compile(r"cuda:([0-9]+)")


def is_of_gpu(wish: str) -> bool:
    """Return whether a device that is wished for is, or may be, a GPU that has a UUID."""
    return wish in ("auto", "cuda") or bool(NUMBERED.fullmatch(wish)) or _is_uuid(wish)


def candidates(gpus: Sequence[VisibleGpu], wish: str) -> tuple[VisibleGpu, ...]:
    """Return the GPUs that a wish allows: most free memory first, then by number.

    Args:
        wish: auto or cuda for any GPU, cuda:NUMBER, or a UUID or the beginning of one. A divided
            GPU stands for all its slices.

    Returns:
        Nothing if any GPU would do and there is none: torch decides what that means.

    Raises:
        DeviceError: the wish names a GPU that is not visible here, or several.
    """
    found = tuple(gpus)
    if number := NUMBERED.fullmatch(wish):
        found = tuple(gpu for gpu in gpus if gpu.number == int(number[1]))
    elif _is_uuid(wish):
        found = parts_named(gpus, wish)
        if found and not is_one(found, wish):
            raise DeviceError(f"{wish} is the beginning of several: {_list(found)}")
    if not found and wish not in ("auto", "cuda"):
        raise DeviceError(f"there is no GPU {wish} here; there is {_list(gpus) or 'none'}")
    return tuple(sorted(found, key=lambda gpu: (-gpu.free_bytes, gpu.number)))


def _is_uuid(wish: str) -> bool:
    return wish.startswith(UUID_PREFIXES)


def _list(gpus: Sequence[VisibleGpu]) -> str:
    return ", ".join(map(str, gpus))
