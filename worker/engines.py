"""What every engine does: load a model, then explain clips until the supervisor leaves."""

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rollout_core.errors import CheckpointError, RolloutError
from worker import wire
from worker.messages import Explain, Explained, Failed, Ready


class LoadedEngine(Protocol):
    """A model in memory, ready to explain."""

    @property
    def ready(self) -> Ready:
        """What to tell the supervisor of the model."""

    def explain(
        self, frames: NDArray[np.uint8], request: Explain
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return relevance `b t h w` and logits `b k` of frames `b t H W c`.

        Raises:
            InvalidRequest: the model cannot do what is asked.
            OutOfMemory: the clips do not fit.
        """


def serve(connection: Connection, load: Callable[[], LoadedEngine]) -> None:
    """Load, say `Ready` (or `Failed`, and leave), then answer every `Explain`."""
    try:
        engine = load()
    except RolloutError as error:
        wire.send(connection, Failed.of(error))
        return
    except (OSError, RuntimeError) as error:
        wire.send(connection, Failed.of(CheckpointError(f"{type(error).__name__}: {error}")))
        return
    wire.send(connection, engine.ready)
    while (received := wire.receive_order(connection, Explain)) is not None:
        request, arrays = received
        began = time.monotonic()
        try:
            relevance, logits = engine.explain(arrays["frames"], request)
        except RolloutError as error:
            wire.send(connection, Failed.of(error))
            continue
        answer = Explained(seconds=time.monotonic() - began)
        wire.send(connection, answer, relevance=relevance, logits=logits)
