"""How many clips the accelerator's memory holds at once, learnt from those that it did not."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from rollout_core.errors import OutOfMemory

T = TypeVar("T")


class Batches:
    """The sizes of batch that have fitted, by the kind of work."""

    def __init__(self, refusal: str) -> None:
        """Prepare; `refusal` is what to say when not even one clip fits."""
        self._refusal = refusal
        self._sizes: dict[str, int] = {}

    def fit(self, kind: str, most: int, work: Callable[[int], T]) -> T:
        """Return what work of a kind gives with the largest batch that fits, of up to `most` clips.

        Whenever memory runs out, the batch is halved, and the work done again from its beginning.

        Raises:
            OutOfMemory: one clip alone does not fit.
        """
        size = min(most, self._sizes.get(kind, most))
        while True:
            try:
                return work(size)
            except torch.OutOfMemoryError:
                pass  # only when it is dealt with are the tensors gone that its traceback holds
            _free_memory()
            if size == 1:
                raise OutOfMemory(self._refusal)
            self._sizes[kind] = size = size // 2


def _free_memory() -> None:
    gc.collect()
    torch.cuda.empty_cache()
