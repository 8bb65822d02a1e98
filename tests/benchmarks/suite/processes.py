"""CPU time and memory of processes, from Linux' /proc."""

import ctypes
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.02
QUIET_SECONDS = 0.25
QUIET_SHARE = 0.1
"""Processes rest if they use less than this share of one core for `QUIET_SECONDS`."""

MEBIBYTE = 2**20


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    return [pid, *(found for child in _children(pid) for found in tree(child))]


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time of these processes and all below them, ended ones included."""
    every = [member for pid in pids for member in tree(pid)]
    return sum(map(_own_cpu_seconds, every))


def await_rest(pids: Iterable[int], limit_seconds: float = 30) -> None:
    """Wait until processes and all below them use almost no CPU."""
    pids = list(pids)
    for _ in range(round(limit_seconds / QUIET_SECONDS)):
        before = cpu_seconds(pids)
        time.sleep(QUIET_SECONDS)
        if cpu_seconds(pids) - before < QUIET_SHARE * QUIET_SECONDS:
            return


def proportional_bytes(pid: int) -> int:
    """Return the memory of a process, with its share of the pages that several have."""
    return _field(Path(f"/proc/{pid}/smaps_rollup"), "Pss")


def peak_bytes(call: Callable[[], object], device: str = "cpu") -> int:
    """Return the peak memory of a call beyond the memory in use before it."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - held
    ctypes.CDLL(None).malloc_trim(0)  # returns what earlier calls have freed
    reset_peak(os.getpid())
    status = Path("/proc/self/status")
    held = _field(status, "VmRSS")
    call()
    return _field(status, "VmHWM") - held


def reset_peak(pid: int) -> None:
    """Let the peak of a process' resident pages begin at what it has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@contextmanager
def watching_peaks(
    pids: Iterable[int], kind_of: Callable[[int], str | None]
) -> Iterator[dict[str, int]]:
    """Yield the peak resident bytes of processes and all below them, by kind.

    It is complete when the context ends. Where several processes are of a kind, the largest counts.

    Args:
        kind_of: returns the kind of a process; None leaves it out.
    """
    pids, peaks, ended = list(pids), dict[str, int](), Event()
    for pid in (member for root in pids for member in tree(root)):
        reset_peak(pid)

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            for pid in (member for root in pids for member in tree(root)):
                with suppress(OSError, LookupError):
                    if kind := kind_of(pid):
                        peak = _field(Path(f"/proc/{pid}/status"), "VmHWM")
                        peaks[kind] = max(peak, peaks.get(kind, 0))

    thread = Thread(target=watch, name="peaks")
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def command_line(pid: int) -> list[str]:
    """Return the arguments of a process; none if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return []


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def _own_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, and of its children that have ended and were waited for."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS_PER_SECOND


def _field(path: Path, name: str) -> int:
    """Return a field that the kernel states in KiB, in bytes."""
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"{path} has no {name}")
