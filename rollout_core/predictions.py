"""From logits to named classes."""

import numpy as np

from rollout_core.contract import Prediction
from rollout_core.specs import ModelSpec

TOP = 5


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
