"""Messages and arrays over a socket between two processes, of which one may be hostile.

A message is one frame of JSON, `{"message": …, "arrays": {name: {"dtype", "shape"}}}`, followed
by one frame of raw bytes an array. Nothing is ever pickled: frames are sent and received as
bytes, and what a header claims is checked before a byte is believed.
"""

import math
from multiprocessing.connection import Connection
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, ValidationError

from rollout_core.contract import Frozen
from worker.messages import AnyMessage, Message

MAX_HEADER_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 1 << 30

Arrays = dict[str, NDArray[Any]]
M = TypeVar("M", bound=AnyMessage)


class WireError(Exception):
    """What came over the wire is not a message."""


class _Array(Frozen):
    dtype: Literal["uint8", "int64", "float16", "float32", "float64"]
    shape: tuple[NonNegativeInt, ...] = Field(max_length=6)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class _Header(Frozen):
    message: Message
    arrays: dict[str, _Array] = Field(max_length=8)


def send(connection: Connection, message: Message, **arrays: NDArray[Any]) -> None:
    """Send a message and the arrays that go with it."""
    described = {
        name: _Array.model_validate({"dtype": array.dtype.name, "shape": array.shape})
        for name, array in arrays.items()
    }
    header = _Header(message=message, arrays=described)
    connection.send_bytes(header.model_dump_json().encode())
    for array in arrays.values():
        connection.send_bytes(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def receive(
    connection: Connection, *, max_bytes: int = MAX_MESSAGE_BYTES
) -> tuple[Message, Arrays]:
    """Receive a message and the arrays that go with it, all together of up to `max_bytes`.

    Raises:
        EOFError: the other side has closed.
        OSError: it went away in the middle, sent too much, or has stopped sending.
        WireError: what it sent is not a message.
    """
    try:
        header = _Header.model_validate_json(connection.recv_bytes(MAX_HEADER_BYTES))
    except ValidationError as error:
        # No more of it: what was sent may be in there, at any length.
        raise WireError(f"sent no header: {error.errors()[0]['type']}") from error
    if sum(array.nbytes for array in header.arrays.values()) > max_bytes:
        raise WireError(f"sent more than {max_bytes} bytes at once")
    arrays = {name: _receive_array(connection, claim) for name, claim in header.arrays.items()}
    return header.message, arrays


def receive_order(connection: Connection, *kinds: type[M]) -> tuple[M, Arrays] | None:
    """Receive as a child does: a message of those kinds, or None once the supervisor has left."""
    try:
        message, arrays = receive(connection)
    except (EOFError, ConnectionResetError):
        return None
    if not isinstance(message, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise WireError(f"expected {expected}, not {message.kind!r}")
    return message, arrays


def _receive_array(connection: Connection, claim: _Array) -> NDArray[Any]:
    if math.prod(size or 1 for size in claim.shape) > MAX_MESSAGE_BYTES:
        # numpy bounds sizes beside a 0, too
        raise WireError(f"an array of {claim.dtype} {claim.shape} is not acceptable")
    data = connection.recv_bytes(claim.nbytes)
    if len(data) != claim.nbytes:
        raise WireError(f"{claim.dtype} {claim.shape} needs {claim.nbytes} bytes, not {len(data)}")
    return np.frombuffer(data, claim.dtype).reshape(claim.shape).copy()
