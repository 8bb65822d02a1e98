"""Orders to an engine, for tests."""

from collections.abc import Sequence

from rollout_core.contract import ClassChoice, MethodOptions, TokenQuery
from worker.messages import Explain


def explain_order(
    *,
    targets: Sequence[ClassChoice] = (),
    against: ClassChoice | None = None,
    queries: Sequence[TokenQuery] = ("cls",),
    first_clip: int = 0,
    **options: object,
) -> Explain:
    """Return an order with the given options of a method."""
    return Explain(
        options=MethodOptions.model_validate(options),
        targets=tuple(targets),
        against=against,
        queries=tuple(queries),
        first_clip=first_clip,
    )
