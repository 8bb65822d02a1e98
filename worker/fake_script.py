"""Carries out what a request tells the fake engine to do: see `FakeScript` in the contract.

    attempt ──▶ take the time ──▶ fail for the video ──▶ open it ──▶ crash, hang, fail or explain

The time passes here, in the supervisor, so that a job can be canceled meanwhile. The engine itself
crashes and hangs, so that what follows is the same as for a real one.
"""

import time
from typing import Literal

from rollout_core import errors
from rollout_core.contract import ExplainRequest, FailureCode, FakeScript
from rollout_core.errors import RolloutError
from rollout_core.resolve import refuse_script
from worker.child import TICK_SECONDS
from worker.heartbeat import Heartbeat

VIDEO_PREFIX = "video_"
"""Failures with such a code are found before a clip is explained."""

PROGRESS_STEPS = 100
"""Steps of progress while the time passes."""

NO_SCRIPT = FakeScript()

Misbehaviour = Literal["crash", "hang"]

_BY_CODE = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, RolloutError)
}


def script_of(request: ExplainRequest, engine: str) -> FakeScript:
    """Return the script of a request, an empty one if it has none.

    Raises:
        InvalidRequest: it has one, but the engine is real.
    """
    if engine != "fake":
        refuse_script(request)
    return request.fake or NO_SCRIPT


def misbehaviour(script: FakeScript, attempt: int) -> Misbehaviour | None:
    """Return what the engine does in an attempt, counted from 1, instead of answering."""
    if attempt <= script.crash_attempts:
        return "crash"
    return "hang" if attempt <= script.crash_attempts + script.hang_attempts else None


def take_time(script: FakeScript, heartbeat: Heartbeat) -> None:
    """Wait for the script's time, and report progress; `heartbeat` may raise."""
    began = time.monotonic()
    while (spent := time.monotonic() - began) < script.seconds:
        heartbeat.advance("decode", int(PROGRESS_STEPS * spent / script.seconds), PROGRESS_STEPS)
        heartbeat()
        time.sleep(min(TICK_SECONDS, script.seconds - spent))


def fail_for_video(script: FakeScript) -> None:
    """Raise the script's failure if it is one of the video."""
    if script.fail is not None and script.fail.startswith(VIDEO_PREFIX):
        raise failure(script.fail)


def fail_for_engine(script: FakeScript) -> None:
    """Raise the script's failure, if there is one."""
    if script.fail is not None:
        raise failure(script.fail)


def failure(code: FailureCode) -> RolloutError:
    """Return the error that has a code, with the title that clients know."""
    return _BY_CODE[code]("the request asked the fake engine for this failure")
