"""Refuses a job whose plan takes too much time or memory, once its clips are planned."""

from dataclasses import dataclass

from rollout_core.contract import ExplainRequest
from rollout_core.errors import TooMuchWork
from rollout_core.relevance.faithfulness import FILLS, RANDOM_ORDERS, STEPS
from rollout_core.work import DEFAULT_ARRAY_BYTES, check_array_bytes, work_of
from worker.messages import Opened, Ready

SAFETY = 1.25
"""A job is refused if it takes this many times as long as it may: an estimate is not exact."""

SURE_SHARE = 0.5
"""Share of the measured time that a clip, or a forward, takes at least.

The model is measured once, as it is loaded, and the machine may have been busy then.
"""

FIXED_ORDERS = 2
"""Orders of the patches that are measured besides the random ones: most and least first."""


@dataclass(frozen=True, kw_only=True)
class WorkLimits:
    """What a worker allows a job.

    Attributes:
        max_forwards: of the model, on a clip each; None: what the deadline allows.
        max_array_bytes: of the arrays of its result, before compression.
    """

    max_forwards: int | None = None
    max_array_bytes: int = DEFAULT_ARRAY_BYTES


DEFAULT_LIMITS = WorkLimits()


def check_work(
    request: ExplainRequest,
    model: Ready,
    opened: Opened,
    limits: WorkLimits,
    *,
    seconds_left: float,
) -> None:
    """Check that a job is within the limits, and can end in the time that is left for it.

    For the time, a batch counts as one clip, and every method as the default one: no job takes
    less.

    Raises:
        TooMuchWork: it cannot; the message has the numbers.
    """
    work = work_of(request, model.spec, opened.clips)
    check_array_bytes(work, limits.max_array_bytes)
    measured = 0
    if request.faithfulness:
        measured = len(FILLS) * (FIXED_ORDERS + RANDOM_ORDERS) * (STEPS + 1)
    _check_forwards(work.forwards + measured, opened.clips, limits.max_forwards)
    _check_time(opened, model, opened.clips + measured, seconds_left)


def _check_forwards(forwards: int, clips: int, most: int | None) -> None:
    if most is not None and forwards > most:
        raise TooMuchWork(
            f"{clips} clips take {forwards} forwards of the model; {most} are allowed. Ask for a "
            "shorter span, fewer clips, another method or no faithfulness"
        )


def _check_time(opened: Opened, model: Ready, clips: int, seconds_left: float) -> None:
    explain = clips * SURE_SHARE * model.clip_seconds / model.batch_clips
    needed = opened.media_seconds + explain
    if needed > SAFETY * seconds_left:
        raise TooMuchWork(
            f"decoding and drawing {opened.frames} frames of {opened.width}×{opened.height} takes "
            f"about {opened.media_seconds:.0f} s here, and running the model {clips} times takes "
            f"at least {explain:.0f} s, but {seconds_left:.0f} s are left. Ask for a shorter span, "
            "fewer clips, a lower overlay or none, or no preview"
        )
