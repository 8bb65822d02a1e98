"""Which device a model runs on."""

import gc

import torch

from rollout_core.errors import DeviceError


def open_device(name: str) -> torch.device:
    """Return the device that is called `name`: "auto" is the GPU if there is one, else the CPU.

    Raises:
        DeviceError: there is no such device, or it cannot compute here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(
            f"{name!r} is not a device; write auto, cpu, cuda or cuda:NUMBER"
        ) from error
    if device.type == "cuda":
        _require_gpu(name, device)
    try:
        (torch.ones(1, device=device) + 1).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # a build without this device
        raise DeviceError(f"PyTorch cannot use the device {name} here") from error
    return device


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def free_memory() -> None:
    """Give back the memory of what is not referred to any more, on the GPU, too."""
    gc.collect()
    torch.cuda.empty_cache()


def _require_gpu(name: str, device: torch.device) -> None:
    """Raise DeviceError unless the GPU with this number exists."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise DeviceError(f"PyTorch cannot use the device {name} here: it finds no GPU and driver")
    if device.index is not None and device.index >= count:
        raise DeviceError(f"there is no device {name}; the last one is cuda:{count - 1}")
