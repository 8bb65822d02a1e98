"""A stand-in for the module `pynvml` on a machine whose GPUs a test describes."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from tests.system.processes import ROOT

GIB = 2**30


class FakeNvmlError(Exception):
    """Any error of NVML."""


class FakeLibraryNotFound(FakeNvmlError):
    """There is no driver."""


class FakeDriverNotLoaded(FakeNvmlError):
    """The driver is there, but does not run."""


@dataclass(frozen=True)
class FakeGpu:
    """A GPU, or a slice of one.

    Attributes:
        slices: None: the GPU is not divided. Else what stands at each index; None for nothing.
        is_lost: NVML does not reach it.
        tells_memory: whether NVML knows its memory.
    """

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    total_gib: int = 80
    used_gib: int = 0
    slices: "tuple[FakeGpu | None, ...] | None" = None
    is_lost: bool = False
    tells_memory: bool = True


@dataclass
class FakeNvml:
    """NVML on a machine with these GPUs. A `FakeGpu` is its own handle.

    Attributes:
        init_error: what `nvmlInit` raises.
    """

    gpus: tuple[FakeGpu, ...] = ()
    init_error: FakeNvmlError | None = None
    NVMLError: type[Exception] = field(default=FakeNvmlError, init=False)
    NVMLError_LibraryNotFound: type[Exception] = field(default=FakeLibraryNotFound, init=False)
    NVMLError_DriverNotLoaded: type[Exception] = field(default=FakeDriverNotLoaded, init=False)

    def nvmlInit(self) -> None:  # noqa: N802
        if self.init_error:
            raise self.init_error

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        if self.gpus[index].is_lost:
            raise FakeNvmlError("GPU is lost")
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu:  # noqa: N802
        for gpu in self.gpus:
            for part in (gpu, *(gpu.slices or ())):
                if part is not None and part.uuid == uuid:
                    return part
        raise FakeNvmlError("Not Found")

    def nvmlDeviceGetUUID(self, handle: FakeGpu) -> str:  # noqa: N802
        return handle.uuid

    def nvmlDeviceGetName(self, handle: FakeGpu) -> str:  # noqa: N802
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: FakeGpu) -> SimpleNamespace:  # noqa: N802
        if not handle.tells_memory:
            raise FakeNvmlError("Not Supported")
        total, used = handle.total_gib * GIB, handle.used_gib * GIB
        return SimpleNamespace(total=total, used=used, free=total - used)

    def nvmlDeviceGetMigMode(self, handle: FakeGpu) -> list[int]:  # noqa: N802
        if handle.total_gib < 40:
            raise FakeNvmlError("Not Supported")
        return [int(handle.slices is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: FakeGpu) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: FakeGpu, index: int) -> FakeGpu:  # noqa: N802
        if index >= len(handle.slices) or handle.slices[index] is None:
            raise FakeNvmlError("Not Found")
        return handle.slices[index]


def environment_with(folder: Path, *gpus: FakeGpu) -> dict[str, str]:
    """Return variables with which a program finds these GPUs as it imports `pynvml`."""
    (folder / "pynvml.py").write_text(
        "import sys\n"
        "from tests.worker.fake_nvml import FakeGpu, FakeNvml\n"
        f"sys.modules[__name__] = FakeNvml({gpus!r})\n"
    )
    return {"PYTHONPATH": f"{folder}:{ROOT}"}
