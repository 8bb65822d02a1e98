import gc
import weakref

import pytest
import torch

from rollout_core.errors import OutOfMemory
from worker.torch_engine import Batches


class Memory:
    """Holds so many clips, and remembers what it was asked to hold."""

    def __init__(self, clips: int) -> None:
        self.clips = clips
        self.asked: list[int] = []

    def __call__(self, clips: int) -> str:
        self.asked.append(clips)
        if clips > self.clips:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return f"by {clips}"


@pytest.fixture
def batches() -> Batches:
    return Batches("one clip does not fit")


def test_what_fits_is_done_at_once(batches):
    memory = Memory(8)
    assert batches.fit("rollout", 8, memory) == "by 8"
    assert memory.asked == [8]


def test_a_batch_is_halved_until_it_fits_and_the_size_is_remembered(batches):
    memory = Memory(3)
    assert batches.fit("rollout", 13, memory) == "by 3"
    assert batches.fit("rollout", 13, memory) == "by 3"
    assert batches.fit("rollout", 2, memory) == "by 2"
    assert memory.asked == [13, 6, 3, 3, 2]


def test_another_kind_of_work_has_a_size_of_its_own(batches):
    memory = Memory(1)
    batches.fit("gradient_rollout", 4, memory)
    memory.clips = 4
    assert batches.fit("rollout", 4, memory) == "by 4"
    assert batches.fit("gradient_rollout", 4, memory) == "by 1"


def test_when_one_clip_does_not_fit_it_says_so_and_works_on(batches):
    memory = Memory(0)
    with pytest.raises(OutOfMemory, match="one clip does not fit"):
        batches.fit("rollout", 4, memory)
    assert memory.asked == [4, 2, 1]
    memory.clips = 1
    assert batches.fit("rollout", 4, memory) == "by 1"


def test_nothing_of_a_failed_batch_is_held_when_the_next_is_tried(batches):
    """The traceback of an error holds the tensors of every frame on its way."""
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


def test_other_errors_pass(batches):
    def work(clips: int) -> int:
        raise RuntimeError("device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side"):
        batches.fit("rollout", 4, work)
