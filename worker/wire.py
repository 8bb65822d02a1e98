"""Messages and arrays over a socket between two processes, one of which may be compromised.

A message is one frame of JSON, `{"message": …, "arrays": {name: {"dtype", "shape"}}}`, followed
by one frame of raw bytes for each array. Pickle is never used. The sizes in the header are checked
before an array is received.
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
"""Most bytes of a message's arrays, together."""

Arrays = dict[str, NDArray[Any]]
"""Arrays by name, as they belong to a message."""

M = TypeVar("M", bound=AnyMessage)


class WireError(Exception):
    """The other process sent something that is not a valid message."""


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
    """Send a message with its arrays.

    Raises:
        ValidationError: an array has a dtype that is not allowed.
        OSError: the other side has closed.
    """
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
    """Receive a message with its arrays.

    Args:
        max_bytes: most bytes of the arrays, together.

    Raises:
        EOFError: the other side has closed.
        OSError: it closed within a message, or sent a frame that is too long.
        WireError: it sent something that is not a valid message.
    """
    try:
        header = _Header.model_validate_json(connection.recv_bytes(MAX_HEADER_BYTES))
    except ValidationError as error:
        # Name the type only: the full text repeats what was sent, at any length.
        raise WireError(f"sent an invalid header: {error.errors()[0]['type']}") from error
    if sum(array.nbytes for array in header.arrays.values()) > max_bytes:
        raise WireError(f"sent more than {max_bytes} bytes at once")
    arrays = {name: _receive_array(connection, claim) for name, claim in header.arrays.items()}
    return header.message, arrays


def receive_order(connection: Connection, *kinds: type[M]) -> tuple[M, Arrays] | None:
    """Receive an order in a child; return None if the supervisor has closed the socket.

    Raises:
        WireError: it is not a valid message, or of none of the `kinds`.
    """
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
        # An array with a 0 in its shape has no bytes, but numpy limits its other sizes too.
        raise WireError(f"an array of {claim.dtype} {claim.shape} is too large")
    data = connection.recv_bytes(claim.nbytes)
    if len(data) != claim.nbytes:
        raise WireError(f"{claim.dtype} {claim.shape} needs {claim.nbytes} bytes, not {len(data)}")
    return np.frombuffer(data, claim.dtype).reshape(claim.shape).copy()
