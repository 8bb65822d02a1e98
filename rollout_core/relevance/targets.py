"""Which classes a method explains."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rollout_core.contract import PREDICTED, ClassChoice

Targets = Sequence[Sequence[ClassChoice]]
"""The classes to explain of each clip, equally many."""


def choose_classes(targets: Targets | None, logits: Tensor) -> Tensor:
    """Return the classes to explain, int64 `b r`.

    Args:
        targets: default: the predicted class alone.
        logits: `b k`.
    """
    best = logits.argmax(dim=1)
    if targets is None:
        return best[:, None]
    chosen = [[-1 if each == PREDICTED else each for each in of_clip] for of_clip in targets]
    classes = torch.tensor(chosen, device=logits.device)
    return torch.where(classes < 0, best[:, None], classes)
