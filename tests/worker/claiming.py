"""A worker's claims in a process of its own: `python -m tests.worker.claiming`.

The GPUs are those of `FOUR`. It answers each line of standard input with a line:

    alone FOLDER    claims a GPU for itself: its UUID, or `waits`
    share FOLDER    claims one that others may have, too: its UUID
    release         releases it: `released`
    child           starts a process with every descriptor that can be inherited: its process id
"""

import subprocess
import sys
from pathlib import Path

from tests.worker.fake_nvml import FakeGpu, FakeNvml
from worker.engine_gpu import EngineGpu, GpuSearch
from worker.gpu_claims import GpuClaims

FOUR = tuple(FakeGpu(f"GPU-{letter}") for letter in "abcd")


class Waiting(Exception):
    """There is no free GPU."""


def stop_waiting() -> None:
    raise Waiting


def main() -> None:
    gpu: EngineGpu | None = None
    for line in sys.stdin:
        order, _, folder = line.strip().partition(" ")
        if order == "child":
            print(subprocess.Popen(["/bin/sleep", "60"], close_fds=False).pid, flush=True)
        elif order == "release":
            gpu = gpu.release() if gpu else None
            print("released", flush=True)
        else:
            gpu = claim(Path(folder), share=order == "share")
            print(gpu.environment["CUDA_VISIBLE_DEVICES"] if gpu else "waits", flush=True)


def claim(folder: Path, *, share: bool) -> EngineGpu | None:
    search = GpuSearch(FakeNvml(FOUR), GpuClaims(folder), wish="cuda", visible=None)
    try:
        return search.claim(share=share, idle=stop_waiting)
    except Waiting:
        return None


if __name__ == "__main__":
    main()
