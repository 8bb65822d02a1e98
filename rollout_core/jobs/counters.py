"""What a worker has counted since it started; it announces this for the metrics of the service.

A worker's network is closed, so nothing can ask it. What it has counted travels in its
announcement, and the service tells it at `/metrics`.
"""

from typing import Annotated

from pydantic import Field

from rollout_core.contract import Frozen

STAGES = ("wait", "open", "decode", "explain", "faithfulness", "render", "save")
"""The stages of an attempt. Each moment of an attempt belongs to one of them."""

CHILDREN = ("engine", "media", "template")
"""The children of a worker that are replaced when they break."""

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class StageSum(Frozen):
    """A stage of all attempts that went through it."""

    attempts: Count = 0
    seconds: Seconds = 0.0


class WorkerCounters(Frozen):
    """What a worker has counted since its process started. Nothing here ever decreases."""

    attempts: Count = Field(0, description="Attempts that have begun.")
    jobs: dict[str, Count] = Field({}, description="Jobs that it has ended, by state.")
    restarts: dict[str, Count] = Field({}, description="Children that broke or were killed.")
    stages: dict[str, StageSum] = Field({}, description="Of attempts that are over, by stage.")
    clips: Count = Field(0, description="Clips that the engine has explained.")
    explain_seconds: Seconds = Field(0.0, description="In which it did so.")
    engine_seconds: Seconds = Field(0.0, description="In which the engine computed anything.")
