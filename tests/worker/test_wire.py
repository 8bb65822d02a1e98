"""Messages and arrays over a real socket pair."""

import json
import pickle
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Thread

import numpy as np
import pytest

from worker import wire
from worker.messages import Clip, Explain, Explained, Open, Render, Rendered
from worker.wire import MAX_HEADER_BYTES, MAX_MESSAGE_BYTES, WireError

EXPLAINED = Explained(seconds=0.5)


@pytest.fixture
def pair() -> Iterator[tuple[Connection, Connection]]:
    left, right = Pipe()
    with left, right:
        yield left, right


def header(message: object = None, arrays: object = None) -> bytes:
    message = message or EXPLAINED.model_dump()
    return json.dumps({"message": message, "arrays": arrays or {}}).encode()


def send_until_closed(connection: Connection, data: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.send_bytes(data)


def test_message_without_arrays_arrives_unchanged(pair):
    left, right = pair
    wire.send(left, EXPLAINED)
    assert wire.receive(right) == (EXPLAINED, {})


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "float64"])
def test_arrays_arrive_with_values_shape_and_dtype(pair, dtype):
    left, right = pair
    sent = np.arange(2 * 3 * 5).reshape(2, 3, 5).astype(dtype)
    wire.send(left, EXPLAINED, first=sent, second=sent.T)
    _, arrays = wire.receive(right)
    assert list(arrays) == ["first", "second"]
    assert arrays["first"].dtype == dtype
    np.testing.assert_array_equal(arrays["first"], sent)
    np.testing.assert_array_equal(arrays["second"], sent.T)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)])
def test_scalar_and_empty_arrays_arrive(pair, shape):
    left, right = pair
    wire.send(left, EXPLAINED, array=np.ones(shape, np.float32))
    assert wire.receive(right)[1]["array"].shape == shape


def test_received_arrays_are_writable(pair):
    left, right = pair
    wire.send(left, EXPLAINED, array=np.zeros(4, np.uint8))
    wire.receive(right)[1]["array"][:] = 7


def test_arrays_larger_than_the_socket_buffer_arrive(pair):
    left, right = pair
    frames = np.random.default_rng(0).integers(0, 256, (1, 8, 448, 448, 3), np.uint8)
    sender = Thread(target=wire.send, args=(left, EXPLAINED), kwargs={"frames": frames})
    sender.start()
    _, arrays = wire.receive(right)
    sender.join()
    np.testing.assert_array_equal(arrays["frames"], frames)


def test_dtype_that_is_not_listed_is_not_sent(pair):
    with pytest.raises(ValueError, match="dtype"):
        wire.send(pair[0], EXPLAINED, array=np.array([object()]))


@pytest.mark.parametrize(
    "claim",
    [
        {"dtype": "object", "shape": [1]},
        {"dtype": "uint8", "shape": [-1]},
        {"dtype": "uint8", "shape": [-4, -4]},
        {"dtype": "uint8", "shape": [MAX_MESSAGE_BYTES + 1]},
        {"dtype": "float64", "shape": [1 << 40, 1 << 40]},
        {"dtype": "uint8", "shape": [0, 1 << 40]},
        {"dtype": "uint8", "shape": [0, 1 << 30, 1 << 30, 1 << 30]},
        {"dtype": "uint8", "shape": [1] * 7},
        {"dtype": "uint8", "shape": "4"},
        {"dtype": "uint8", "shape": [4], "strides": [1]},
    ],
)
def test_invalid_array_header_is_refused_before_the_array_is_read(pair, claim):
    left, right = pair
    left.send_bytes(header(arrays={"array": claim}))
    with pytest.raises(WireError):
        wire.receive(right)


def test_size_limit_counts_all_arrays_together(pair):
    left, right = pair
    half = {"dtype": "uint8", "shape": [51]}
    left.send_bytes(header(arrays={"one": half, "other": half}))
    with pytest.raises(WireError, match="more than 100 bytes"):
        wire.receive(right, max_bytes=100)


def test_error_does_not_repeat_what_was_sent(pair):
    left, right = pair
    left.send_bytes(header({"kind": "explained"} | {f"a\n{i}": "secret" for i in range(9999)}))
    with pytest.raises(WireError) as caught:
        wire.receive(right)
    assert len(str(caught.value)) < 100
    assert "secret" not in str(caught.value)


def test_fewer_bytes_than_in_the_header_are_refused(pair):
    left, right = pair
    left.send_bytes(header(arrays={"array": {"dtype": "float32", "shape": [4]}}))
    left.send_bytes(b"\0" * 15)
    with pytest.raises(WireError, match="needs 16 bytes, not 15"):
        wire.receive(right)


def test_more_bytes_than_in_the_header_are_refused(pair):
    left, right = pair
    left.send_bytes(header(arrays={"array": {"dtype": "float32", "shape": [4]}}))
    left.send_bytes(b"\0" * 17)
    with pytest.raises(OSError, match="bad message length"):
        wire.receive(right)


def test_header_that_is_too_long_is_refused(pair):
    left, right = pair
    sender = Thread(target=send_until_closed, args=(left, b" " * (MAX_HEADER_BYTES + 1)))
    sender.start()
    with pytest.raises(OSError, match="bad message length"):
        wire.receive(right)
    right.close()
    sender.join()


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"message": {"kind": "explained"}, "arrays": {}}',
        b'{"message": {"kind": "no such", "seconds": 1}, "arrays": {}}',
        b'{"message": {"kind": "explained", "seconds": 1, "more": 1}, "arrays": {}}',
        b'{"message": {"kind": "explained", "seconds": Infinity}, "arrays": {}}',
        pickle.dumps(EXPLAINED.model_dump()),
    ],
)
def test_invalid_message_is_refused(pair, frame):
    left, right = pair
    left.send_bytes(frame)
    with pytest.raises(WireError):
        wire.receive(right)


def test_closed_socket_raises_eof_error(pair):
    left, right = pair
    left.close()
    with pytest.raises(EOFError):
        wire.receive(right)


def test_order_of_the_expected_kind_is_received(pair):
    left, right = pair
    order = Explain()
    wire.send(left, order)
    assert wire.receive_order(right, Explain) == (order, {})


def test_order_of_another_kind_is_refused(pair):
    left, right = pair
    wire.send(left, Clip())
    with pytest.raises(WireError, match="expected Open or Render, not 'clip'"):
        wire.receive_order(right, Open, Render)


def test_no_order_after_the_supervisor_has_closed(pair):
    left, right = pair
    wire.send(left, Rendered(done=1, total=2, finished=False))
    left.close()
    assert wire.receive_order(right, Rendered) is not None
    assert wire.receive_order(right, Rendered) is None
