"""Refuses a job that cannot end before its deadline, once its clips are planned."""

from rollout_core.contract import ExplainRequest
from rollout_core.errors import TooMuchWork
from rollout_core.relevance.faithfulness import FILLS, RANDOM_ORDERS, STEPS
from worker.messages import Opened, Ready

SAFETY = 1.25
"""A job is refused if it takes this many times as long as it may: an estimate is not exact."""

SURE_SHARE = 0.5
"""Share of the measured time that a clip, or a forward, takes at least.

The model is measured once, as it is loaded, and the machine may have been busy then.
"""

FIXED_ORDERS = 2
"""Orders of the patches that are measured besides the random ones: most and least first."""


def check_work(
    request: ExplainRequest, model: Ready, opened: Opened, *, seconds_left: float
) -> None:
    """Check that a job can end in the time that is left for it.

    A batch counts as one clip, and every method as the default one: no job takes less.

    Raises:
        TooMuchWork: it cannot; the message has the numbers.
    """
    clips = opened.clips
    if request.faithfulness:
        clips += len(FILLS) * (FIXED_ORDERS + RANDOM_ORDERS) * (STEPS + 1)
    explain = clips * SURE_SHARE * model.clip_seconds / model.batch_clips
    needed = opened.media_seconds + explain
    if needed > SAFETY * seconds_left:
        raise TooMuchWork(
            f"decoding and drawing {opened.frames} frames of {opened.width}×{opened.height} takes "
            f"about {opened.media_seconds:.0f} s here, and running the model {clips} times takes "
            f"at least {explain:.0f} s, but {seconds_left:.0f} s are left. Ask for a shorter span, "
            "fewer clips, a lower overlay or none, or no preview"
        )
