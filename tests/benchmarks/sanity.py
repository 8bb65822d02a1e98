"""Check that maps depend on what the model has learned.

The cascade replaces the layers by untrained ones, one after the other, from the head down. A map
that stays the same shows the picture, not the model. Source: Adebayo et al. 2018, "Sanity Checks
for Saliency Maps", arXiv:1810.03292.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy

from torch import Tensor

from rollout_core.demo.evaluate import rank_correlation
from rollout_core.model.timesformer import TimeSformer


def cascade(model: TimeSformer, untrained: TimeSformer) -> Iterator[tuple[str, TimeSformer]]:
    """Yield a part's name and the model with this part, and all parts before it, untrained.

    The parts are the head, then the layers from the last to the first. Each step changes and
    yields the same copy; `model` itself does not change.
    """
    changed = deepcopy(model)
    changed.norm.load_state_dict(untrained.norm.state_dict())
    changed.head.load_state_dict(untrained.head.state_dict())
    yield "head", changed
    for index in reversed(range(model.architecture.depth)):
        changed.layers[index].load_state_dict(untrained.layers[index].state_dict())
        yield f"layer {index}", changed


def correlations(
    model: TimeSformer, untrained: TimeSformer, explain: Callable[[TimeSformer], Tensor]
) -> dict[str, float]:
    """Return the mean rank correlation of a model's maps with those of each step of the cascade.

    Args:
        explain: returns maps, `b t h w`, of the same clips for any model.
    """
    maps = explain(model)
    return {
        part: rank_correlation(maps, explain(changed)).mean().item()
        for part, changed in cascade(model, untrained)
    }
