"""Random numbers for the demo's clips."""

import torch
from torch import Generator, Tensor


def uniform(
    shape: int | tuple[int, ...], span: tuple[float, float], generator: Generator
) -> Tensor:
    """Return uniform random numbers between the ends of `span`."""
    size = (shape,) if isinstance(shape, int) else shape
    return torch.empty(size).uniform_(*span, generator=generator)
