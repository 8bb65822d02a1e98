"""Serve loop of every engine: load a model, then answer orders until the supervisor closes."""

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rollout_core.errors import RolloutError
from rollout_core.model.specs import ModelSpec
from worker import wire
from worker.messages import (
    Explain,
    Explained,
    Failed,
    Perturb,
    Perturbed,
    Ready,
)
from worker.wire import Arrays


class LoadedEngine(Protocol):
    """A model in memory, ready to explain.

    Both methods raise InvalidRequest if the model cannot meet the request, and OutOfMemory if
    the clips do not fit into memory.
    """

    @property
    def ready(self) -> Ready:
        """The message that describes the model to the supervisor."""

    def explain(self, frames: NDArray[np.uint8], request: Explain) -> Arrays:
        """Return the arrays of `Explained` for frames `b t H W c`."""

    def perturb(
        self, frames: NDArray[np.uint8], order: NDArray[np.int64], request: Perturb
    ) -> NDArray[np.float32]:
        """Return the probabilities of `Perturbed` for frames `1 t H W c` and patches `p`."""


def warm_up(explain: Callable[[NDArray[np.uint8], Explain], object], spec: ModelSpec) -> float:
    """Explain a blank clip twice; return the seconds of the second call, without start-up."""
    frames = np.zeros((1, spec.frames, spec.height, spec.width, 3), np.uint8)
    explain(frames, Explain())
    began = time.monotonic()
    explain(frames, Explain())
    return time.monotonic() - began


def serve(connection: Connection, load: Callable[[], LoadedEngine]) -> None:
    """Load the model and send `Ready`, then answer each `Explain` and `Perturb`.

    If the model cannot be loaded, send `Failed` and return. A request that fails is answered with
    `Failed`, and the loop continues.
    """
    try:
        engine = load()
    except RolloutError as error:
        wire.send(connection, Failed.of(error))
        return
    except Exception as error:  # whatever it is, the worker ends with one line
        wire.send(connection, Failed.of(RolloutError(f"{type(error).__name__}: {error}")))
        return
    wire.send(connection, engine.ready)
    while (received := _next_order(connection)) is not None:
        try:
            answer, arrays = _answer(engine, *received)
        except RolloutError as error:
            wire.send(connection, Failed.of(error))
        else:
            wire.send(connection, answer, **arrays)


def _next_order(connection: Connection) -> tuple[Explain | Perturb, Arrays] | None:
    return wire.receive_order(connection, Explain, Perturb)


def _answer(
    engine: LoadedEngine, order: Explain | Perturb, arrays: Arrays
) -> tuple[Explained | Perturbed, Arrays]:
    began = time.monotonic()
    if isinstance(order, Perturb):
        probabilities = engine.perturb(arrays["frames"], arrays["order"], order)
        return Perturbed(seconds=time.monotonic() - began), {"probabilities": probabilities}
    explained = engine.explain(arrays["frames"], order)
    return Explained(seconds=time.monotonic() - began), explained
