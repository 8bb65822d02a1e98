"""Parts of the API that this release of the suite describes, but the service does not have yet."""

import pytest

PENDING: frozenset[str] = frozenset(())
"""Remove a name when its part is built: then its tests run."""


def needs(feature: str) -> pytest.MarkDecorator:
    """Skip tests of a part that is not built yet."""
    return pytest.mark.skipif(feature in PENDING, reason=f"not built yet: {feature}")
