"""Watch a model's attention while it runs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rollout_core.rollout import Flow
from rollout_core.timesformer import Block, Mixing, MixingTap, TimeSformer

Weigh = Callable[[Mixing], Tensor]
"""Makes one map of an attention's heads, float32 `b s q k`."""


@contextmanager
def watch(blocks: Iterable[Block], tap: MixingTap) -> Iterator[None]:
    """Show `tap` every attention of these layers while they run."""
    watched: list[Block] = []
    try:
        for block in blocks:
            watched.append(block)
            block.tap = tap
        yield
    finally:
        for block in watched:
            block.tap = None


@contextmanager
def capture_flow(model: TimeSformer, weigh: Weigh, *, start_layer: int = 0) -> Iterator[Flow]:
    """Capture one forward of `model`, from `start_layer` on.

    Heads become one map as each layer runs, so all heads of all layers are never held together.
    Maps have no gradient, also where the forward has one.
    """
    flow = Flow()

    @torch.no_grad()
    def keep(mixing: Mixing) -> None:
        flow.add(mixing.axis, weigh(mixing))

    with watch(model.layers[start_layer:], keep):
        yield flow
