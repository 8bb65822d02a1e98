import gc
import weakref

import pytest
import torch

from rollout_core.errors import DeviceError, OutOfMemory
from worker.messages import EngineOptions
from worker.torch_engine import BatchSizes, load


class Memory:
    """Work that runs out of memory above a number of clips, and records each attempted size."""

    def __init__(self, clips: int) -> None:
        self.clips = clips
        self.sizes: list[int] = []

    def __call__(self, clips: int) -> str:
        self.sizes.append(clips)
        if clips > self.clips:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return f"by {clips}"


@pytest.fixture
def batches() -> BatchSizes:
    return BatchSizes("one clip does not fit")


def test_work_that_fits_runs_once(batches):
    memory = Memory(8)
    assert batches.fit("rollout", 8, memory) == "by 8"
    assert memory.sizes == [8]


def test_batch_is_halved_until_it_fits_and_size_is_remembered(batches):
    memory = Memory(3)
    assert batches.fit("rollout", 13, memory) == "by 3"
    assert batches.fit("rollout", 13, memory) == "by 3"
    assert batches.fit("rollout", 2, memory) == "by 2"
    assert memory.sizes == [13, 6, 3, 3, 2]


def test_each_kind_of_work_has_its_own_size(batches):
    memory = Memory(1)
    batches.fit("gradient_rollout", 4, memory)
    memory.clips = 4
    assert batches.fit("rollout", 4, memory) == "by 4"
    assert batches.fit("gradient_rollout", 4, memory) == "by 1"


def test_out_of_memory_for_one_clip_is_an_error_and_later_work_runs(batches):
    memory = Memory(0)
    with pytest.raises(OutOfMemory, match="one clip does not fit"):
        batches.fit("rollout", 4, memory)
    assert memory.sizes == [4, 2, 1]
    memory.clips = 1
    assert batches.fit("rollout", 4, memory) == "by 1"


def test_tensors_of_a_failed_batch_are_freed_before_the_retry(batches):
    """The traceback of an error holds the tensors of all its stack frames."""
    failed: list[weakref.ref[torch.Tensor]] = []
    held: list[bool] = []
    gc.disable()
    try:

        def work(clips: int) -> int:
            held.extend(reference() is not None for reference in failed)
            tensor = torch.ones(clips)
            if clips > 2:
                failed.append(weakref.ref(tensor))
                raise torch.OutOfMemoryError("CUDA out of memory")
            return clips

        assert batches.fit("rollout", 8, work) == 2
    finally:
        gc.enable()
    assert held == [False, False, False]


def test_other_errors_are_not_caught(batches):
    def work(clips: int) -> int:
        raise RuntimeError("device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side"):
        batches.fit("rollout", 4, work)


@pytest.mark.parametrize("device", ["nonsense", "meta", "cuda:99"])
def test_device_that_cannot_be_used_is_an_error(device):
    with pytest.raises(DeviceError):
        load(EngineOptions(model="moving-things", device=device))
