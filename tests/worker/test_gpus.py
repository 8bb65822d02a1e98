"""The GPUs that NVML lists; which of them a worker takes is in `test_engine_gpu.py`."""

import inspect
import logging
import sys

import pynvml
import pytest

from rollout_core.jobs.redis_records import Gpu
from tests.worker.fake_nvml import (
    GIB,
    FakeDriverNotLoaded,
    FakeGpu,
    FakeLibraryNotFound,
    FakeNvml,
    FakeNvmlError,
)
from worker.gpus import Nvml, measure, open_nvml, visible_gpus

SLICE = FakeGpu("MIG-1", "NVIDIA H100 MIG 1g.10gb", total_gib=10, used_gib=1)
GPUS = FakeGpu("GPU-0"), FakeGpu("GPU-1", slices=(None, SLICE)), FakeGpu("GPU-2", used_gib=30)

FUNCTIONS = [name for name in vars(Nvml) if name.startswith("nvml")]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_fake_and_the_real_binding_have_the_same_functions(name):
    declared = inspect.signature(getattr(Nvml, name)).parameters
    fake = inspect.signature(getattr(FakeNvml, name)).parameters
    real = list(inspect.signature(getattr(pynvml, name)).parameters.values())
    assert list(fake) == list(declared)
    required = [item for item in real if item.default is item.empty]
    assert len(required) <= len(declared) - 1 <= len(real)


def test_slices_stand_for_a_divided_gpu_and_have_its_number():
    found = visible_gpus(FakeNvml(GPUS), None)
    assert [(gpu.number, gpu.uuid, gpu.gpu_uuid) for gpu in found] == [
        (0, "GPU-0", "GPU-0"),
        (1, "MIG-1", "GPU-1"),
        (2, "GPU-2", "GPU-2"),
    ]
    assert [gpu.free_bytes // GIB for gpu in found] == [80, 9, 50]
    assert str(found[1]) == "cuda:1 NVIDIA H100 MIG 1g.10gb (MIG-1)"


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        (None, "GPU-0 MIG-1 GPU-2"),
        ("2,0", "GPU-2 GPU-0"),
        (" 1 , 2", "MIG-1 GPU-2"),
        ("GPU-2,MIG-1", "GPU-2 MIG-1"),
        ("GPU-1", "MIG-1"),
        ("MIG", ""),
        ("GPU-", ""),
        ("0,GPU-,2", "GPU-0"),
        ("0,-1,2", "GPU-0"),
        ("0,3,2", "GPU-0"),
        ("0,2,GPU-0", ""),
        ("1,MIG-1", ""),
        ("NoDevFiles", ""),
        ("", ""),
    ],
)
def test_cuda_visible_devices_names_them_as_for_cuda(visible, uuids):
    found = visible_gpus(FakeNvml(GPUS), visible)
    assert [gpu.uuid for gpu in found] == uuids.split()
    assert visible is None or [gpu.number for gpu in found] == list(range(len(found)))


def test_a_gpu_that_is_lost_hides_no_other(caplog):
    found = visible_gpus(FakeNvml((FakeGpu("GPU-0", is_lost=True), FakeGpu("GPU-1"))), None)
    assert [(gpu.number, gpu.uuid) for gpu in found] == [(1, "GPU-1")]
    assert caplog.messages == ["GPU 0 cannot be used: GPU is lost"]


def test_a_gpu_without_memory_of_its_own_is_usable_but_not_measured():
    nvml = FakeNvml((FakeGpu("GPU-0", tells_memory=False),))
    assert [gpu.free_bytes for gpu in visible_gpus(nvml, None)] == [0]
    assert measure(nvml, "GPU-0") is None


def test_memory_of_a_gpu_and_of_a_slice_is_measured():
    nvml = FakeNvml(GPUS)
    assert measure(nvml, "GPU-2") == Gpu(
        uuid="GPU-2",
        name="NVIDIA H100 80GB HBM3",
        memory_total_bytes=80 * GIB,
        memory_used_bytes=30 * GIB,
    )
    assert measure(nvml, "MIG-1").memory_used_bytes == GIB
    assert measure(nvml, "GPU-9") is None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FakeLibraryNotFound(), []),
        (FakeDriverNotLoaded(), []),
        (FakeNvmlError("mismatch"), ["GPUs cannot be listed, so none is claimed: mismatch"]),
    ],
)
def test_without_a_working_driver_there_are_no_gpus(monkeypatch, caplog, error, told):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(init_error=error))
    with caplog.at_level(logging.INFO):
        assert open_nvml() is None
    assert caplog.messages == told


def test_a_driver_that_works_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", nvml := FakeNvml(GPUS))
    assert open_nvml() is nvml
