import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from service.chores import repeating


class Chore:
    """Fails at first, in the way that it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.runs = 0
        self._error = error

    def __call__(self) -> None:
        self.runs += 1
        if self._error and self.runs == 1:
            raise self._error


def run(*chores: Chore, until: int = 3) -> None:
    async def watch() -> None:
        async with repeating(*((chore, 0.001) for chore in chores)):
            while any(chore.runs < until for chore in chores):
                await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(watch(), 10))


def test_every_chore_is_done_time_and_again_until_the_end():
    chores = Chore(), Chore()
    run(*chores)
    runs = [chore.runs for chore in chores]
    assert min(runs) >= 3
    assert [chore.runs for chore in chores] == runs


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (RedisConnectionError("away"), "WARNING"),
        (OSError(28, "No space left on device"), "WARNING"),
        (ZeroDivisionError("a bug"), "ERROR"),
    ],
)
def test_one_that_fails_is_logged_and_tried_again(error, level, caplog):
    run(Chore(error), Chore())
    assert [record.levelname for record in caplog.records] == [level]
    assert ("Traceback" in caplog.text) == (level == "ERROR")
    assert str(error) in caplog.text
