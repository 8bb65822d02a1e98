"""From logits to named classes."""

import numpy as np

from rollout_core.contract import ClipRequest, Prediction, Target
from rollout_core.specs import ModelSpec

TOP = 5


def target_of(target: int | str, spec: ModelSpec) -> Target:
    """Name a class that is given by index or label.

    Raises:
        InvalidRequest: the model has no such class.
    """
    index = spec.class_index(target)
    return Target(label=spec.label(index), index=index)


def target_to_follow(request: ClipRequest, logits: np.ndarray, spec: ModelSpec) -> Target:
    """Return the class asked for, or else the one predicted from `logits`, `clip k`."""
    asked = request.target
    return target_of(top_predictions(logits, spec)[0].index if asked is None else asked, spec)


def top_predictions(
    logits: np.ndarray, spec: ModelSpec, count: int = TOP
) -> tuple[Prediction, ...]:
    """Average the clips' probabilities and return the `count` most probable classes.

    Args:
        logits: `clip k`.
    """
    scores = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probability = (scores / scores.sum(axis=-1, keepdims=True)).mean(axis=0)
    best = np.argsort(-probability, kind="stable")[:count]
    return tuple(
        Prediction(label=spec.label(int(k)), index=int(k), probability=float(probability[k]))
        for k in best
    )
