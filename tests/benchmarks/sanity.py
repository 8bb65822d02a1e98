"""Do maps depend on what the model has learned?

Source: Adebayo et al. 2018, "Sanity Checks for Saliency Maps", arXiv:1810.03292: its cascade
forgets the layers one after the other, from the head down. A map that stays the same shows the
picture, not the model.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy

from torch import Tensor

from rollout_core.demo.evaluate import rank_correlation
from rollout_core.model.timesformer import TimeSformer


def cascade(model: TimeSformer, untrained: TimeSformer) -> Iterator[tuple[str, TimeSformer]]:
    """Yield the model with its head, then also its last layer, … then also its first, untrained.

    Every one is the same object, one step further, with the name of the part that was replaced;
    `model` itself stays as it is.
    """
    forgetful = deepcopy(model)
    forgetful.norm.load_state_dict(untrained.norm.state_dict())
    forgetful.head.load_state_dict(untrained.head.state_dict())
    yield "head", forgetful
    for index in reversed(range(model.architecture.depth)):
        forgetful.layers[index].load_state_dict(untrained.layers[index].state_dict())
        yield f"layer {index}", forgetful


def correlations(
    model: TimeSformer, untrained: TimeSformer, explain: Callable[[TimeSformer], Tensor]
) -> dict[str, float]:
    """Return the mean rank correlation of a model's maps with those of each step of its cascade.

    Args:
        explain: makes maps `b t h w` of the same clips for any model.
    """
    maps = explain(model)
    return {
        part: rank_correlation(maps, explain(forgetful)).mean().item()
        for part, forgetful in cascade(model, untrained)
    }
