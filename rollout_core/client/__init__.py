"""Clients of the HTTP API: `RolloutClient`, `AsyncRolloutClient`, and the command `rollout-client`.

Needs the base installation only: no torch, no decoder, no FastAPI.
"""

from rollout_core.client.clients import AsyncRolloutClient, RolloutClient
from rollout_core.client.errors import (
    ClientError,
    DamagedTransfer,
    FieldFault,
    NoResult,
    RolloutApiError,
    RolloutConnectionError,
    WaitTimeout,
)
from rollout_core.client.following import JobEvent
from rollout_core.client.retries import Retries

__all__ = [
    "AsyncRolloutClient",
    "ClientError",
    "DamagedTransfer",
    "FieldFault",
    "JobEvent",
    "NoResult",
    "Retries",
    "RolloutApiError",
    "RolloutClient",
    "RolloutConnectionError",
    "WaitTimeout",
]
