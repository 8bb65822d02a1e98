"""Check that maps depend on what the model has learned.

The head is replaced by an untrained one, and then all layers too. A map that stays the same shows
the picture, not the model. Source: Adebayo et al. 2018, "Sanity Checks for Saliency Maps",
arXiv:1810.03292.
"""

from collections.abc import Iterator
from copy import deepcopy

from torch import Tensor

from rollout_core.demo.evaluate import rank_correlation
from rollout_core.demo.initial import new_model
from rollout_core.model.timesformer import TimeSformer
from tests.benchmarks.evidence.cases import Case
from tests.benchmarks.evidence.maps import Row


def forgetful(model: TimeSformer, seed: int = 0) -> Iterator[tuple[str, TimeSformer]]:
    """Yield copies of a model whose head, and whose head and layers, are untrained."""
    untrained = new_model(model.architecture, seed).to(model.cls_token.device)
    changed = deepcopy(model)
    changed.norm.load_state_dict(untrained.norm.state_dict())
    changed.head.load_state_dict(untrained.head.state_dict())
    yield "no head", changed
    for layer, fresh in zip(changed.layers, untrained.layers, strict=True):
        layer.load_state_dict(fresh.state_dict())
    yield "no layers", changed


def sanity(row: Row, case: Case) -> dict[str, Tensor]:
    """Return the rank correlation of the maps with those of the changed models, `b` for each."""
    maps = row.explain(case)[:, 0]
    return {
        part: rank_correlation(maps, row.explain(case.seen_by(changed))[:, 0]).float()
        for part, changed in forgetful(case.model)
    }
