"""How many cores a process really has, and what its OpenMP threads do while they wait."""

import os
from collections.abc import Iterator, Mapping
from math import ceil
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")

OPENMP = ("OMP_", "GOMP_", "KMP_", "MKL_NUM_")
"""How the names of the variables begin that say what threads do."""


def usable_cores(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """Return how many cores this process may keep busy: by its affinity and its cgroups' quota."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(ceil(quota) for quota in _quotas(cgroups, own))]))


def thread_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for a process that computes with OpenMP; none if the user has set any.

    By default, threads that wait for each other keep their cores busy. These cores also decode and
    encode videos, so the threads sleep instead.
    """
    if any(name.startswith(OPENMP) for name in environment):
        return {}
    return {"OMP_NUM_THREADS": str(usable_cores()), "OMP_WAIT_POLICY": "PASSIVE"}


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Yield the quota of each cgroup (version 2) that this process is in, in cores."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    path = next((line[3:] for line in lines if line.startswith("0::")), "/")
    inner = cgroups / path.strip("/")
    for folder in (inner, *inner.parents):
        if not folder.is_relative_to(cgroups):
            return
        try:
            quota, period = (folder / "cpu.max").read_text().split()
            yield int(quota) / int(period)
        except (OSError, ValueError):  # no such file, or the quota is "max"
            continue
