"""Orders to an engine, for tests."""

from collections.abc import Sequence

from rollout_core.contract import MethodOptions, TokenQuery
from worker.messages import Explain


def explain_order(
    *,
    target: int | None = None,
    queries: Sequence[TokenQuery] = ("cls",),
    first_clip: int = 0,
    **options: object,
) -> Explain:
    """Return an order with the given options of a method."""
    return Explain(
        options=MethodOptions.model_validate(options),
        target=target,
        queries=tuple(queries),
        first_clip=first_clip,
    )
