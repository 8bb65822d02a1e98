import asyncio

import pytest

from rollout_core.client.transport import Server, iterate_at_once, run_at_once


def test_a_coroutine_that_does_not_suspend_is_run_to_its_end():
    async def inner():
        return 3

    async def outer():
        return await inner() + 1

    assert run_at_once(outer()) == 4


def test_a_coroutine_that_suspends_is_our_bug():
    with pytest.raises(RuntimeError, match="has suspended"):
        run_at_once(asyncio.sleep(0))


def test_an_abandoned_generator_is_closed():
    closed = []

    async def numbers():
        try:
            for number in range(9):
                yield number
        finally:
            closed.append(True)

    values = iterate_at_once(numbers())
    assert next(values) == 0
    values.close()
    assert closed == [True]
    assert list(iterate_at_once(numbers())) == list(range(9))


def test_a_server_does_not_show_its_key():
    assert "secret" not in repr(Server("http://host", "secret"))
