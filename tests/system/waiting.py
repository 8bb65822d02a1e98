"""The one way in which tests wait: for a condition, with a limit."""

import time
from collections.abc import Callable
from typing import TypeVar

WAIT_SECONDS = 30.0
"""Long enough for a busy machine; a wait ends as soon as its condition holds."""

HANG_SECONDS = 120.0
"""A process that should end, and has not by then, hangs. For ends whose speed does not matter."""

FIRST_POLL_SECONDS = 0.02
LAST_POLL_SECONDS = 0.1
POLL_SHARE = 0.05
"""A pause is this share of the time waited so far: long waits cost the processors little."""

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], seconds: float = WAIT_SECONDS, what: str = "the condition"
) -> T:
    """Return what `condition` returns, as soon as that is true.

    `condition` is called at least once, and once more after the time is over.

    Args:
        what: names the condition in the error.

    Raises:
        AssertionError: `condition` did not become true within `seconds`.
    """
    began = time.monotonic()
    while True:
        waited = time.monotonic() - began
        is_last = waited >= seconds
        if result := condition():
            return result
        assert not is_last, f"waited {seconds:g} s for {what}"
        time.sleep(min(LAST_POLL_SECONDS, max(FIRST_POLL_SECONDS, POLL_SHARE * waited)))
